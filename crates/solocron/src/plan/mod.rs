//! What a scheduler decides, as a pure state machine: no clock, no task, no store.
//!
//! [`Plan::wake`] and [`Plan::on`] are told the time and what happened, and answer with what to do. The scheduler carries that out,
//! and so do a simulated fleet and an exhaustive checker: it is the same plan.
//!
//! ```text
//!            ┌─────────┐ Enrolled  ┌──────┐ due   ┌──────────┐ Won    ┌─────────┐ RunEnded ┌───────────┐
//!   add ───► │ new     │ ────────► │ idle │ ────► │ claiming │ ─────► │ running │ ───────► │ releasing │ ─┐
//!            └─────────┘           └──────┘       └──────────┘        └─────────┘          └───────────┘  │
//!               ▲   ▲  failed, forgot ▲ ▲  stale    │  ▲  │ busy, claimed but not done, early, down         │
//!               └───┴─────────────────┘ └───────────┘  │  ▼                                                │
//!                                       ▲        retry │ ┌─────────┐                                       │
//!                                       │              └─│ waiting │ woken, lease over, backoff            │
//!                                       │  grace over    └─────────┘                                       │
//!                                       └──────────────────────┴───────────────────────────────────────────┘
//! ```
//!
//! **Waiting** is why no tick is lost when its winner dies or gives it back. A busy key may belong to a node that is about to die;
//! a tick that is claimed and not done may be undone by a node that is shutting down. So both answers are provisional: the node
//! watches, and tries again when woken or when the lease ends, until the tick is settled or its grace is over.

mod answer;
mod catch_up;
mod job;
mod outcome;
mod state;
mod turn;
mod wakes;

pub use self::answer::{Answer, Win};
pub use self::job::JobPlan;
pub(crate) use self::job::Options;
pub use self::turn::Marks;

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::state::{Phase, State, WaitsFor};
use self::wakes::Wakes;
use crate::error::BackendError;
use crate::event::What;
use crate::lock::Mark;
use crate::lock::backend::{Claim, Enrolled, MarkAfter};

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Input {
    /// The answer to [`Action::Enroll`].
    Enrolled(Result<Enrolled, BackendError>),
    /// The answer to [`Action::Claim`].
    Answer(Answer),
    /// The key may be free, or a watch has just begun.
    Woken,
    /// The run that [`Action::Start`] began has ended.
    RunEnded {
        /// When it began: by this node's clock or the store's, whichever is later.
        started: Timestamp,
        /// When it ended, by this node's clock.
        ended: Timestamp,
        /// False where it was cut short: its tick is not done.
        complete: bool,
    },
    /// The lease that [`Action::Release`] or [`Action::Undo`] gave back is given back.
    Released,
    /// The store may have forgotten this job.
    Forgot,
}

/// Something to do for one job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Action {
    /// Enroll it.
    Enroll,
    /// Claim this tick.
    Claim(Claim),
    /// Run the tick that was just won.
    Start {
        /// The tick.
        tick: Mark,
        /// Earlier ticks that nobody ran, oldest first; at most [`Plan::MOST_MISSED`].
        missed: Vec<Mark>,
    },
    /// Give back the tick that was just won; its run will not start.
    Undo,
    /// Give back the lease of the run that ended.
    Release(MarkAfter),
    /// Watch its key: send [`Input::Woken`] when the watch has begun, and whenever it fires.
    Watch,
    /// Watch it no more.
    Unwatch,
    /// Tell the observers.
    Report(What),
}

/// The plan of all jobs of one node.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Shared by clones: nothing in here changes.
    jobs: Arc<[JobPlan]>,
    states: Vec<State>,
    wakes: Wakes,
    /// A job that was busy when it was last asked for one.
    busy: Cell<usize>,
    /// This node claims; always, where there is no leader.
    leading: bool,
    marks: Marks,
    stopping: bool,
}

/// What to do, for which job.
pub type Actions = Vec<(usize, Action)>;

impl Plan {
    /// The most jobs of one plan.
    pub const MOST_JOBS: usize = Wakes::MOST;

    /// How many missed ticks a run is told of by name.
    pub const MOST_MISSED: usize = 100;

    /// The longest wait before an unavailable backend is tried again.
    const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

    /// Between two attempts at a key that stays busy without telling when its lease ends.
    const BUSY_RETRY: Duration = Duration::from_secs(1);

    /// The longest wait between two attempts at a tick: what we were told may not be true any more, and a push may be lost.
    const LONGEST_WAIT: Duration = Duration::from_secs(5);

    /// A mark further ahead of this node's clock than this is reported.
    const MAX_SKEW: Duration = Duration::from_secs(60);

    /// The plan of these jobs; each is enrolled at the first [`wake`](Self::wake).
    ///
    /// # Panics
    ///
    /// Where they are more than [`MOST_JOBS`](Self::MOST_JOBS).
    #[must_use]
    pub fn new(jobs: impl Into<Arc<[JobPlan]>>) -> Self {
        let mut plan = Self::following(jobs, Marks::Stored);
        plan.leading = true;
        for job in 0..plan.jobs.len() {
            plan.wake_job_at(job, Some(Timestamp::MIN));
        }
        plan
    }

    /// The plan of a node that does nothing before it [leads](Self::lead).
    ///
    /// # Panics
    ///
    /// Where there are more than [`MOST_JOBS`](Self::MOST_JOBS).
    #[must_use]
    pub fn following(jobs: impl Into<Arc<[JobPlan]>>, marks: Marks) -> Self {
        let jobs = jobs.into();
        Self {
            states: vec![State::new(); jobs.len()],
            wakes: Wakes::new(jobs.len()),
            busy: Cell::new(0),
            jobs,
            leading: false,
            marks,
            stopping: false,
        }
    }

    /// One of its jobs.
    pub(crate) fn job(&self, job: usize) -> &JobPlan {
        &self.jobs[job]
    }

    /// When [`wake`](Self::wake) wants to be called next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first()
    }

    /// Time has come to `now`.
    pub fn wake(&mut self, now: Timestamp) -> Actions {
        let mut actions = Vec::new();
        self.wake_some(now, usize::MAX, &mut actions);
        actions
    }

    /// [`wake`](Self::wake), for no more than `most` jobs, adding to `actions`: the others are still due in
    /// [`next_wake`](Self::next_wake).
    pub(crate) fn wake_some(&mut self, now: Timestamp, most: usize, actions: &mut Actions) {
        for _ in 0..most {
            let Some(job) = self.wakes.pop(now) else { return };
            self.look(job, now, actions);
        }
    }

    /// Something happened to one job.
    pub fn on(&mut self, job: usize, now: Timestamp, input: Input) -> Actions {
        let mut actions = Vec::new();
        self.tell(job, now, input, &mut actions);
        actions
    }

    /// [`on`](Self::on), adding to `actions`.
    pub(crate) fn tell(&mut self, job: usize, now: Timestamp, input: Input, actions: &mut Actions) {
        match input {
            Input::Enrolled(answer) => self.enrolled(job, now, answer, actions),
            Input::Answer(answer) => self.answered(job, now, answer, actions),
            Input::Woken => match &mut self.states[job].phase {
                Phase::Claiming { woken, .. } => *woken = true,
                Phase::Waiting { .. } => self.look(job, now, actions),
                _ => {}
            },
            Input::RunEnded { started, ended, complete } => {
                self.run_ended(job, started, ended, complete, actions)
            }
            Input::Released => {
                if self.states[job].phase == Phase::Releasing {
                    self.states[job].phase = Phase::Idle;
                    self.look(job, now, actions);
                }
            }
            Input::Forgot => {
                self.states[job].forgot = true;
                if matches!(self.states[job].phase, Phase::Idle | Phase::Waiting { .. }) {
                    self.look(job, now, actions);
                }
            }
        }
    }

    /// The wall clock was set: nothing that was counted by it is right any more.
    pub fn clock_stepped(&mut self, now: Timestamp) -> Actions {
        let mut actions = Vec::new();
        for job in 0..self.jobs.len() {
            let state = &mut self.states[job];
            state.set_held_back(None);
            if state.cursor.timestamp() > now {
                // Settled by a clock that was ahead. The store knows better what was claimed.
                (state.cursor, state.since) =
                    (Mark::from_millis(i64::MIN), Mark::from_millis(i64::MIN));
                state.forgot = true;
            }
            if matches!(self.states[job].phase, Phase::New | Phase::Idle | Phase::Waiting { .. }) {
                self.look(job, now, &mut actions);
            }
        }
        actions
    }

    /// No more claims from now on. Runs go on; what is won from now on is undone.
    pub fn stop(&mut self) -> Actions {
        self.stopping = true;
        self.wakes.clear();
        let mut actions = Vec::new();
        for job in 0..self.jobs.len() {
            self.unwatch(job, &mut actions);
        }
        actions
    }

    /// Whether anything is under way: an attempt, a run, or giving back.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // From where one was found last: a million of them that end one by one are not to be asked a million times each.
        let (jobs, from) = (self.states.len(), self.busy.get());
        let busy = (from..jobs).chain(0..from).find(|job| self.states[*job].is_busy());
        self.busy.set(busy.unwrap_or(0));
        busy.is_none()
    }

    /// Decides what to do for a job with nothing under way.
    fn look(&mut self, job: usize, now: Timestamp, actions: &mut Actions) {
        if self.stopping || !self.leading {
            return;
        }
        let state = &mut self.states[job];
        match state.phase {
            Phase::New => {
                state.phase = Phase::Enrolling;
                actions.push((job, Action::Enroll));
                return;
            }
            Phase::Idle | Phase::Waiting { .. } => {}
            Phase::Enrolling
            | Phase::Claiming { .. }
            | Phase::Running { .. }
            | Phase::Releasing => return,
        }
        if std::mem::take(&mut state.forgot) {
            state.phase = Phase::Enrolling;
            self.unwatch(job, actions);
            actions.push((job, Action::Enroll));
            return;
        }
        loop {
            let Some(tick) = self.candidate(job, now) else { return self.rest(job, actions) };
            if let Phase::Waiting { tick: before } = self.states[job].phase
                && before < tick
                && let WaitsFor::Run(to) = self.states[job].waits_for()
            {
                // A newer tick is due. The one before has its run, as far as we know.
                actions.push((job, Action::Report(What::Yielded { tick: before, to: to.clone() })));
            }
            if self.states[job].unfinished().is_none() && now > self.late_at(job, tick) {
                self.give_up(job, now, tick, actions);
                continue;
            }
            let claim = self.claim(job, tick, now);
            self.states[job].phase = Phase::Claiming { tick, woken: false };
            self.wake_job_at(job, None);
            actions.push((job, Action::Claim(claim)));
            return;
        }
    }

    /// Nothing to claim: sleep until the next tick.
    fn rest(&mut self, job: usize, actions: &mut Actions) {
        self.unwatch(job, actions);
        let state = &mut self.states[job];
        state.phase = Phase::Idle;
        state.set_held_back(None);
        state.failures = 0;
        state.set_waits_for(WaitsFor::Nothing);
        let next = self.jobs[job].next_after(state.cursor.timestamp());
        self.wake_job_at(job, next);
    }

    /// The tick is somebody's business no more.
    fn settle(&mut self, job: usize, tick: Mark) {
        let state = &mut self.states[job];
        state.cursor = state.cursor.max(tick);
        state.set_unfinished(state.unfinished().filter(|unfinished| *unfinished > tick));
        state.set_held_back(None);
    }

    fn unwatch(&mut self, job: usize, actions: &mut Actions) {
        if std::mem::take(&mut self.states[job].watching) {
            actions.push((job, Action::Unwatch));
        }
    }

    fn wake_job_at(&mut self, job: usize, at: Option<Timestamp>) {
        self.wakes.set(job, at.filter(|_| self.leading && !self.stopping));
    }
}

/// Equal plans of the same jobs do the same from here on.
impl Hash for Plan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.states.hash(state);
        (0..self.states.len()).for_each(|job| self.wakes.of(job).hash(state));
        (self.leading, self.marks, self.stopping).hash(state);
    }
}
