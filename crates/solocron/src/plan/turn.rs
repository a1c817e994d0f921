//! Leading and following: whether this node claims at all.
//!
//! ```text
//!               lead: enroll every job anew
//!   following ────────────────────────────────► leading
//!       ▲                                          │
//!       └──────────────────────────────────────────┘
//!          follow: what is asked for is void, runs go on
//! ```

use jiff::Timestamp;

use super::{Actions, Phase, Plan, WaitsFor};
use crate::lock::Mark;

/// Where the marks of a leader are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marks {
    /// In the store: a take-over finds what was claimed before it.
    Stored,
    /// With the leader, and gone with its term: a take-over starts after its own beginning.
    OfTheTerm,
}

impl Plan {
    /// This node leads from now on: every job is enrolled anew, since others may have claimed meanwhile. A job whose run of an
    /// earlier term goes on follows when that has ended.
    pub fn lead(&mut self, now: Timestamp) -> Actions {
        let mut actions = Vec::new();
        if std::mem::replace(&mut self.leading, true) {
            return actions;
        }
        for job in 0..self.jobs.len() {
            let state = &mut self.states[job];
            if !std::mem::replace(&mut state.forgot, state.phase != Phase::New) {
                // Another leader's schedule may stand on record by now, which is no loss of memory.
                state.since = Mark::from_millis(i64::MAX);
            }
            state.set_unfinished(None);
            state.set_held_back(None);
            state.set_waits_for(WaitsFor::Nothing);
            state.failures = 0;
            if self.marks == Marks::OfTheTerm {
                (state.cursor, state.since) =
                    (Mark::from_millis(i64::MIN), Mark::from_millis(i64::MIN));
            }
            if let Phase::Waiting { .. } = state.phase {
                state.phase = Phase::Idle;
            }
            self.look(job, now, &mut actions);
        }
        actions
    }

    /// This node does not lead any more: no claims until it does again. Runs go on, and what was asked for and is won now is undone.
    pub fn follow(&mut self) -> Actions {
        let mut actions = Vec::new();
        if !std::mem::replace(&mut self.leading, false) {
            return actions;
        }
        self.wakes.clear();
        for job in 0..self.jobs.len() {
            let state = &mut self.states[job];
            state.void = matches!(
                state.phase,
                Phase::Enrolling | Phase::Claiming { .. } | Phase::Running { .. }
            );
            self.unwatch(job, &mut actions);
        }
        actions
    }
}
