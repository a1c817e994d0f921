//! All subjects of a group in turns, so that whatever else the machine does hits them alike.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Group, Role, Subject};
use crate::{Samples, Table, cpu, round};

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Of one subject in one round.
    pub slice: Duration,
    /// How many rounds.
    pub rounds: usize,
}

/// What was measured of one subject, a figure for each round.
#[derive(Debug, Default)]
struct Figures {
    p50: Samples,
    p99: Samples,
    per_second: Samples,
    /// Processor time of this process per operation.
    cpu: Samples,
    /// To the floor's p50 of the same round.
    ratio: Samples,
    counters: Vec<(&'static str, Samples)>,
}

/// What was measured of a group.
#[derive(Debug)]
pub struct Measured<'a> {
    group: &'a Group,
    figures: Vec<Figures>,
}

/// Measures `group`. To be called outside of its runtime.
#[must_use]
pub fn measure<'a>(
    group: &'a Group,
    pace: Pace,
    block_on: &dyn Fn(&Subject, u64) -> super::Took,
) -> Measured<'a> {
    let times: Vec<_> =
        group.subjects.iter().map(|subject| calibrate(subject, pace.slice, block_on)).collect();
    let mut figures: Vec<_> = group.subjects.iter().map(|_| Figures::default()).collect();
    for _ in 0..pace.rounds {
        let mut floor = None;
        for ((subject, times), figures) in group.subjects.iter().zip(&times).zip(&mut figures) {
            let (counted, used) = (group.counted(), cpu());
            let took = block_on(subject, *times);
            let (used, done) = (cpu() - used, took.done as f64);
            let each: Samples = took.each.into_iter().collect();
            let p50 = each.median().unwrap_or(f64::NAN);
            let floor = *floor.get_or_insert(p50);
            figures.p50.push(p50);
            figures.p99.push(each.quantile(0.99).unwrap_or(f64::NAN));
            figures.per_second.push(done * subject.units as f64 / took.elapsed.as_secs_f64());
            figures.cpu.push(used.as_secs_f64() * 1e6 / done);
            figures.ratio.push(p50 / floor);
            let now = group.counted();
            figures.counters.resize_with(now.len(), Default::default);
            for (at, ((name, now), (_, before))) in now.into_iter().zip(counted).enumerate() {
                figures.counters[at].0 = name;
                figures.counters[at].1.push((now - before) / done);
            }
        }
    }
    Measured { group, figures }
}

/// How often a subject is to be done to fill a slice.
fn calibrate(
    subject: &Subject,
    slice: Duration,
    block_on: &dyn Fn(&Subject, u64) -> super::Took,
) -> u64 {
    let mut times = 1;
    loop {
        let took = block_on(subject, times);
        if took.elapsed * 4 >= slice || times >= 1 << 24 {
            let share = slice.as_secs_f64() / took.elapsed.as_secs_f64().max(1e-9);
            #[expect(
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                reason = "positive, and not above a hundred millions"
            )]
            return ((took.done as f64 * share.min(4.0)) as u64).max(1);
        }
        times *= 2;
    }
}

impl Measured<'_> {
    /// A table for a reader, in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let counters: Vec<_> =
            self.figures.first().map_or(&[][..], |of| &of.counters).iter().collect();
        let mut headings =
            vec!["what", "p50 µs", "p99 µs", "× floor", "target", "per second", "CPU µs"];
        headings.extend(counters.iter().map(|(name, _)| *name));
        let mut table = Table::new(&headings);
        for (subject, figures) in self.group.subjects.iter().zip(&self.figures) {
            let name = match subject.role {
                Role::Floor => format!("floor: {}", subject.name),
                Role::Ours => format!("**{}**", subject.name),
                Role::Rival | Role::Other => subject.name.into(),
            };
            let median = |samples: &Samples| samples.median().map_or("–".into(), round);
            let mut cells = vec![
                name,
                figures.p50.show(),
                median(&figures.p99),
                if subject.role == Role::Floor { "1".into() } else { figures.ratio.show() },
                subject.target.map_or_else(String::new, |target| verdict(&figures.ratio, target)),
                median(&figures.per_second),
                median(&figures.cpu),
            ];
            cells.extend(figures.counters.iter().map(|(_, samples)| median(samples)));
            table.row(cells);
        }
        format!("### {}\n\n{table}", self.group.name)
    }

    /// The same for a program: medians, and the ratio of every round.
    #[must_use]
    pub fn json(&self) -> Value {
        let subjects = self.group.subjects.iter().zip(&self.figures).map(|(subject, figures)| {
            let counters: serde_json::Map<_, _> = figures
                .counters
                .iter()
                .map(|(name, samples)| ((*name).to_owned(), json!(samples.median())))
                .collect();
            json!({
                "what": subject.name,
                "role": match subject.role {
                    Role::Floor => "floor",
                    Role::Ours => "solocron",
                    Role::Rival => "rival",
                    Role::Other => "other",
                },
                "p50_us": figures.p50.median(),
                "p99_us": figures.p99.median(),
                "per_second": figures.per_second.median(),
                "cpu_us": figures.cpu.median(),
                "ratio": figures.ratio.median(),
                "ratio_quartiles": [figures.ratio.quantile(0.25), figures.ratio.quantile(0.75)],
                "target": subject.target,
                "rounds": figures.p50.len(),
                "counters": counters,
            })
        });
        json!({ "group": self.group.name, "subjects": subjects.collect::<Vec<_>>() })
    }
}

fn verdict(ratio: &Samples, target: f64) -> String {
    let met = ratio.median().is_some_and(|ratio| ratio <= target);
    format!("≤ {target}: {}", if met { "met" } else { "**missed**" })
}
