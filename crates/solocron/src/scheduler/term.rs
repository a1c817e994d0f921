//! Whose turn it is: this node's always, or for as long as it leads its group.

use std::future::pending;

use crate::job::InTerm;
use crate::leader::{Elector, Hold, Leadership, Pulse, Transition};
use crate::lock::{Fence, LockKey, Locks};
use crate::plan::Marks;

/// What a scheduler knows of the leadership of its group.
pub(super) struct Term {
    elector: Elector,
    pulse: Pulse,
    /// The term that this node acts under, as far as it has heard.
    leadership: Option<Leadership>,
    /// How many runs were started in it.
    runs: u64,
    marks: Marks,
    /// The elector campaigns no more, and all that it had to say was heard.
    silent: bool,
}

/// What a run has of the term that it was started in.
pub(super) struct Started {
    pub(super) term: InTerm,
    /// Where the leadership is all that the run has: its lock is not given back before the run ends.
    _hold: Option<Hold>,
}

impl Term {
    pub(super) fn campaign(locks: &Locks, group: LockKey) -> Self {
        let marks = if locks.capabilities().marks { Marks::Stored } else { Marks::OfTheTerm };
        // The limit is for runs: a leader may lead for as long as it lives.
        let pulse = Pulse::default();
        let elector = Elector::of(&locks.unlimited(), group, Some(pulse.clone()));
        Self { elector, pulse, leadership: None, runs: 0, marks, silent: false }
    }

    pub(super) fn group(&self) -> &LockKey {
        self.elector.key()
    }

    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    /// A turn of the loop. Without one for long, another node is let lead.
    pub(super) fn beat(&self) {
        self.pulse.beat();
    }

    /// The next transition; pending for ever when there are no more.
    pub(super) async fn next(&mut self) -> Transition {
        if !self.silent {
            if let Some(transition) = self.elector.next().await {
                return transition;
            }
            self.silent = true;
        }
        pending().await
    }

    /// A transition that is there already.
    pub(super) fn try_next(&mut self) -> Option<Transition> {
        self.elector.try_next()
    }

    /// This node was elected. False where that is over already.
    pub(super) fn begin(&mut self, leadership: Leadership) -> bool {
        let goes_on = leadership.check().is_ok();
        (self.leadership, self.runs) = (goes_on.then_some(leadership), 0);
        goes_on
    }

    /// Whether a term that was believed in is over: asked before each step, since the news of it may still be on its way.
    pub(super) fn is_over(&self) -> bool {
        self.leadership.as_ref().is_some_and(|leadership| leadership.check().is_err())
    }

    pub(super) fn end(&mut self) {
        self.leadership = None;
    }

    /// The fence that runs have, where it is that of the leadership.
    pub(super) fn fence(&self) -> Option<Fence> {
        let leadership = self.leadership.as_ref().filter(|_| self.marks == Marks::OfTheTerm);
        leadership.map(Leadership::fence)
    }

    /// A run starts: what it has of this term, and its number.
    pub(super) fn start(&mut self) -> Option<(Started, u64)> {
        let leadership = self.leadership.clone()?;
        let is_bare = self.marks == Marks::OfTheTerm;
        let hold = is_bare.then(|| self.elector.hold());
        let number = if is_bare {
            self.runs += 1;
            self.runs
        } else {
            1 // each has a fence of its own
        };
        Some((Started { term: InTerm { leadership, is_bare }, _hold: hold }, number))
    }

    /// No new term. Where runs have leases of their own, the group need not wait for them: the one that goes on is given back at
    /// once. Otherwise it goes on.
    pub(super) fn stop(&self) {
        match self.marks {
            Marks::Stored => self.elector.begin_to_resign(),
            Marks::OfTheTerm => self.elector.retire(),
        }
    }

    /// Gives the leadership back, and waits until the store knows.
    pub(super) async fn resign(&self) {
        if let Err(error) = self.elector.resign().await {
            tracing::debug!(%error, "giving the leadership back takes longer");
        }
    }
}

/// The next transition of a group, where there is one.
pub(super) async fn next(term: &mut Option<Term>) -> Transition {
    match term {
        Some(term) => term.next().await,
        None => pending().await,
    }
}
