//! Numbers that a history's own ledger does not have.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::{Judge, Span};
use crate::chaos::jobs::STEADY;
use crate::history::{Claim, Event, KILL, Ledger, STOP, What};

impl Judge<'_> {
    /// Ticks that were passed over and never started, by what was said of them.
    pub(super) fn passed_over(&self) -> BTreeMap<String, usize> {
        let started: HashSet<_> =
            self.starts().map(|(claim, _)| (&claim.job, claim.tick)).collect();
        let mut passed_over: BTreeMap<String, HashSet<(&String, i64)>> = BTreeMap::new();
        for event in self.history.events() {
            if let What::Skipped { why, job, tick } = &event.what
                && !started.contains(&(job, *tick))
                && self.history.meta().wall_ms <= *tick
            {
                passed_over.entry(why.clone()).or_default().insert((job, *tick));
            }
        }
        passed_over.into_iter().map(|(why, ticks)| (why, ticks.len())).collect()
    }

    /// Runs that began while another run of their job went on in a process that nobody had stopped.
    pub(super) fn overlaps_awake(&self) -> usize {
        let mut runs: HashMap<(&str, u32, &Claim), (usize, usize)> = HashMap::new();
        for (i, event) in self.history.events().iter().enumerate() {
            if let Some(claim) = event.what.claim() {
                match (&event.what, runs.entry((&event.node, event.pid, claim))) {
                    (_, Entry::Occupied(mut run)) => run.get_mut().1 = i,
                    (What::Start { .. }, Entry::Vacant(run)) => _ = run.insert((i, i)),
                    _ => {}
                }
            }
        }
        let mut runs: Vec<_> =
            runs.into_iter().map(|((node, _, claim), at)| (at, &claim.job, node)).collect();
        runs.sort_unstable();
        let t = |at: usize| i128::from(self.history.events()[at].t);
        let stops: Vec<_> = self.spans().into_iter().filter(|span| span.kind == STOP).collect();
        let asleep = |node: &str, (from, until): (usize, usize)| {
            let met = |span: &Span<'_>| span.from <= t(until) && t(from) <= span.until;
            stops.iter().any(|span| span.node == node && met(span))
        };
        let mut longest: HashMap<&str, ((usize, usize), &str)> = HashMap::new();
        let mut overlaps = 0;
        for (at, job, node) in runs {
            let other = longest.entry(job).or_insert((at, node));
            let (other_at, other_node) = *other;
            overlaps +=
                usize::from(other_at != at && other_at.1 > at.0 && !asleep(other_node, other_at));
            if other_at.1 < at.1 {
                *other = (at, node);
            }
        }
        overlaps
    }

    /// From a kill to the next start of the steady job, at the worst.
    pub(super) fn next_start_after_a_kill(&self) -> Duration {
        let starts = self.times_of_starts(STEADY);
        let next =
            |killed: u64| starts.get(starts.partition_point(|t| *t <= killed)).map(|t| t - killed);
        let is_kill =
            |event: &&Event| matches!(&event.what, What::Fault { kind, .. } if kind == KILL);
        let kills = self.history.events().iter().filter(is_kill);
        Duration::from_nanos(kills.filter_map(|kill| next(kill.t)).max().unwrap_or_default())
    }

    /// The longest time between two starts of a job.
    pub(super) fn worst_gap(&self, job: &str) -> Duration {
        let starts = self.times_of_starts(job);
        Duration::from_nanos(
            starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
        )
    }

    /// In ascending order.
    pub(super) fn times_of_starts(&self, job: &str) -> Vec<u64> {
        let starts = self.starts().filter(|(claim, _)| claim.job == job);
        let mut times: Vec<_> = starts.map(|(_, event)| event.t).collect();
        times.sort_unstable();
        times
    }
}

/// Of the due ticks; nothing where none was due.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
pub(in crate::chaos) fn share_ran_of(ledger: &Ledger) -> Option<f64> {
    (ledger.due > 0).then(|| (ledger.ran_once + ledger.ran_again) as f64 / ledger.due as f64)
}
