//! Whether two runs agree within the spreads that they print.

use std::path::Path;

use serde_json::Value;
use solocron_benches::{Table, round};

/// A ratio of a report: median, least, most.
type Figures = [f64; 3];

/// Compares the reports of two runs. The table names every ratio on which they differ; its number comes first, then how many there are.
///
/// # Errors
///
/// Which file is no report.
pub(crate) fn check(first: &Path, second: &Path) -> Result<(usize, usize, Table), String> {
    let (first, second) = (ratios(&read(first)?, first)?, ratios(&read(second)?, second)?);
    let mut table = Table::new(&["ratio", "first", "second"]);
    let (mut differ, mut common) = (0, 0);
    for (what, one) in &first {
        let Some((_, other)) = second.iter().find(|(other, _)| other == what) else { continue };
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
    Ok((differ, common, table))
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
    fn what_differs_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, value: &Value| {
            let path = dir.path().join(name);
            std::fs::write(&path, value.to_string()).expect("it is written");
            path
        };
        let report = |figure: f64| {
            json!({ "ratios": [
                { "what": "same", "median": 1.0, "least": 0.9, "most": 1.1 },
                { "what": "other", "median": figure, "least": figure, "most": figure },
            ] })
        };
        let (one, two) = (put("1", &report(1.0)), put("2", &report(2.0)));
        let (differ, common, table) = check(&one, &two).unwrap();
        assert_eq!((differ, common), (1, 2));
        assert!(table.to_string().contains("other") && !table.to_string().contains("same"));
        assert_eq!(check(&one, &one).unwrap().0, 0);

        let none = put("3", &json!({ "ratios": [] }));
        assert!(check(&one, &none).unwrap_err().contains("in common"));
        let wrong = put("4", &json!([]));
        assert!(check(&one, &wrong).unwrap_err().contains("not a contention.json"));
        assert!(check(&one, &dir.path().join("5")).unwrap_err().contains("/5"));
    }
}
