//! Which tick is next, and what becomes of those that are too late.

use std::time::Duration;

use jiff::Timestamp;

use super::{Action, Actions, JobPlan, Phase, Plan, WaitsFor};
use crate::event::{MissedWhy, What};
use crate::lock::Mark;
use crate::lock::backend::Claim;
use crate::policy::CatchUp;

impl Plan {
    /// The grace of `tick` is over, and of every tick before it.
    pub(super) fn give_up(
        &mut self,
        job: usize,
        now: Timestamp,
        tick: Mark,
        actions: &mut Actions,
    ) {
        let (state, spec) = (&self.states[job], &self.jobs[job]);
        // Catching up one by one must not walk through a month of them.
        let last = match (spec.misfire().catch_up, spec.misfire().grace) {
            (CatchUp::All, Some(grace)) => {
                let young = now.checked_sub(grace).unwrap_or(Timestamp::MIN);
                before(spec, Mark::floor(young)).map_or(tick, |last| last.max(tick))
            }
            _ => tick,
        };
        let waited = match state.phase {
            Phase::Waiting { tick } => Some((tick, state.waits_for().clone())),
            _ => None,
        };
        let late = between(spec, state.cursor, last).into_iter().chain([last]);
        for tick in late {
            let what = match &waited {
                Some((waited, WaitsFor::Run(to))) if *waited == tick => {
                    What::Yielded { tick, to: to.clone() }
                }
                Some((waited, WaitsFor::Overlap)) if *waited == tick => {
                    What::Missed { tick, why: MissedWhy::Overlap }
                }
                Some((waited, WaitsFor::Backend)) if *waited == tick => {
                    What::Missed { tick, why: MissedWhy::Backend }
                }
                _ => What::Missed { tick, why: MissedWhy::NobodyThere },
            };
            actions.push((job, Action::Report(what)));
        }
        self.settle(job, last);
    }

    /// The tick to claim now.
    pub(super) fn candidate(&self, job: usize, now: Timestamp) -> Option<Mark> {
        let (state, spec) = (&self.states[job], &self.jobs[job]);
        if let Some(unfinished) = state.unfinished() {
            return Some(unfinished);
        }
        let tick = match spec.misfire().catch_up {
            CatchUp::Latest => spec.last_at_or_before(now),
            CatchUp::All => spec.next_after(state.cursor.timestamp()).filter(|tick| *tick <= now),
        };
        tick.map(Mark::floor).filter(|tick| *tick > state.cursor)
    }

    pub(super) fn claim(&self, job: usize, tick: Mark, now: Timestamp) -> Claim {
        let spec = &self.jobs[job];
        // Every missed tick in its turn; but one that is too old to be run holds up nobody.
        let after = (spec.misfire().catch_up == CatchUp::All)
            .then(|| before(spec, tick))
            .flatten()
            .filter(|previous| {
                *previous > self.states[job].since && now <= self.late_at(job, *previous)
            });
        Claim { tick, after, delivery: spec.delivery() }
    }

    /// When `tick` is too late to be claimed.
    pub(super) fn late_at(&self, job: usize, tick: Mark) -> Timestamp {
        let (state, spec) = (&self.states[job], &self.jobs[job]);
        let tick = tick.timestamp();
        let grace = spec.misfire().grace_of(tick, spec.next_after(tick));
        later(state.held_back().map_or(tick, |until| until.max(tick)), grace)
    }
}

/// The tick before `tick`.
pub(super) fn before(job: &JobPlan, tick: Mark) -> Option<Mark> {
    job.last_at_or_before(Mark::from_millis(tick.as_millis().saturating_sub(1)).timestamp())
        .map(Mark::floor)
        .filter(|b| *b < tick)
}

/// The ticks between `from` and `to`, both left out; the last ones where they are too many to name.
pub(super) fn between(job: &JobPlan, from: Mark, to: Mark) -> Vec<Mark> {
    let mut ticks: Vec<_> = std::iter::successors(before(job, to), |tick| before(job, *tick))
        .take_while(|tick| *tick > from)
        .take(Plan::MOST_MISSED)
        .collect();
    ticks.reverse();
    ticks
}

pub(super) fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
