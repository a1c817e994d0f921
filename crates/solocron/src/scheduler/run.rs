//! The loop: tells the plan what happened, does what the plan says.
//!
//! ```text
//!                 ┌────────────── messages ◄─────────────┐
//!   clock ──► loop ──► plan ──► actions ──► tasks: enroll, claim (one batch), run, give back, watch
//! ```
//!
//! The loop owns the plan and never waits for a store or a job. A turn hears all that has come in, up to a bound, and then does at
//! once what follows: what many jobs want at one instant is one task and one message, and no turn is long. In a group it decides only while
//! it leads: [`Term`] says so before each step. What was decided and not yet done when a term ends is claimed, and undone. Shutting down:
//!
//! ```text
//!   stop ──► no new claims ──► drain ──► told to stop ──► stopped (a moment later) ──► leases given back ──► end
//!   stop again ───────────────────────────────────────►───┘
//! ```
//!
//! A leader resigns after "no new claims" where its runs have leases of their own, and before the end where they have none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::hands::{Hand, Pending};
use super::hub::{Ended, Hub, Message};
use super::term::{self, Term};
use super::{Planned, Scheduler, Stopper};
use crate::clock::{Clock, LeaseInstant, within};
use crate::error::{BackendError, Kind, Result};
use crate::event::{Cancelled, Observer, Outcome, What};
use crate::job::Context;
use crate::leader::Transition;
use crate::lock::backend::Epoch;
use crate::lock::{ClaimReply, Keeper, Locks};
use crate::plan::{Actions, Answer, Input, Marks, Plan, Win};

/// How long a run that was told to stop has before it is stopped.
pub(super) const NOTICE: Duration = Duration::from_secs(1);

/// How often the store is asked whether it forgot, and the longest sleep: a clock that was set is seen by then.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How many jobs a turn looks at, and again how many it hears of, before the signal is looked at and others have the thread.
const MOST_IN_A_TURN: usize = 1_000;

/// For how many turns in a row that hear so many the jobs that are due wait. A job that is begun is heard of three times.
const MOST_PUT_OFF: u32 = 4;

impl Scheduler {
    /// Schedules until `signal` completes or [`Stopper::stop`] is called, then shuts down: no new claims, runs end or are told to,
    /// leases are given back. Bounded by the [drain time](super::SchedulerBuilder::drain) and a few seconds.
    ///
    /// # Errors
    ///
    /// None today; a fault of the store is told to the observer and outlived.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops everything at its next await point; leases are given back in the background.
    pub async fn run_until<T>(self, signal: impl Future<Output = T>) -> Result<()> {
        let Self { locks, jobs, plans, group, observer, drain, spawner, stopper } = self;
        let (hub, messages) = Hub::new();
        let term = group.map(|group| Term::campaign(&locks, group));
        let mut engine = Engine {
            plan: match &term {
                Some(term) => Plan::following(plans, term.marks()),
                None => Plan::new(plans),
            },
            term,
            clock: Arc::clone(locks.clock()),
            marks: locks.clone(),
            locks,
            jobs,
            observer,
            spawner: spawner.unwrap_or_else(Keeper::current),
            hub: Arc::new(hub),
            in_hand: None,
            pending: Pending::default(),
            actions: Actions::new(),
            runs: HashMap::new(),
            watches: HashMap::new(),
            stuck: HashSet::new(),
            stopping: CancellationToken::new(),
            epoch: None,
            asking_epoch: false,
        };
        engine.run(messages, signal, drain, &stopper).await;
        Ok(())
    }
}

pub(super) struct Engine {
    pub(super) plan: Plan,
    /// Where this node has its turn only while it leads.
    pub(super) term: Option<Term>,
    pub(super) locks: Locks,
    /// Where ticks are claimed: the same locks, or the ledger of a term.
    pub(super) marks: Locks,
    pub(super) jobs: Vec<Planned>,
    pub(super) observer: Option<Observer>,
    pub(super) spawner: Keeper,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hub: Arc<Hub>,
    /// A lease between two tasks: just won, or of a run that just ended. The plan says at once what becomes of it.
    pub(super) in_hand: Option<Hand>,
    /// What a turn has found to do, and does for all jobs together.
    pub(super) pending: Pending,
    /// Room for what the plan says.
    actions: Actions,
    pub(super) runs: HashMap<usize, Context>,
    pub(super) watches: HashMap<usize, DropGuard>,
    /// Jobs whose last claim got no answer.
    pub(super) stuck: HashSet<usize>,
    /// Tells runs that the scheduler is shutting down.
    pub(super) stopping: CancellationToken,
    epoch: Option<Epoch>,
    pub(super) asking_epoch: bool,
}

impl Engine {
    async fn run<T>(
        &mut self,
        mut messages: UnboundedReceiver<Message>,
        signal: impl Future<Output = T>,
        drain: Duration,
        stopper: &Stopper,
    ) {
        let mut signal = std::pin::pin!(signal);
        let mut heartbeat = self.clock.lease_now();
        let mut steps = ClockSteps::new(&*self.clock);
        let (mut heard, mut put_off) = (0, 0);
        loop {
            let now = self.clock.now();
            if let Some(term) = &self.term {
                term.beat();
            }
            self.look_at_term();
            if steps.stepped(&*self.clock) {
                self.decide(|plan, actions| actions.append(&mut plan.clock_stepped(now)));
            }
            if self.clock.lease_now() >= heartbeat {
                heartbeat = self.clock.lease_now() + HEARTBEAT;
                self.ask_epoch();
            }
            // What is begun is brought to its end before more is begun: otherwise, where many jobs are due at once, all of them
            // would hold leases and wait for each other.
            if heard < MOST_IN_A_TURN || put_off == MOST_PUT_OFF {
                self.decide(|plan, actions| plan.wake_some(now, MOST_IN_A_TURN, actions));
                put_off = 0;
            } else {
                put_off += 1;
            }
            self.flush();
            let wait = self
                .plan
                .next_wake()
                .map_or(HEARTBEAT, |at| between(self.clock.now(), at))
                .min(HEARTBEAT);
            heard = 0;
            tokio::select! {
                biased;
                () = stopper.soon().cancelled() => break,
                _ = &mut signal => break,
                transition = term::next(&mut self.term) => self.hear(transition),
                message = messages.recv() => heard = self.take(message, self.clock.now()),
                () = self.clock.sleep(wait) => {}
            }
            // Whatever else has come in meanwhile, before looking at the clock again.
            let now = self.clock.now();
            heard += self.take_more(&mut messages, now, heard);
            if heard >= MOST_IN_A_TURN || wait.is_zero() {
                // There is more to do. The runs that were started have their turn first, where this thread is the only one.
                self.flush();
                tokio::task::yield_now().await;
            }
        }
        self.shut_down(&mut messages, drain, stopper).await;
        self.resign().await;
        // What is being revoked or given back in the background, too, if the store answers.
        within(&*self.clock, NOTICE * 5, self.locks.settled()).await;
    }

    /// Waits until the leadership is given back; where the runs had nothing else, it is given back only now that they have ended.
    async fn resign(&mut self) {
        let Some(term) = &mut self.term else { return };
        if term.marks() == Marks::OfTheTerm && !self.runs.is_empty() {
            return; // one that cannot be stopped keeps the lock until it ends: nothing else keeps others from running the same
        }
        within(&*self.clock, NOTICE * 5, term.resign()).await;
        // What the elector still has to say is there already.
        while let Some(transition) = self.term.as_mut().and_then(Term::try_next) {
            self.hear(transition);
        }
    }

    /// Stops what only a leader does, if this node was one and is not any more.
    fn look_at_term(&mut self) {
        if self.term.as_ref().is_some_and(Term::is_over) {
            self.follow();
        }
    }

    fn follow(&mut self) {
        if let Some(term) = &mut self.term {
            term.end();
        }
        self.decide(|plan, actions| actions.append(&mut plan.follow()));
    }

    fn hear(&mut self, transition: Transition) {
        let Some(term) = &mut self.term else { return };
        let what = match transition {
            Transition::Elected(leadership) => {
                let fence = leadership.fence();
                if term.begin(leadership) {
                    if term.marks() == Marks::OfTheTerm {
                        self.marks = self.locks.ledger();
                    }
                    self.report_group(What::Elected { fence });
                    let now = self.clock.now();
                    return self.decide(|plan, actions| actions.append(&mut plan.lead(now)));
                }
                What::Elected { fence } // and over: that comes next
            }
            Transition::Lost { fence, why } => {
                self.follow();
                What::Deposed { fence, why }
            }
            Transition::Resigned { fence } => {
                self.follow();
                What::Resigned { fence }
            }
            Transition::Follows { leader } => What::Follows { leader },
            Transition::Failed { error } => What::BackendFailed { error },
        };
        self.report_group(what);
    }

    async fn shut_down(
        &mut self,
        messages: &mut UnboundedReceiver<Message>,
        drain: Duration,
        stopper: &Stopper,
    ) {
        stopper.soon().cancel();
        self.decide(|plan, actions| actions.append(&mut plan.stop()));
        // Not before: nothing is claimed any more, and what is won late is undone.
        if let Some(term) = &self.term {
            term.stop();
        }
        self.stopping.cancel();
        let begun = self.clock.lease_now();
        let told_at = begun + drain;
        let mut stopped_at = told_at + NOTICE;
        let mut over_at = stopped_at + NOTICE * 5;
        let (mut told, mut stopped) = (false, false);
        while !self.plan.is_idle() {
            self.flush();
            let next = if !told {
                told_at
            } else if !stopped {
                stopped_at
            } else {
                over_at
            };
            tokio::select! {
                biased;
                transition = term::next(&mut self.term) => { self.hear(transition); continue }
                message = messages.recv() => {
                    let now = self.clock.now();
                    self.take(message, now);
                    self.take_more(messages, now, 0);
                    continue;
                }
                () = stopper.now().cancelled(), if !stopped => {
                    (told, stopped) = (true, true);
                    over_at = self.clock.lease_now() + NOTICE * 5;
                }
                () = self.clock.sleep_until(next) => {
                    if stopped {
                        tracing::warn!("shutdown is over, but a run or a store is not: its leases end with the process or by themselves");
                        return;
                    }
                    // Each stage counts from here: a process that stood still has told nobody yet, and its runs need their moment.
                    let now = self.clock.lease_now();
                    if told {
                        stopped = true;
                        over_at = over_at.max(now + NOTICE * 5);
                    } else {
                        told = true;
                        stopped_at = stopped_at.max(now + NOTICE);
                    }
                }
            }
            for run in self.runs.values() {
                run.told().cancel.end(Cancelled::Shutdown);
                if stopped {
                    run.told().abort.end(());
                }
            }
        }
    }

    /// Hears what is there already, as far as a turn that has `heard` so many may; says of how many jobs that was.
    fn take_more(
        &mut self,
        messages: &mut UnboundedReceiver<Message>,
        now: Timestamp,
        heard: usize,
    ) -> usize {
        let mut more = 0;
        while heard + more < MOST_IN_A_TURN
            && let Ok(message) = messages.try_recv()
        {
            more += self.take(Some(message), now);
        }
        more
    }

    /// Hears a message, and says of how many jobs that was.
    fn take(&mut self, message: Option<Message>, now: Timestamp) -> usize {
        let Some(message) = message else { return 0 };
        self.look_at_term();
        let weight = message.weight();
        match message {
            Message::Enrolled(jobs, answers) => {
                for (job, answer) in jobs.into_iter().zip(answers) {
                    self.tell(job, now, Input::Enrolled(answer));
                }
            }
            Message::Answered(replies) => {
                for (job, reply) in replies {
                    self.answered(job, now, reply);
                }
            }
            Message::Woken(job) => self.tell(job, now, Input::Woken),
            Message::Ended(ended) => self.ended(now, ended),
            Message::Released(jobs) => {
                for job in jobs {
                    self.tell(job, now, Input::Released);
                }
            }
            Message::Epoch(answer) => self.heard_epoch(now, answer),
        }
        weight
    }

    fn answered(&mut self, job: usize, now: Timestamp, reply: Result<ClaimReply, BackendError>) {
        if reply.as_ref().is_err_and(|error| error.kind() == Kind::Timeout) {
            self.stuck.insert(job);
        } else if !self.stuck.is_empty() {
            self.stuck.remove(&job);
        }
        let answer = match reply {
            Ok(ClaimReply::Won(mut guard)) => {
                let mut win = Win::of(&mut guard);
                win.fence = self.leaders_fence().unwrap_or(win.fence);
                self.in_hand = Some(Hand { job, guard });
                Answer::Won(win)
            }
            reply => Answer::of(&reply),
        };
        self.tell(job, now, Input::Answer(answer));
    }

    fn ended(&mut self, now: Timestamp, ended: Ended) {
        let Ended { job, guard, started, ended, outcome } = ended;
        let run = self.runs.remove(&job);
        let fence = run.map_or(guard.lease.fence(), |run| run.fence());
        let complete = is_complete(&outcome);
        self.report(job, What::Finished { tick: guard.tick, fence, outcome });
        self.in_hand = Some(Hand { job, guard });
        self.tell(job, now, Input::RunEnded { started, ended, complete });
    }

    fn heard_epoch(&mut self, now: Timestamp, answer: Result<Epoch, BackendError>) {
        self.asking_epoch = false;
        let Ok(epoch) = answer else { return };
        if self.epoch.replace(epoch).is_some_and(|before| before != epoch) {
            for job in 0..self.jobs.len() {
                self.tell(job, now, Input::Forgot);
            }
        }
    }

    fn tell(&mut self, job: usize, now: Timestamp, input: Input) {
        self.decide(|plan, actions| plan.tell(job, now, input, actions));
        // What the plan wants no more was won for a term that is over, and gives itself back.
        self.in_hand = None;
    }

    fn decide(&mut self, ask: impl FnOnce(&mut Plan, &mut Actions)) {
        let mut actions = std::mem::take(&mut self.actions);
        ask(&mut self.plan, &mut actions);
        for (job, action) in actions.drain(..) {
            self.act(job, action);
        }
        self.actions = actions;
    }
}

/// However the engine ends, its runs are told: those that block a thread go on without it.
impl Drop for Engine {
    fn drop(&mut self) {
        self.hub.end();
        self.stopping.cancel();
        for run in self.runs.values() {
            run.told().cancel.end(Cancelled::Shutdown);
        }
    }
}

pub(super) fn is_complete(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Cancelled(_))
}

/// From `from` to `to`; zero where `to` is earlier.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Notices that the wall clock was set: it moved otherwise than the lease clock did.
struct ClockSteps {
    wall: Timestamp,
    lease: LeaseInstant,
}

impl ClockSteps {
    const NOTICEABLE: Duration = Duration::from_millis(500);

    fn new(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), lease: clock.lease_now() }
    }

    fn stepped(&mut self, clock: &dyn Clock) -> bool {
        let before = std::mem::replace(self, Self::new(clock));
        let by_lease = self.lease.saturating_since(before.lease);
        let expected = before.wall.checked_add(by_lease).unwrap_or(Timestamp::MAX);
        between(expected, self.wall).max(between(self.wall, expected)) > Self::NOTICEABLE
    }
}
