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

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{BackendError, Kind};
use crate::event::{MissedWhy, What};
use crate::lock::backend::{Claim, ClaimState, Delivery, Enrolled, MarkAfter, Schedule};
use crate::lock::rule::Rule;
use crate::lock::{ClaimReply, Fence, Holder, Mark, NodeId, Reply};
use crate::policy::{CatchUp, Misfire};
use crate::trigger::Trigger;

/// What the plan must know of a job.
#[derive(Debug, Clone)]
pub struct JobPlan {
    /// When it is due.
    pub trigger: Arc<dyn Trigger>,
    /// What happens to unclaimed ticks.
    pub misfire: Misfire,
    /// What happens to unfinished runs.
    pub delivery: Delivery,
}

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

/// [`ClaimReply`] without its guard.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Answer {
    /// The tick is mine.
    Won(Win),
    /// This or a later tick is claimed.
    Stale {
        /// The last claimed tick.
        mark: Mark,
        /// Whether its run has ended.
        done: bool,
        /// Whether that run lives: it holds the key.
        living: bool,
        /// When that lease ends, if it has an end.
        remaining: Option<Duration>,
        /// Who claimed it.
        owner: Option<NodeId>,
    },
    /// A run holds the key.
    Busy {
        /// The tick of that run, if known.
        tick: Option<Mark>,
        /// When its lease ends, if it has an end.
        remaining: Option<Duration>,
        /// Whose it is.
        owner: Option<NodeId>,
    },
    /// An earlier tick goes first.
    Behind {
        /// The last claimed tick.
        mark: Mark,
        /// Whether `mark` itself is to be claimed again.
        unfinished: bool,
    },
    /// The tick lies in the future of the store.
    Early {
        /// The store's clock.
        store_now: Timestamp,
    },
    /// Nobody knows.
    Failed(BackendError),
}

/// A tick that was won, without its guard.
#[derive(Debug, Clone)]
pub struct Win {
    /// Its fence.
    pub fence: Fence,
    /// The claim before it.
    pub previous: Option<ClaimState>,
    /// Which attempt of the tick.
    pub attempt: u32,
    /// The schedule on record.
    pub schedule: Option<Schedule>,
}

impl Answer {
    /// What the plan must know of a reply.
    #[must_use]
    pub fn of(reply: &Result<ClaimReply, BackendError>) -> Self {
        match reply {
            Ok(ClaimReply::Won(guard)) => Self::Won(Win {
                fence: guard.lease.fence(),
                previous: guard.previous.clone(),
                attempt: guard.attempt,
                schedule: guard.schedule,
            }),
            Ok(ClaimReply::Stale { mark, done, owner }) => {
                Self::stale(*mark, *done, owner.as_deref())
            }
            Ok(ClaimReply::Busy(holder)) => Self::busy(holder.as_deref()),
            Ok(ClaimReply::Behind { mark, unfinished }) => {
                Self::Behind { mark: *mark, unfinished: *unfinished }
            }
            Ok(ClaimReply::Early { store_now }) => Self::Early { store_now: *store_now },
            Err(error) => Self::Failed(error.clone()),
        }
    }

    fn stale(mark: Mark, done: bool, owner: Option<&Holder>) -> Self {
        Self::Stale {
            mark,
            done,
            // Whoever has the key for something else does not run this tick.
            living: owner.is_some_and(|owner| owner.living && owner.tick == Some(mark)),
            remaining: owner.and_then(|owner| owner.remaining),
            owner: owner.map(|owner| owner.node.clone()),
        }
    }

    fn busy(holder: Option<&Holder>) -> Self {
        Self::Busy {
            tick: holder.and_then(|holder| holder.tick),
            remaining: holder.and_then(|holder| holder.remaining),
            owner: holder.map(|holder| holder.node.clone()),
        }
    }
}

/// What the plan must know of a driver's reply.
impl<L> From<&Reply<L>> for Answer {
    fn from(reply: &Reply<L>) -> Self {
        match reply {
            Reply::Won(grant) => Self::Won(Win {
                fence: grant.fence,
                previous: grant.previous.clone(),
                attempt: grant.attempt,
                schedule: grant.schedule,
            }),
            Reply::Stale { mark, done, owner } => Self::stale(*mark, *done, owner.as_deref()),
            Reply::Busy { holder } => Self::busy(holder.as_deref()),
            Reply::Behind { mark, unfinished } => {
                Self::Behind { mark: *mark, unfinished: *unfinished }
            }
            Reply::Early { store_now } => Self::Early { store_now: *store_now },
        }
    }
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

/// Where the marks of a leader are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marks {
    /// In the store: a take-over finds what was claimed before it.
    Stored,
    /// With the leader, and gone with its term: a take-over starts after its own beginning.
    OfTheTerm,
}

/// The plan of all jobs of one node.
#[derive(Debug, Clone)]
pub struct Plan {
    jobs: Vec<Arc<JobPlan>>,
    states: Vec<State>,
    /// When each job wants to be looked at; a job stands here at most once.
    wakes: BTreeSet<(Timestamp, usize)>,
    /// This node claims; always, where there is no leader.
    leading: bool,
    marks: Marks,
    stopping: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    phase: Phase,
    /// Every tick up to here is settled, as far as this node is concerned.
    cursor: Mark,
    /// A tick whose run never ended, to be claimed again before anything else.
    unfinished: Option<Mark>,
    /// Nothing was missed before this: the schedule began then.
    since: Mark,
    /// A fast node was told to wait until here: lateness counts from here on.
    held_back: Option<Timestamp>,
    /// Failures in a row.
    failures: u32,
    /// What the tick waits for.
    waits_for: WaitsFor,
    /// The store may have forgotten this job, or others had its marks; look as soon as nothing else is under way.
    forgot: bool,
    /// What is under way began in a term that is over.
    void: bool,
    watching: bool,
    wakes_at: Option<Timestamp>,
    told_of_schedule: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum WaitsFor {
    Nothing,
    /// The run of this very tick, elsewhere: it may be undone, or die.
    Run(Option<NodeId>),
    /// The run of another tick.
    Overlap,
    Backend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
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

/// What to do, for which job.
pub type Actions = Vec<(usize, Action)>;

impl Plan {
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
    #[must_use]
    pub fn new(jobs: Vec<Arc<JobPlan>>) -> Self {
        let mut plan = Self::following(jobs, Marks::Stored);
        plan.leading = true;
        for job in 0..plan.jobs.len() {
            plan.wake_job_at(job, Some(Timestamp::MIN));
        }
        plan
    }

    /// The plan of a node that does nothing before it [leads](Self::lead).
    #[must_use]
    pub fn following(jobs: Vec<Arc<JobPlan>>, marks: Marks) -> Self {
        let state = State {
            phase: Phase::New,
            cursor: Mark::from_millis(i64::MIN),
            unfinished: None,
            since: Mark::from_millis(i64::MIN),
            held_back: None,
            failures: 0,
            waits_for: WaitsFor::Nothing,
            forgot: false,
            void: false,
            watching: false,
            wakes_at: None,
            told_of_schedule: false,
        };
        Self {
            states: vec![state; jobs.len()],
            jobs,
            wakes: BTreeSet::new(),
            leading: false,
            marks,
            stopping: false,
        }
    }

    /// When [`wake`](Self::wake) wants to be called next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Time has come to `now`.
    pub fn wake(&mut self, now: Timestamp) -> Actions {
        let mut actions = Vec::new();
        while let Some(&(at, job)) = self.wakes.first()
            && at <= now
        {
            self.wakes.pop_first();
            self.states[job].wakes_at = None;
            self.look(job, now, &mut actions);
        }
        actions
    }

    /// Something happened to one job.
    pub fn on(&mut self, job: usize, now: Timestamp, input: Input) -> Actions {
        let mut actions = Vec::new();
        match input {
            Input::Enrolled(answer) => self.enrolled(job, now, answer, &mut actions),
            Input::Answer(answer) => self.answered(job, now, answer, &mut actions),
            Input::Woken => match &mut self.states[job].phase {
                Phase::Claiming { woken, .. } => *woken = true,
                Phase::Waiting { .. } => self.look(job, now, &mut actions),
                _ => {}
            },
            Input::RunEnded { started, ended, complete } => {
                self.run_ended(job, started, ended, complete, &mut actions)
            }
            Input::Released => {
                self.states[job].phase = Phase::Idle;
                self.look(job, now, &mut actions);
            }
            Input::Forgot => {
                self.states[job].forgot = true;
                if matches!(self.states[job].phase, Phase::Idle | Phase::Waiting { .. }) {
                    self.look(job, now, &mut actions);
                }
            }
        }
        actions
    }

    /// The wall clock was set: nothing that was counted by it is right any more.
    pub fn clock_stepped(&mut self, now: Timestamp) -> Actions {
        let mut actions = Vec::new();
        for job in 0..self.jobs.len() {
            let state = &mut self.states[job];
            state.held_back = None;
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
            (state.unfinished, state.held_back) = (None, None);
            (state.failures, state.waits_for) = (0, WaitsFor::Nothing);
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
            state.wakes_at = None;
            state.void = matches!(
                state.phase,
                Phase::Enrolling | Phase::Claiming { .. } | Phase::Running { .. }
            );
            self.unwatch(job, &mut actions);
        }
        actions
    }

    /// No more claims from now on. Runs go on; what is won from now on is undone.
    pub fn stop(&mut self) -> Actions {
        self.stopping = true;
        self.wakes.clear();
        let mut actions = Vec::new();
        for job in 0..self.jobs.len() {
            self.states[job].wakes_at = None;
            self.unwatch(job, &mut actions);
        }
        actions
    }

    /// Whether anything is under way: an attempt, a run, or giving back.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.states.iter().any(|state| {
            matches!(state.phase, Phase::Claiming { .. } | Phase::Running { .. } | Phase::Releasing)
        })
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
                && let WaitsFor::Run(to) = &self.states[job].waits_for
            {
                // A newer tick is due. The one before has its run, as far as we know.
                actions.push((job, Action::Report(What::Yielded { tick: before, to: to.clone() })));
            }
            if self.states[job].unfinished.is_none() && now > self.late_at(job, tick) {
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

    /// The grace of `tick` is over, and of every tick before it.
    fn give_up(&mut self, job: usize, now: Timestamp, tick: Mark, actions: &mut Actions) {
        let (state, spec) = (&self.states[job], &self.jobs[job]);
        // Catching up one by one must not walk through a month of them.
        let last = match (spec.misfire.catch_up, spec.misfire.grace) {
            (CatchUp::All, Some(grace)) => {
                let young = now.checked_sub(grace).unwrap_or(Timestamp::MIN);
                before(&*spec.trigger, Mark::floor(young)).map_or(tick, |last| last.max(tick))
            }
            _ => tick,
        };
        let waited = match state.phase {
            Phase::Waiting { tick } => Some((tick, state.waits_for.clone())),
            _ => None,
        };
        let late = between(&*spec.trigger, state.cursor, last).into_iter().chain([last]);
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
    fn candidate(&self, job: usize, now: Timestamp) -> Option<Mark> {
        let (state, spec) = (&self.states[job], &self.jobs[job]);
        if let Some(unfinished) = state.unfinished {
            return Some(unfinished);
        }
        let tick = match spec.misfire.catch_up {
            CatchUp::Latest => spec.trigger.last_at_or_before(now),
            CatchUp::All => {
                spec.trigger.next_after(state.cursor.timestamp()).filter(|tick| *tick <= now)
            }
        };
        tick.map(Mark::floor).filter(|tick| *tick > state.cursor)
    }

    fn claim(&self, job: usize, tick: Mark, now: Timestamp) -> Claim {
        let spec = &self.jobs[job];
        // Every missed tick in its turn; but one that is too old to be run holds up nobody.
        let after = (spec.misfire.catch_up == CatchUp::All)
            .then(|| before(&*spec.trigger, tick))
            .flatten()
            .filter(|previous| {
                *previous > self.states[job].since && now <= self.late_at(job, *previous)
            });
        Claim { tick, after, delivery: spec.delivery }
    }

    /// When `tick` is too late to be claimed.
    fn late_at(&self, job: usize, tick: Mark) -> Timestamp {
        let (state, spec) = (&self.states[job], &self.jobs[job]);
        let tick = tick.timestamp();
        let grace = spec.misfire.grace_of(tick, spec.trigger.next_after(tick));
        later(state.held_back.map_or(tick, |until| until.max(tick)), grace)
    }

    /// Nothing to claim: sleep until the next tick.
    fn rest(&mut self, job: usize, actions: &mut Actions) {
        self.unwatch(job, actions);
        let state = &mut self.states[job];
        state.phase = Phase::Idle;
        state.held_back = None;
        state.failures = 0;
        state.waits_for = WaitsFor::Nothing;
        let next = self.jobs[job].trigger.next_after(state.cursor.timestamp());
        self.wake_job_at(job, next);
    }

    /// The tick is somebody's business no more.
    fn settle(&mut self, job: usize, tick: Mark) {
        let state = &mut self.states[job];
        state.cursor = state.cursor.max(tick);
        state.unfinished = state.unfinished.filter(|unfinished| *unfinished > tick);
        state.held_back = None;
    }

    fn enrolled(
        &mut self,
        job: usize,
        now: Timestamp,
        answer: Result<Enrolled, BackendError>,
        actions: &mut Actions,
    ) {
        if std::mem::take(&mut self.states[job].void) {
            // Read in a term that is over: others may have claimed since.
            self.states[job].phase = Phase::New;
            self.states[job].forgot = false;
            return self.look(job, now, actions);
        }
        let enrolled = match answer {
            Ok(enrolled) => enrolled,
            Err(error) => {
                self.states[job].phase = Phase::New;
                let retry = self.backoff(job, &error, actions);
                return self.wake_job_at(job, Some(later(now, retry)));
            }
        };
        let last = &enrolled.last;
        let again = self.states[job].cursor > Mark::from_millis(i64::MIN);
        let forgot = enrolled.schedule.since > self.states[job].since;
        actions.push((
            job,
            // Whoever made the record anew may be gone, or may not have heard of it: every node that was there before says so.
            Action::Report(if again && (enrolled.created || forgot) {
                What::Forgot { mark: enrolled.schedule.since }
            } else {
                What::Enrolled { mark: last.mark }
            }),
        ));
        if last.mark.timestamp() > later(now, Self::MAX_SKEW) {
            actions.push((
                job,
                Action::Report(What::MarkAhead { mark: last.mark, owner: last.owner.clone() }),
            ));
        }
        self.states[job].since = enrolled.schedule.since;
        // A claim that is not done may yet be undone: its tick is asked for once, while that can be of use.
        let provisional = !last.done
            && last.attempts > 0
            && now <= self.late_at(job, last.mark)
            && Rule::ClaimIsProvisional.holds();
        let settled = match provisional {
            true => {
                before(&*self.jobs[job].trigger, last.mark).unwrap_or(Mark::from_millis(i64::MIN))
            }
            false => last.mark,
        };
        // Nothing was missed before a schedule began.
        let state = &mut self.states[job];
        state.cursor = state.cursor.max(settled).max(state.since);
        let attempts_left = match self.jobs[job].delivery {
            Delivery::AtMostOnce => false,
            Delivery::AtLeastOnce { max_attempts } => last.attempts < max_attempts,
        };
        state.unfinished = (!last.done && last.attempts > 0 && attempts_left).then_some(last.mark);
        state.phase = Phase::Idle;
        self.look(job, now, actions);
    }

    fn answered(&mut self, job: usize, now: Timestamp, answer: Answer, actions: &mut Actions) {
        let Phase::Claiming { tick, woken } = self.states[job].phase else { return };
        if std::mem::take(&mut self.states[job].void) {
            return self.answered_too_late(job, now, tick, answer, actions);
        }
        if !matches!(answer, Answer::Failed(_)) {
            self.states[job].failures = 0;
        }
        match answer {
            Answer::Won(win) => return self.won(job, now, tick, win, actions),
            Answer::Stale { mark, done, living, remaining, owner } => {
                // Claimed, and its run goes on: it may yet be undone. Anything else is settled.
                if mark == tick && !done && living && Rule::ClaimIsProvisional.holds() {
                    let retry = remaining.unwrap_or(Self::BUSY_RETRY);
                    self.wait(job, now, tick, retry, WaitsFor::Run(owner), actions);
                } else {
                    if mark.timestamp() > later(now, Self::MAX_SKEW) {
                        actions.push((
                            job,
                            Action::Report(What::MarkAhead { mark, owner: owner.clone() }),
                        ));
                    }
                    actions.push((job, Action::Report(What::Yielded { tick, to: owner })));
                    // A later claim whose run goes on may yet be undone: it settles what lies before it, not its own tick.
                    let settled =
                        if mark > tick && !done && living && Rule::ClaimIsProvisional.holds() {
                            before(&*self.jobs[job].trigger, mark).unwrap_or(tick)
                        } else {
                            mark
                        };
                    self.settle(job, tick.max(settled));
                    self.states[job].phase = Phase::Idle;
                    return self.look(job, now, actions);
                }
            }
            Answer::Busy { tick: holders, remaining, owner } => {
                if !Rule::BusyIsProvisional.holds() {
                    self.settle(job, tick);
                    self.states[job].phase = Phase::Idle;
                    return self.look(job, now, actions);
                }
                if let (Delivery::AtLeastOnce { .. }, Some(running)) =
                    (self.jobs[job].delivery, holders)
                {
                    // If it dies, its tick goes first, and no grace ends that.
                    self.states[job].unfinished = Some(running.min(tick));
                }
                // Its tick is mine: another node runs it, which is no overlap.
                let why =
                    if holders == Some(tick) { WaitsFor::Run(owner) } else { WaitsFor::Overlap };
                self.wait(job, now, tick, remaining.unwrap_or(Self::BUSY_RETRY), why, actions);
            }
            Answer::Behind { mark, unfinished } => {
                let state = &mut self.states[job];
                if unfinished {
                    state.unfinished = Some(mark);
                } else {
                    state.cursor = mark.max(state.since);
                    state.unfinished = None;
                }
                state.phase = Phase::Idle;
                return self.look(job, now, actions);
            }
            Answer::Early { store_now } => {
                let wait = Duration::try_from(tick.timestamp().duration_since(store_now))
                    .unwrap_or_default();
                let wait = wait.max(Duration::from_millis(1));
                self.states[job].held_back = Some(later(now, wait));
                self.states[job].phase = Phase::Waiting { tick };
                // Nobody can wake us from this one, so a wake-up in between means nothing.
                return self.wake_job_at(job, Some(later(now, wait.min(Self::LONGEST_WAIT))));
            }
            // Once at once; a store that goes on saying so is treated like one that fails.
            Answer::Failed(error)
                if error.kind() == Kind::NotEnrolled && self.states[job].failures == 0 =>
            {
                self.states[job].failures = 1;
                self.states[job].forgot = true;
                self.states[job].phase = Phase::Idle;
                return self.look(job, now, actions);
            }
            Answer::Failed(error) => {
                self.states[job].forgot |= error.kind() == Kind::NotEnrolled;
                let retry = self.backoff(job, &error, actions);
                self.wait(job, now, tick, retry, WaitsFor::Backend, actions);
            }
        }
        if woken {
            self.look(job, now, actions);
        }
    }

    /// An answer to what was asked in a term that is over.
    fn answered_too_late(
        &mut self,
        job: usize,
        now: Timestamp,
        tick: Mark,
        answer: Answer,
        actions: &mut Actions,
    ) {
        if let Answer::Won(Win { fence, .. }) = answer {
            self.states[job].phase = Phase::Releasing;
            actions.push((job, Action::Undo));
            return actions.push((job, Action::Report(What::Undone { tick, fence })));
        }
        self.states[job].phase = Phase::Idle;
        self.look(job, now, actions);
    }

    /// Tries again when woken, or after `retry`.
    fn wait(
        &mut self,
        job: usize,
        now: Timestamp,
        tick: Mark,
        retry: Duration,
        why: WaitsFor,
        actions: &mut Actions,
    ) {
        let state = &mut self.states[job];
        state.phase = Phase::Waiting { tick };
        let watch = matches!(why, WaitsFor::Run(_) | WaitsFor::Overlap);
        state.waits_for = why;
        if watch && !std::mem::replace(&mut state.watching, true) {
            actions.push((job, Action::Watch));
        }
        // A store's expiry has a grain of a millisecond.
        let retry = retry.saturating_add(Duration::from_millis(1)).min(Self::LONGEST_WAIT);
        self.wake_job_at(job, Some(later(now, retry)));
    }

    fn unwatch(&mut self, job: usize, actions: &mut Actions) {
        if std::mem::take(&mut self.states[job].watching) {
            actions.push((job, Action::Unwatch));
        }
    }

    fn backoff(&mut self, job: usize, error: &BackendError, actions: &mut Actions) -> Duration {
        let state = &mut self.states[job];
        if state.failures == 0 || !error.kind().is_transient() {
            actions.push((job, Action::Report(What::BackendFailed { error: error.clone() })));
        }
        state.failures = (state.failures + 1).min(16);
        let backoff = Duration::from_millis(25)
            .saturating_mul(1 << state.failures)
            .min(Self::LONGEST_BACKOFF);
        // What only a person can mend is tried seldom.
        let backoff = if error.kind().is_transient() {
            backoff
        } else {
            backoff.max(Self::LONGEST_BACKOFF) * 2
        };
        error
            .retry_after()
            .map_or(backoff, |after| after.clamp(Duration::from_millis(1), Self::LONGEST_BACKOFF))
    }

    fn won(&mut self, job: usize, now: Timestamp, tick: Mark, win: Win, actions: &mut Actions) {
        let Win { fence, previous, attempt, schedule } = win;
        self.unwatch(job, actions);
        let too_late = self.states[job].unfinished.is_none() && now > self.late_at(job, tick);
        self.settle(job, tick);
        if self.stopping || too_late {
            self.states[job].phase = Phase::Releasing;
            actions.push((job, Action::Undo));
            let what = if self.stopping {
                What::Undone { tick, fence }
            } else {
                What::Missed { tick, why: MissedWhy::Backend }
            };
            return actions.push((job, Action::Report(what)));
        }
        self.states[job].phase = Phase::Running { tick };
        self.wake_job_at(job, None);
        if self.marks == Marks::Stored {
            actions.push((job, Action::Report(What::Claimed { tick, fence, attempt })));
        }
        if let Some(previous) = previous
            .as_ref()
            .filter(|previous| !previous.done && previous.attempts > 0 && previous.mark != tick)
        {
            actions.push((
                job,
                Action::Report(What::Abandoned {
                    tick: previous.mark,
                    owner: previous.owner.clone(),
                }),
            ));
        }
        let spec = Arc::clone(&self.jobs[job]);
        let state = &mut self.states[job];
        if let Some(schedule) = schedule {
            state.since = state.since.max(schedule.since);
            if schedule.fingerprint != spec.trigger.fingerprint()
                && !std::mem::replace(&mut state.told_of_schedule, true)
            {
                actions.push((job, Action::Report(What::ScheduleDiffers)));
            }
        }
        let from = previous.map_or(tick, |previous| previous.mark.max(state.since));
        actions.push((job, Action::Start { tick, missed: between(&*spec.trigger, from, tick) }));
    }

    fn run_ended(
        &mut self,
        job: usize,
        started: Timestamp,
        ended: Timestamp,
        complete: bool,
        actions: &mut Actions,
    ) {
        let Phase::Running { tick } = self.states[job].phase else { return };
        self.states[job].phase = Phase::Releasing;
        let void = std::mem::take(&mut self.states[job].void);
        let spec = &self.jobs[job];
        if !complete {
            if matches!(spec.delivery, Delivery::AtLeastOnce { .. }) && !self.stopping && !void {
                self.states[job].unfinished = Some(tick);
            }
            return actions.push((job, Action::Release(MarkAfter::Unfinished)));
        }
        // Ticks that came due while it ran are not run. But one that came due before it started is somebody's to claim, and the mark
        // must not pass it.
        let wants_all = spec.misfire.catch_up == CatchUp::All && Rule::SkipNothingWanted.holds();
        let unclaimed = Rule::SkipFromStart.holds()
            && spec.trigger.next_after(tick.timestamp()).is_some_and(|next| next <= started);
        let overlapped = spec
            .trigger
            .last_at_or_before(ended)
            .map(Mark::floor)
            .filter(|last| *last > tick && !wants_all && !unclaimed)
            // Without a lease that others see, they have started what was due since.
            .filter(|_| !(void && self.marks == Marks::OfTheTerm));
        match overlapped {
            Some(to) => {
                // Not settled here: the store cuts it at its own clock, and a fast node that took its own clock's word would lose
                // the rest. It asks, and is told.
                actions.push((job, Action::Report(What::Overlapped { after: tick, to })));
                actions.push((job, Action::Release(MarkAfter::DoneAndSkip(to))));
            }
            None => actions.push((job, Action::Release(MarkAfter::Done))),
        }
    }

    fn wake_job_at(&mut self, job: usize, at: Option<Timestamp>) {
        if let Some(old) = self.states[job].wakes_at.take() {
            self.wakes.remove(&(old, job));
        }
        if let (Some(at), true) = (at, self.leading && !self.stopping) {
            self.states[job].wakes_at = Some(at);
            self.wakes.insert((at, job));
        }
    }
}

/// Equal plans of the same jobs do the same from here on.
impl Hash for Plan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.states.hash(state);
        (self.leading, self.marks, self.stopping).hash(state);
    }
}

/// The tick before `tick`.
fn before(trigger: &dyn Trigger, tick: Mark) -> Option<Mark> {
    trigger
        .last_at_or_before(Mark::from_millis(tick.as_millis().saturating_sub(1)).timestamp())
        .map(Mark::floor)
        .filter(|b| *b < tick)
}

/// The ticks between `from` and `to`, both left out; the last ones where they are too many to name.
fn between(trigger: &dyn Trigger, from: Mark, to: Mark) -> Vec<Mark> {
    let mut ticks: Vec<_> =
        std::iter::successors(before(trigger, to), |tick| before(trigger, *tick))
            .take_while(|tick| *tick > from)
            .take(Plan::MOST_MISSED)
            .collect();
    ticks.reverse();
    ticks
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
