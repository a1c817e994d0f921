//! What nobody saw.

use std::collections::HashSet;

use super::{Judge, Span, Times};
use crate::chaos::jobs::grace;
use crate::history::Violation;

/// Wins that nobody saw: the store granted, and its answer was lost with the node, the network, or the writing of it. Of each job,
/// one fault can hide one of them.
pub(super) struct Unseen<'h> {
    spans: Vec<Span<'h>>,
    used: HashSet<(usize, String)>,
    grace: i128,
    at: (i128, i128),
}

impl<'h> Unseen<'h> {
    pub(super) fn of(judge: &'h Judge<'_>) -> Self {
        let grace = (grace(judge.case.ttl) + judge.case.settle).as_nanos() as i128;
        Self {
            spans: judge.spans(),
            used: HashSet::new(),
            grace,
            at: (judge.at.t, judge.at.wall_ms),
        }
    }

    /// Whether a lost tick may have been won unseen.
    pub(super) fn explains(&mut self, violation: &Violation) -> bool {
        let Some((job, tick)) = lost_tick(&violation.sentence) else { return false };
        let at = Times { t: self.at.0, wall_ms: self.at.1 }.tick(tick);
        self.take(job, at - 1_000_000_000, at + self.grace, 1)
    }

    /// Whether a fault that hid nothing of this job yet was there at that time; where so many of any kind were.
    pub(super) fn take(&mut self, job: &str, from: i128, until: i128, faults: usize) -> bool {
        let there = |span: &Span<'_>| {
            span.from <= until && span.until >= from && span.kind != "clock" && span.kind != "term"
        };
        let there: Vec<_> = (0..self.spans.len()).filter(|at| there(&self.spans[*at])).collect();
        if there.len() < faults {
            return false;
        }
        let free = there.into_iter().find(|at| !self.used.contains(&(*at, job.to_owned())));
        free.is_some_and(|at| self.used.insert((at, job.to_owned())))
    }
}

/// The job and the tick of a violation that says a tick was never started.
pub(super) fn lost_tick(sentence: &str) -> Option<(&str, i64)> {
    let (tick, rest) = sentence.strip_prefix("tick ")?.split_once(" of `")?;
    let (job, rest) = rest.split_once('`')?;
    rest.starts_with(" was never started").then_some((job, tick.parse().ok()?))
}
