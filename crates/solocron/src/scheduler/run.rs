//! The loop: tells the plan what happened, does what the plan says.
//!
//! ```text
//!                 ┌────────────── messages ◄─────────────┐
//!   clock ──► loop ──► plan ──► actions ──► tasks: enroll, claim (one batch), run, give back, watch
//! ```
//!
//! The loop owns the plan and never waits for a store or a job. In a group it claims only while it leads: [`Term`] says so before each
//! step. Shutting down:
//!
//! ```text
//!   stop ──► no new claims ──► drain ──► told to stop ──► stopped (a moment later) ──► leases given back ──► end
//!   stop again ───────────────────────────────────────►───┘
//! ```
//!
//! A leader resigns after "no new claims" where its runs have leases of their own, and before the end where they have none.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::running::Running;
use super::term::{self, Term};
use super::{Planned, Scheduler, Stopper};
use crate::clock::{Clock, LeaseInstant, within};
use crate::error::{BackendError, Kind, Result};
use crate::event::{Cancelled, Event, Observer, Outcome, What};
use crate::job::{Cancel, Context, Told, Work};
use crate::leader::Transition;
use crate::lock::backend::{Claim, Enrolled, Enrolment, Epoch, MarkAfter};
use crate::lock::{ClaimGuard, ClaimReply, Fence, Keeper, LockKey, Locks, Mark};
use crate::plan::{Action, Actions, Answer, Input, Marks, Plan};

/// How long a run that was told to stop has before it is stopped.
pub(super) const NOTICE: Duration = Duration::from_secs(1);

/// How often the store is asked whether it forgot, and the longest sleep: a clock that was set is seen by then.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How many messages are taken before the signal is looked at again.
const MOST_AT_ONCE: usize = 1_000;

/// What a task has to say.
pub(super) enum Message {
    Enrolled(Vec<usize>, Vec<Result<Enrolled, BackendError>>),
    Answered(usize, Result<ClaimReply, BackendError>),
    Woken(usize),
    Ended {
        job: usize,
        guard: Box<ClaimGuard>,
        started: Timestamp,
        ended: Timestamp,
        outcome: Outcome,
    },
    Released(usize),
    Epoch(Result<Epoch, BackendError>),
}

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
        let Self { locks, jobs, group, observer, drain, spawner, stopper } = self;
        let (to_loop, messages) = unbounded_channel();
        let stopped = CancellationToken::new();
        let plans = jobs.iter().map(|job| Arc::clone(&job.plan)).collect();
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
            to_loop,
            in_hand: HashMap::new(),
            runs: HashMap::new(),
            watches: HashMap::new(),
            stuck: HashSet::new(),
            stopping: CancellationToken::new(),
            _stop_tasks: stopped.clone().drop_guard(),
            stopped,
            epoch: None,
            asking_epoch: false,
        };
        engine.run(messages, signal, drain, &stopper).await;
        Ok(())
    }
}

struct Engine {
    plan: Plan,
    /// Where this node has its turn only while it leads.
    term: Option<Term>,
    locks: Locks,
    /// Where ticks are claimed: the same locks, or the ledger of a term.
    marks: Locks,
    jobs: Vec<Planned>,
    observer: Option<Observer>,
    spawner: Keeper,
    clock: Arc<dyn Clock>,
    to_loop: UnboundedSender<Message>,
    /// Leases between two tasks: just won, or of a run that just ended. The plan says what becomes of them.
    in_hand: HashMap<usize, Box<ClaimGuard>>,
    runs: HashMap<usize, Run>,
    watches: HashMap<usize, DropGuard>,
    /// Jobs whose last claim got no answer.
    stuck: HashSet<usize>,
    /// Tells runs that the scheduler is shutting down.
    stopping: CancellationToken,
    /// Ends the tasks of this engine.
    stopped: CancellationToken,
    _stop_tasks: DropGuard,
    epoch: Option<Epoch>,
    asking_epoch: bool,
}

struct Run {
    fence: Fence,
    cancel: Cancel,
    abort: CancellationToken,
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
        loop {
            let now = self.clock.now();
            if let Some(term) = &self.term {
                term.beat();
            }
            self.look_at_term();
            if steps.stepped(&*self.clock) {
                let actions = self.plan.clock_stepped(now);
                self.act(actions);
            }
            if self.clock.lease_now() >= heartbeat {
                heartbeat = self.clock.lease_now() + HEARTBEAT;
                self.ask_epoch();
            }
            let actions = self.plan.wake(now);
            self.act(actions);
            let wait =
                self.plan.next_wake().map_or(HEARTBEAT, |at| between(now, at)).min(HEARTBEAT);
            tokio::select! {
                biased;
                () = stopper.soon().cancelled() => break,
                _ = &mut signal => break,
                transition = term::next(&mut self.term) => self.hear(transition),
                message = messages.recv() => self.take(message),
                () = self.clock.sleep(wait) => {}
            }
            // Whatever else has come in meanwhile, before looking at the clock again.
            for _ in 0..MOST_AT_ONCE {
                let Ok(message) = messages.try_recv() else { break };
                self.take(Some(message));
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
        let actions = self.plan.follow();
        self.act(actions);
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
                    let actions = self.plan.lead(self.clock.now());
                    return self.act(actions);
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
        let actions = self.plan.stop();
        self.act(actions);
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
                message = messages.recv() => { self.take(message); continue }
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
                run.cancel.cancel(Cancelled::Shutdown);
                if stopped {
                    run.abort.cancel();
                }
            }
        }
    }

    fn take(&mut self, message: Option<Message>) {
        let Some(message) = message else { return };
        self.look_at_term();
        let now = self.clock.now();
        match message {
            Message::Enrolled(jobs, answers) => {
                for (job, answer) in jobs.into_iter().zip(answers) {
                    self.tell(job, now, Input::Enrolled(answer));
                }
            }
            Message::Answered(job, reply) => {
                if reply.as_ref().is_err_and(|error| error.kind() == Kind::Timeout) {
                    self.stuck.insert(job);
                } else {
                    self.stuck.remove(&job);
                }
                let mut answer = Answer::of(&reply);
                if let (Answer::Won(win), Some(fence)) = (&mut answer, self.leaders_fence()) {
                    win.fence = fence;
                }
                if let Ok(ClaimReply::Won(guard)) = reply {
                    self.in_hand.insert(job, guard);
                }
                self.tell(job, now, Input::Answer(answer));
            }
            Message::Woken(job) => self.tell(job, now, Input::Woken),
            Message::Ended { job, guard, started, ended, outcome } => {
                let run = self.runs.remove(&job);
                let fence = run.map_or(guard.lease.fence(), |run| run.fence);
                let complete = is_complete(&outcome);
                self.report(job, What::Finished { tick: guard.tick, fence, outcome });
                self.in_hand.insert(job, guard);
                self.tell(job, now, Input::RunEnded { started, ended, complete });
            }
            Message::Released(job) => self.tell(job, now, Input::Released),
            Message::Epoch(answer) => self.heard_epoch(now, answer),
        }
    }

    fn tell(&mut self, job: usize, now: Timestamp, input: Input) {
        let actions = self.plan.on(job, now, input);
        self.act(actions);
    }

    fn act(&mut self, actions: Actions) {
        let (mut enrolling, mut claiming) = (Vec::new(), Vec::new());
        for (job, action) in actions {
            match action {
                Action::Enroll => enrolling.push(job),
                Action::Claim(claim) => claiming.push((job, claim)),
                Action::Start { tick, missed } => self.start(job, tick, missed),
                Action::Undo => self.give_back(job, MarkAfter::Undo),
                Action::Release(after) => self.give_back(job, after),
                Action::Watch => self.watch(job),
                Action::Unwatch => drop(self.watches.remove(&job)),
                Action::Report(what) => self.report(job, what),
            }
        }
        if !enrolling.is_empty() {
            self.enroll(enrolling);
        }
        // One that was stuck lately goes alone: it must not hold up the others of its instant.
        let (alone, together): (Vec<_>, Vec<_>) =
            claiming.into_iter().partition(|(job, _)| self.stuck.contains(job));
        for batch in alone.into_iter().map(|claim| vec![claim]).chain([together]) {
            self.claim(batch);
        }
    }

    fn claim(&self, batch: Vec<(usize, Claim)>) {
        if batch.is_empty() {
            return;
        }
        let (jobs, claims): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|(job, claim)| (job, (self.jobs[job].key.clone(), claim)))
            .unzip();
        let (locks, to_loop, stopped) =
            (self.marks.clone(), self.to_loop.clone(), self.stopped.clone());
        self.spawner.spawn(async move {
            let claiming = locks.claim_each(claims, |replies| {
                for (at, reply) in replies {
                    drop(to_loop.send(Message::Answered(jobs[at], reply)));
                }
            });
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = claiming => {}
            }
        });
    }

    fn enroll(&self, jobs: Vec<usize>) {
        let locks = self.marks.clone();
        let enrolments = jobs.iter().map(|job| {
            let Planned { key, plan, .. } = &self.jobs[*job];
            Enrolment { key: key.clone(), fingerprint: plan.trigger.fingerprint() }
        });
        let enrolments: Vec<_> = enrolments.collect();
        self.task(async move {
            let answers = locks.enroll_each(&enrolments).await;
            Message::Enrolled(jobs, answers)
        });
    }

    fn start(&mut self, job: usize, tick: Mark, missed: Vec<Mark>) {
        let Some(guard) = self.in_hand.remove(&job) else { return };
        let Planned { key, work, max_runtime, .. } = self.jobs[job].clone();
        let fence = self.leaders_fence().unwrap_or(guard.lease.fence());
        let (term, run_number) = self.term.as_mut().and_then(Term::start).unzip();
        let (cancel, abort) = (Cancel::default(), CancellationToken::new());
        let started = self.clock.now();
        // A tick that was due before this by the store's clock is somebody's to claim, however slow this node's clock is.
        let began = guard.store_now.map_or(started, |store_now| store_now.max(started));
        let lateness = between(tick.timestamp(), started);
        self.report(job, What::Started { tick, fence, lateness, missed: missed.len() });
        let ends_at =
            max_runtime.map_or(LeaseInstant::NEVER, |limit| self.clock.lease_now() + limit);
        let context = Context::new(Told {
            job: key,
            tick,
            fence,
            run_number: run_number.unwrap_or(1),
            attempt: guard.attempt,
            missed,
            lateness,
            cancel: cancel.clone(),
            stopping: self.stopping.clone(),
            lease: guard.lease.check_from_afar(),
            term: term.as_ref().map(|started| started.term.clone()),
            ends_at,
        });
        self.runs.insert(job, Run { fence, cancel: cancel.clone(), abort: abort.clone() });
        let clock = Arc::clone(&self.clock);
        let running = Running { job, guard, term, context, cancel, abort, ends_at, began, clock };
        match work {
            Work::Async(work) => self.task(async move { running.on_task(&work).await }),
            // Not bound to this engine: nothing can stop such a run.
            Work::Blocking(work) => {
                let (to_loop, keeper) = (self.to_loop.clone(), self.locks.keeper().clone());
                self.spawner.spawn(running.on_thread(work, to_loop, keeper));
            }
        }
    }

    fn give_back(&mut self, job: usize, after: MarkAfter) {
        let Some(mut guard) = self.in_hand.remove(&job) else { return };
        guard.lease.on_drop(after);
        self.task(async move {
            // Where it failed, the reaper goes on; the key is busy until it is through, as it should be.
            if let Err(error) = guard.lease.release_as(after).await {
                tracing::debug!(%error, "giving a lease back takes longer");
            }
            Message::Released(job)
        });
    }

    fn watch(&mut self, job: usize) {
        let unwatched = CancellationToken::new();
        self.watches.insert(job, unwatched.clone().drop_guard());
        let (locks, key, to_loop) =
            (self.marks.clone(), self.jobs[job].key.clone(), self.to_loop.clone());
        let stopped = self.stopped.clone();
        self.spawner.spawn(async move {
            let watching = async {
                let Some(mut watch) = locks.watch(&key).await else { return };
                // What happened before the watch began was not seen: try again now.
                while to_loop.send(Message::Woken(job)).is_ok() {
                    watch.changed().await;
                }
            };
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = unwatched.cancelled() => {}
                () = watching => {}
            }
        });
    }

    /// Asks the store whether it forgot something.
    fn ask_epoch(&mut self) {
        if !std::mem::replace(&mut self.asking_epoch, true) {
            let locks = self.marks.clone();
            self.task(async move { Message::Epoch(locks.epoch().await) });
        }
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

    /// Runs `work` until it ends or this engine does, and hands its message to the loop.
    fn task(&self, work: impl Future<Output = Message> + Send + 'static) {
        let (to_loop, stopped) = (self.to_loop.clone(), self.stopped.clone());
        self.spawner.spawn(async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                // The loop may be gone: then the message is dropped, and a guard in it gives itself back.
                message = work => drop(to_loop.send(message)),
            }
        });
    }

    /// The fence of runs, where that is the leader's.
    fn leaders_fence(&self) -> Option<Fence> {
        self.term.as_ref().and_then(Term::fence)
    }

    fn report(&self, job: usize, what: What) {
        self.report_as(&self.jobs[job].key, what);
    }

    fn report_group(&self, what: What) {
        if let Some(term) = &self.term {
            self.report_as(term.group(), what);
        }
    }

    fn report_as(&self, key: &LockKey, what: What) {
        let event = Event { job: key.clone(), what };
        tracing::debug!(job = %event.job, what = ?event.what, "event");
        if let Some(observer) = &self.observer
            && catch_unwind(AssertUnwindSafe(|| observer(&event))).is_err()
        {
            tracing::error!(job = %event.job, "an observer panicked");
        }
    }
}

/// However the engine ends, its runs are told: those that block a thread go on without it.
impl Drop for Engine {
    fn drop(&mut self) {
        self.stopping.cancel();
        for run in self.runs.values() {
            run.cancel.cancel(Cancelled::Shutdown);
        }
    }
}

pub(super) fn is_complete(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Cancelled(_))
}

/// From `from` to `to`; zero where `to` is earlier.
fn between(from: Timestamp, to: Timestamp) -> Duration {
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
