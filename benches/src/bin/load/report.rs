//! Tables, JSON and plots of what was measured.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use solocron_benches::plot::{Range, ranges};
use solocron_benches::{Samples, Table, round};

use crate::cell::{Cell, Subject, What};
use crate::options::Options;
use crate::rounds::Measured;

pub(crate) struct Report<'a>(&'a Measured);

/// How much of the floor's figure: the middle of what each round says, since a round's figures share what else the machine did.
fn ratios(ours: &Samples, floor: &Samples) -> Samples {
    let pairs = ours.figures().iter().zip(floor.figures());
    pairs.filter(|(_, floor)| **floor > 0.0).map(|(ours, floor)| ours / floor).collect()
}

impl<'a> Report<'a> {
    pub(crate) fn of(measured: &'a Measured) -> Self {
        Self(measured)
    }

    fn of_kind(&self, what: What) -> impl Iterator<Item = (Cell, Subject)> + '_ {
        let cells = self.0.cells.iter().copied().filter(move |cell| cell.what == what);
        let rows = cells.flat_map(|cell| Subject::ALL.map(move |subject| (cell, subject)));
        rows.filter(|row| self.0.figures.contains_key(row))
    }

    fn show(&self, (cell, subject): (Cell, Subject), name: &str) -> String {
        self.0.samples(cell, subject, name).show()
    }

    fn to_floor(&self, (cell, subject): (Cell, Subject), name: &str) -> Samples {
        let of = |subject| self.0.samples(cell, subject, name);
        ratios(&of(subject), &of(Subject::Floor))
    }

    fn added(&self) -> Table {
        let mut table = Table::new(&[
            "added, due once a year",
            "jobs",
            "ms",
            "CPU ms",
            "RSS, bytes a job",
            "RSS running, with the store",
            "idle CPU %",
        ]);
        for row in self.of_kind(What::Add) {
            let figures =
                ["add_ms", "add_cpu_ms", "resident_added", "resident_running", "idle_percent"];
            // Of one job, that is the size of a process.
            let shown = figures.map(|name| match (row.0.jobs, name.starts_with("resident")) {
                (..100, true) => "–".into(),
                _ => self.show(row, name),
            });
            table.row([row.1.name().into(), row.0.jobs.to_string()].into_iter().chain(shown));
        }
        table
    }

    fn weighed(&self) -> Table {
        let mut table = Table::new(&[
            "allocated, without the store",
            "jobs",
            "bytes a job, added",
            "running",
            "at most, meanwhile",
            "allocations a job",
        ]);
        for row in self.of_kind(What::Weigh) {
            let figures = ["bytes_added", "bytes_running", "bytes_peak", "allocations"];
            let one = |name| self.0.samples(row.0, row.1, name).median();
            let shown = figures.map(|name| one(name).map_or("–".into(), round));
            table.row([row.1.name().into(), row.0.jobs.to_string()].into_iter().chain(shown));
        }
        table
    }

    fn fired(&self) -> Table {
        let mut table = Table::new(&[
            "due",
            "jobs",
            "ran of due",
            "late p50 ms",
            "x floor",
            "p99 ms",
            "max ms",
            "CPU µs a fire",
            "x floor",
        ]);
        for what in [What::Late, What::EachSecond, What::Burst] {
            for row in self.of_kind(what) {
                let sum = |name| {
                    let figures = self.0.samples(row.0, row.1, name);
                    round(figures.figures().iter().sum::<f64>())
                };
                table.row([
                    format!("{}, {}", what.name(), row.1.name()),
                    row.0.jobs.to_string(),
                    format!("{} of {}", sum("ran"), sum("due")),
                    self.show(row, "p50_ms"),
                    self.to_floor(row, "p50_ms").show(),
                    self.show(row, "p99_ms"),
                    self.show(row, "max_ms"),
                    self.show(row, "cpu_us_per_fire"),
                    self.to_floor(row, "cpu_us_per_fire").show(),
                ]);
            }
        }
        table
    }

    /// What we want, and what was measured; of what was measured only.
    fn targets(&self) -> Table {
        let mut table = Table::new(&["what", "target", "measured [middle half]", "met"]);
        let mut row = |what: &str, most: f64, unit: &str, measured: &Samples| {
            let Some(figure) = measured.median() else { return };
            let met = if figure <= most { "yes" } else { "no" };
            let target = format!("at most {}{unit}", round(most));
            table.row([what.to_owned(), target, measured.show(), met.to_owned()]);
        };
        let at = |what, jobs| Cell { what, jobs };
        let ours = |what, jobs, name| self.0.samples(at(what, jobs), Subject::Solocron, name);
        let distinct =
            |what, name| self.0.samples(at(what, 1_000_000), Subject::SolocronDistinct, name);
        row("1,000,000 jobs added", 1000.0, " ms", &ours(What::Add, 1_000_000, "add_ms"));
        row(
            "the same, half of the patterns distinct",
            1000.0,
            " ms",
            &distinct(What::Add, "add_ms"),
        );
        row("a job of them", 200.0, " bytes", &ours(What::Weigh, 1_000_000, "bytes_running"));
        row(
            "the same, half of the patterns distinct",
            200.0,
            " bytes",
            &distinct(What::Weigh, "bytes_running"),
        );
        row("idle with them", 0.1, " % of a CPU", &ours(What::Add, 1_000_000, "idle_percent"));
        let ratio = |what, jobs, name| self.to_floor((at(what, jobs), Subject::Solocron), name);
        row(
            "one job's lateness p50 / tokio's sleep_until",
            0.2,
            "",
            &ratio(What::Late, 1, "p50_ms"),
        );
        for (name, jobs) in [("10,000", 10_000), ("100,000", 100_000)] {
            let (ran, due) = (ours(What::Burst, jobs, "ran"), ours(What::Burst, jobs, "due"));
            let lost = due.figures().iter().zip(ran.figures()).map(|(due, ran)| due - ran);
            let what = format!("{name} jobs due at once: fires that did not run");
            row(&what, 0.0, "", &lost.collect());
            let what = format!("{name} jobs due at once: CPU a fire / heap and spawn");
            row(&what, 1.5, "", &ratio(What::Burst, jobs, "cpu_us_per_fire"));
        }
        table
    }

    fn json(&self) -> Value {
        let measured = self.0;
        let cells = measured.figures.iter().map(|((cell, subject), figures)| {
            json!({
                "what": cell.what.name(), "jobs": cell.jobs, "subject": subject.name(),
                "rounds": figures,
            })
        });
        json!({
            "machine": measured.machine, "command": measured.command, "rounds": measured.rounds,
            "seconds": measured.took.as_secs(), "cells": cells.collect::<Vec<_>>(),
            "left_out": measured.left_out, "ran_twice": measured.ran_twice(),
        })
    }

    /// The files that were asked for.
    pub(crate) fn write(&self, options: &Options) -> Result<(), String> {
        let to = |path: &Path, text: String| {
            fs::write(path, text).map_err(|error| format!("write {}: {error}", path.display()))
        };
        if let Some(path) = &options.json {
            to(path, format!("{:#}\n", self.json()))?;
        }
        if let Some(path) = &options.markdown {
            to(path, self.to_string())?;
        }
        if let Some(dir) = &options.plots {
            let made = fs::create_dir_all(dir);
            made.map_err(|error| format!("make {}: {error}", dir.display()))?;
            self.plot(dir)?;
        }
        Ok(())
    }

    fn plot(&self, dir: &Path) -> Result<(), String> {
        let plot = |file: &str, title: &str, unit, what, names: [&str; 2]| {
            let rows = self.of_kind(what).filter_map(|row| {
                let middle = |name| self.0.samples(row.0, row.1, name).median();
                let label = format!("{}, {}", row.1.name(), row.0.jobs);
                let (from, to) = (middle(names[0])?, middle(names[1])?);
                Some(Range { label, from, to, ours: row.1.is_ours() })
            });
            ranges(&dir.join(file), title, unit, &rows.collect::<Vec<_>>())
        };
        let late = ["p50_ms", "p99_ms"];
        plot("load-add.svg", "Adding jobs", "ms", What::Add, ["add_ms"; 2])?;
        plot("load-bytes.svg", "A job", "bytes", What::Weigh, ["bytes_running"; 2])?;
        plot("load-late.svg", "One job: late p50 to p99", "ms", What::Late, late)?;
        let title = "Due each second: late p50 to p99";
        plot("load-each-second.svg", title, "ms", What::EachSecond, late)?;
        let title = "Due at once: late p50 to p99";
        plot("load-burst.svg", title, "ms", What::Burst, late)?;
        let title = "Due at once: processor time a fire";
        plot("load-cpu.svg", title, "µs", What::Burst, ["cpu_us_per_fire"; 2])
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { machine, command, rounds, took, left_out, .. } = self.0;
        writeln!(
            f,
            "`{command}`: {rounds} rounds in {} s, in turns, on {machine}.",
            took.as_secs()
        )?;
        writeln!(f, "Medians [middle half of the rounds].\n")?;
        for table in [self.targets(), self.added(), self.weighed(), self.fired()] {
            writeln!(f, "{table}")?;
        }
        for why in left_out {
            writeln!(f, "- left out: {why}")?;
        }
        for twice in self.0.ran_twice() {
            writeln!(f, "- **error: ran twice**: {twice}")?;
        }
        Ok(())
    }
}
