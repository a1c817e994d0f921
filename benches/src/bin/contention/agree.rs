//! Whether two runs agree within the spreads that they print.

use std::path::Path;

use serde_json::Value;
use solocron_benches::{Table, round};

/// A ratio of a report: median, least, most.
type Figures = [f64; 3];

/// Two runs, compared.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Ratios that both have.
    pub(crate) common: usize,
    /// Those on which they differ by more than both spreads.
    pub(crate) differ: usize,
    /// How many of them would by chance alone, were the two runs one.
    pub(crate) by_chance: f64,
    /// Every ratio on which they differ.
    pub(crate) table: Table,
}

impl Comparison {
    /// Whether chance explains what differs: no more than three standard deviations above what it is expected to.
    pub(crate) fn agrees(&self) -> bool {
        self.differ as f64 <= self.by_chance + 3.0 * self.by_chance.sqrt()
    }
}

/// Compares the reports of two runs.
///
/// # Errors
///
/// Which file is no report.
pub(crate) fn check(first: &Path, second: &Path) -> Result<Comparison, String> {
    let (one, other) = (read(first)?, read(second)?);
    let chance = chance(rounds(&one, first)?, rounds(&other, second)?);
    let (one, other) = (ratios(&one, first)?, ratios(&other, second)?);
    let mut table = Table::new(&["ratio", "first", "second"]);
    let (mut differ, mut common) = (0, 0);
    for (what, one) in &one {
        let Some((_, other)) = other.iter().find(|(other, _)| other == what) else { continue };
        common += 1;
        if !agree(one, other) {
            differ += 1;
            let show = |[median, low, high]: &Figures| {
                format!("{} [{}..{}]", round(*median), round(*low), round(*high))
            };
            table.row([what.clone(), show(one), show(other)]);
        }
    }
    if common == 0 {
        return Err("the two reports have no ratio in common".into());
    }
    Ok(Comparison { common, differ, by_chance: chance * common as f64, table })
}

/// How probable it is that the ranges of so many and so many figures from one source do not meet: all of the one below all of the
/// other, or above, is 2 of the (n + m)! / (n! m!) orders in which they may come.
fn chance(one: u64, other: u64) -> f64 {
    let orders = (1..=one).fold(1.0, |orders, n| orders * (other + n) as f64 / n as f64);
    2.0 / orders
}

/// Two ranges agree where they meet.
fn agree([_, low, high]: &Figures, [_, other_low, other_high]: &Figures) -> bool {
    low <= other_high && other_low <= high
}

fn read(path: &Path) -> Result<Value, String> {
    let doing = |error: &dyn std::fmt::Display| format!("read {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| doing(&error))?;
    serde_json::from_str(&text).map_err(|error| doing(&error))
}

fn rounds(report: &Value, path: &Path) -> Result<u64, String> {
    let none = || format!("{}: not a contention.json: it has no rounds", path.display());
    report["rounds"].as_u64().filter(|rounds| *rounds > 0).ok_or_else(none)
}

fn ratios(report: &Value, path: &Path) -> Result<Vec<(String, Figures)>, String> {
    let none = || format!("{}: not a contention.json: it has no ratios", path.display());
    let ratio = |ratio: &Value| {
        let figure = |name: &str| ratio[name].as_f64();
        Some((
            ratio["what"].as_str()?.to_owned(),
            [figure("median")?, figure("least")?, figure("most")?],
        ))
    };
    let ratios = report["ratios"].as_array().ok_or_else(none)?;
    ratios.iter().map(ratio).collect::<Option<Vec<_>>>().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_agree_where_they_meet() {
        assert!(agree(&[2.0, 1.0, 3.0], &[3.5, 3.0, 4.0]));
        assert!(agree(&[2.0, 1.0, 9.0], &[3.0, 3.0, 3.0]));
        assert!(!agree(&[2.0, 1.0, 3.0], &[4.0, 3.1, 5.0]));
        assert!(!agree(&[4.0, 3.1, 5.0], &[2.0, 1.0, 3.0]));
    }

    #[test]
    fn ranges_of_one_source_seldom_miss_each_other() {
        assert!((chance(5, 5) - 2.0 / 252.0).abs() < 1e-12);
        assert!((chance(1, 1) - 1.0).abs() < 1e-12, "single figures always do");
        assert!((chance(3, 5) - chance(5, 3)).abs() < 1e-12);
        let of =
            |differ| Comparison { common: 88, differ, by_chance: 0.7, table: Table::default() };
        assert!(of(3).agrees() && !of(4).agrees());
    }

    #[test]
    fn what_differs_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, value: &Value| {
            let path = dir.path().join(name);
            std::fs::write(&path, value.to_string()).expect("it is written");
            path
        };
        let report = |figure: f64| {
            json!({ "rounds": 5, "ratios": [
                { "what": "same", "median": 1.0, "least": 0.9, "most": 1.1 },
                { "what": "other", "median": figure, "least": figure, "most": figure },
            ] })
        };
        let (one, two) = (put("1", &report(1.0)), put("2", &report(2.0)));
        let compared = check(&one, &two).unwrap();
        assert_eq!((compared.differ, compared.common), (1, 2));
        let table = compared.table.to_string();
        assert!(table.contains("other") && !table.contains("same"));
        assert!(!compared.agrees(), "one of two is too many");
        let same = check(&one, &one).unwrap();
        assert!(same.differ == 0 && same.agrees());

        let none = put("3", &json!({ "rounds": 5, "ratios": [] }));
        assert!(check(&one, &none).unwrap_err().contains("in common"));
        let wrong = put("4", &json!([]));
        assert!(check(&one, &wrong).unwrap_err().contains("not a contention.json"));
        assert!(check(&one, &dir.path().join("5")).unwrap_err().contains("/5"));
    }
}
