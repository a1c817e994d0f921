//! What the plan remembers of a job.
//!
//! There may be a million of them, nearly all idle: what an idle job has no use for is boxed and only there while it is needed.

use std::hash::{Hash, Hasher};

use jiff::Timestamp;

use crate::lock::{Mark, NodeId};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Every tick up to here is settled, as far as this node is concerned.
    pub(super) cursor: Mark,
    /// Nothing was missed before this: the schedule began then.
    pub(super) since: Mark,
    rare: Rarely,
    /// Failures in a row.
    pub(super) failures: u8,
    /// The store may have forgotten this job, or others had its marks; look as soon as nothing else is under way.
    pub(super) forgot: bool,
    /// What is under way began in a term that is over.
    pub(super) void: bool,
    pub(super) watching: bool,
    pub(super) told_of_schedule: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    New,
    Enrolling,
    Idle,
    /// `woken`: something happened after the attempt was sent.
    Claiming {
        tick: Mark,
        woken: bool,
    },
    Waiting {
        tick: Mark,
    },
    Running {
        tick: Mark,
    },
    Releasing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum WaitsFor {
    Nothing,
    /// The run of this very tick, elsewhere: it may be undone, or die.
    Run(Option<NodeId>),
    /// The run of another tick.
    Overlap,
    Backend,
}

/// What only a job has that waits, is late, or is to be run again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rare {
    unfinished: Option<Mark>,
    held_back: Option<Timestamp>,
    waits_for: WaitsFor,
}

impl Rare {
    const NOTHING: Self = Self { unfinished: None, held_back: None, waits_for: WaitsFor::Nothing };
}

/// There, or [`Rare::NOTHING`]: never a box of nothing, so that equal states compare equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rarely(Option<Box<Rare>>);

impl Rarely {
    fn get(&self) -> &Rare {
        self.0.as_deref().unwrap_or(&Rare::NOTHING)
    }

    /// Changes it; `changes` says whether that changes anything, so that nothing is allocated for nothing.
    fn set(&mut self, changes: bool, change: impl FnOnce(&mut Rare)) {
        if !changes {
            return;
        }
        change(self.0.get_or_insert_with(|| Box::new(Rare::NOTHING)));
        if *self.get() == Rare::NOTHING {
            self.0 = None;
        }
    }
}

impl Hash for Rarely {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.get().hash(state);
    }
}

impl State {
    /// A job that was never enrolled.
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::New,
            cursor: Mark::from_millis(i64::MIN),
            since: Mark::from_millis(i64::MIN),
            rare: Rarely::default(),
            failures: 0,
            forgot: false,
            void: false,
            watching: false,
            told_of_schedule: false,
        }
    }

    /// Whether something is under way that must come to its end: an attempt, a run, or giving back.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Claiming { .. } | Phase::Running { .. } | Phase::Releasing)
    }

    /// A tick whose run never ended, to be claimed again before anything else.
    pub(super) fn unfinished(&self) -> Option<Mark> {
        self.rare.get().unfinished
    }

    pub(super) fn set_unfinished(&mut self, tick: Option<Mark>) {
        self.rare.set(self.unfinished() != tick, |rare| rare.unfinished = tick);
    }

    /// A fast node was told to wait until here: lateness counts from here on.
    pub(super) fn held_back(&self) -> Option<Timestamp> {
        self.rare.get().held_back
    }

    pub(super) fn set_held_back(&mut self, until: Option<Timestamp>) {
        self.rare.set(self.held_back() != until, |rare| rare.held_back = until);
    }

    /// What the tick waits for.
    pub(super) fn waits_for(&self) -> &WaitsFor {
        &self.rare.get().waits_for
    }

    pub(super) fn set_waits_for(&mut self, what: WaitsFor) {
        self.rare.set(*self.waits_for() != what, |rare| rare.waits_for = what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_at_rest_takes_forty_eight_bytes_and_no_box() {
        // What a million of them cost; see docs/design/0009-a-million-jobs.md before letting it grow.
        assert_eq!(size_of::<State>(), 48);
        let mut state = State::new();
        state.set_waits_for(WaitsFor::Run(Some(NodeId::named("other"))));
        state.set_unfinished(Some(Mark::from_millis(1)));
        state.set_held_back(Some(Timestamp::UNIX_EPOCH));
        assert_ne!(state, State::new());
        state.set_unfinished(None);
        state.set_held_back(None);
        state.set_waits_for(WaitsFor::Nothing);
        assert_eq!(state, State::new());
        assert!(state.rare.0.is_none());
    }
}
