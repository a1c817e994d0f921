//! Plots of what the runners measured, as SVG, on logarithmic scales: figures that are compared by their ratio.

use std::path::Path;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::round;

/// One row of [`ranges`].
#[derive(Debug, Clone)]
pub struct Range {
    /// What was measured.
    pub label: String,
    /// From the middle figure on: what is drawn largest.
    pub from: f64,
    /// To the extreme one.
    pub to: f64,
    /// Ours are drawn in another colour.
    pub ours: bool,
}

/// A row for each of `rows`: a dot at `from`, a line to `to`. Rows that are no positive numbers are left out; without any row there is
/// no plot.
///
/// # Errors
///
/// What could not be drawn or written, and where.
pub fn ranges(path: &Path, title: &str, unit: &str, rows: &[Range]) -> Result<(), String> {
    let drawn = |row: &&Range| row.from > 0.0 && row.to.is_finite() && row.to >= row.from;
    let rows: Vec<_> = rows.iter().filter(drawn).collect();
    let least = rows.iter().map(|row| row.from).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|row| row.to).fold(0.0, f64::max);
    if rows.is_empty() {
        return Ok(());
    }
    let height = u32::try_from(rows.len()).unwrap_or(u32::MAX).saturating_mul(22) + 90;
    let root = SVGBackend::new(path, (900, height)).into_drawing_area();
    draw(&root, title, unit, &rows, least / 1.5..most * 1.5)
        .map_err(|error| format!("draw {}: {error}", path.display()))
}

fn draw<'a>(
    root: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    title: &str,
    unit: &str,
    rows: &[&Range],
    span: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(root)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(230)
        .build_cartesian_2d(span.log_scale(), Rows(rows.len()))?;
    let label = |row: &usize| rows.get(*row).map_or(String::new(), |row| row.label.clone());
    chart
        .configure_mesh()
        .x_desc(unit)
        .x_label_formatter(&|figure| round(*figure))
        .y_label_formatter(&label)
        .y_labels(rows.len())
        .light_line_style(WHITE)
        .draw()?;
    for (at, row) in rows.iter().enumerate() {
        let colour = if row.ours { RGBColor(200, 60, 30) } else { RGBColor(70, 90, 120) };
        let line = vec![(row.from, at), (row.to, at)];
        chart.draw_series([PathElement::new(line, colour.stroke_width(2))])?;
        chart.draw_series([Circle::new((row.from, at), 4, colour.filled())])?;
    }
    Ok(root.present()?)
}

/// Rows from the top to the bottom, each with a label.
struct Rows(usize);

impl Ranged for Rows {
    type FormatOption = NoDefaultFormatting;
    type ValueType = usize;

    fn map(&self, row: &usize, (top, bottom): (i32, i32)) -> i32 {
        // An axis grows upwards; a list is read downwards.
        let share = 1.0 - (*row as f64 + 0.5) / self.0 as f64;
        #[expect(clippy::cast_possible_truncation, reason = "within the picture")]
        let offset = (f64::from(bottom - top) * share) as i32;
        top + offset
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<usize> {
        (0..self.0).collect()
    }

    fn range(&self) -> std::ops::Range<usize> {
        0..self.0
    }
}

impl ValueFormatter<usize> for Rows {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_a_row_for_every_figure_that_there_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plot.svg");
        let row = |label: &str, from: f64, to: f64| Range {
            label: label.into(),
            from,
            to,
            ours: label == "ours",
        };
        let rows = [row("ours", 0.1, 2.0), row("theirs", 3.0, 300.0), row("nobody", f64::NAN, 1.0)];
        ranges(&path, "hand-over", "ms", &rows).expect("it is drawn");
        let drawn = std::fs::read_to_string(&path).expect("it is written");
        assert!(drawn.contains("ours") && drawn.contains("theirs") && !drawn.contains("nobody"));
        assert_eq!(drawn.matches("<circle").count(), 2);
    }

    #[test]
    fn without_figures_there_is_no_plot() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plot.svg");
        ranges(&path, "nothing", "ms", &[]).expect("nothing to do");
        assert!(!path.exists());
    }

    #[test]
    fn a_plot_that_cannot_be_written_is_an_error_that_names_it() {
        let path = Path::new("/nonexistent/plot.svg");
        let rows = [Range { label: "a".into(), from: 1.0, to: 2.0, ours: true }];
        assert!(ranges(path, "a", "ms", &rows).unwrap_err().contains("/nonexistent/plot.svg"));
    }
}
