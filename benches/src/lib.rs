//! What the runners share: one measurement per process, several rounds side by side, medians and their spread.

pub mod plot;

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Figures of one measurement, repeated.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub fn push(&mut self, figure: f64) {
        if figure.is_finite() {
            self.0.push(figure);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order they came in.
    #[must_use]
    pub fn figures(&self) -> &[f64] {
        &self.0
    }

    /// The smallest figure that `share` of them do not exceed; `None` where there is none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        #[expect(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "within the slice"
        )]
        sorted.get((share * last as f64).round() as usize).copied()
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// The middle one and how far the middle half of them lies apart, as text.
    #[must_use]
    pub fn show(&self) -> String {
        match (self.median(), self.quantile(0.25), self.quantile(0.75)) {
            (Some(median), Some(low), Some(high)) => {
                format!("{} [{}..{}]", round(median), round(low), round(high))
            }
            _ => "–".into(),
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut samples = Self::default();
        figures.into_iter().for_each(|figure| samples.push(figure));
        samples
    }
}

/// Three significant digits.
#[must_use]
pub fn round(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".into(),
        big if big >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        small if small >= 1.0 => format!("{figure:.2}"),
        tiny => {
            #[expect(
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                reason = "a handful"
            )]
            let digits = (2.0 - tiny.log10().floor()).min(9.0) as usize;
            format!("{figure:.digits$}")
        }
    }
}

/// Runs this very program again with `arguments` and reads the JSON that it prints, so that no measurement sees what another left in
/// its allocator, its threads or its processor time.
///
/// # Errors
///
/// What went wrong, with what it said; also where it takes longer than `limit`.
pub fn measure(arguments: &[String], limit: Duration) -> Result<Value, String> {
    let doing = || format!("measure {}", arguments.join(" "));
    let program = std::env::current_exe().map_err(|error| format!("{}: {error}", doing()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", doing()))?;
    let begun = Instant::now();
    while begun.elapsed() < limit {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(format!("{}: {error}", doing())),
        }
    }
    if begun.elapsed() >= limit {
        drop(child.kill());
        drop(child.wait());
        return Err(format!("{}: took longer than {limit:?}", doing()));
    }
    let output = child.wait_with_output().map_err(|error| format!("{}: {error}", doing()))?;
    if !output.status.success() {
        return Err(format!("{}: {}", doing(), output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| format!("{}: {error} in {last:?}", doing()))
}

/// A table in Markdown.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        for (at, row) in self.rows.iter().enumerate() {
            let mut line = String::from("|");
            for column in 0..columns {
                let cell = row.get(column).map_or("", String::as_str);
                let pad = width(column).unwrap_or(0) - cell.chars().count();
                write!(line, " {cell}{} |", " ".repeat(pad))?;
            }
            writeln!(f, "{line}")?;
            if at == 0 {
                let rule = (0..columns).map(|column| "-".repeat(width(column).unwrap_or(0) + 2));
                writeln!(f, "|{}|", rule.collect::<Vec<_>>().join("|"))?;
            }
        }
        Ok(())
    }
}

/// The machine a figure was measured on, for the head of a report.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = read("/proc/cpuinfo");
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name))
        .unwrap_or("unknown processor");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let system = read("/proc/sys/kernel/osrelease");
    format!("{cpus} cores of {model}, Linux {}, load {load} at the start", system.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_has_as_many_figures_below_as_above() {
        let samples: Samples = [5.0, 1.0, 3.0, f64::NAN].into_iter().collect();
        assert_eq!(samples.median(), Some(3.0));
        assert_eq!(samples.len(), 3);
        assert_eq!(Samples::default().median(), None);
    }

    #[test]
    fn figures_show_three_digits() {
        let shown: Vec<_> = [0.0, 0.001_234, 0.5, 1.234, 12.34, 1234.5].map(round).into();
        assert_eq!(shown, ["0", "0.00123", "0.500", "1.23", "12.3", "1234"]);
    }
}
