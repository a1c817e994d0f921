//! A job: a name, a trigger, and what to do.

use std::fmt::{self, Debug, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::caught::{caught, caught_here, message};
use crate::clock::LeaseInstant;
use crate::ending::Ending;
use crate::error::{Error, Invalid, Result};
use crate::event::{Cancelled, Outcome};
use crate::leader::{Ended, Leadership};
use crate::lock::guard::LeaseCheck;
use crate::lock::{Delivery, Fence, LockKey, Mark};
use crate::plan::JobPlan;
use crate::policy::Misfire;
use crate::trigger::{Cron, Trigger};

/// A named piece of work with a trigger.
///
/// The work is any `Fn(Context) -> Future`: a named `async fn`, a closure, with or without shared state, or blocking. It returns
/// `()` or a `Result` of any error that can be printed.
///
/// ```
/// use std::time::Duration;
/// use solocron::{Context, Job};
/// use solocron::trigger::{Cron, Every};
///
/// async fn report(ctx: Context) -> Result<(), std::io::Error> {
///     println!("the report of {}", ctx.tick());
///     Ok(())
/// }
///
/// let nightly = Job::new("report", Cron::parse("30 2 * * *")?.time_zone("Europe/Berlin")?, report);
/// let hourly = Job::new("sweep", "@hourly", async |ctx: Context| println!("fence {}", ctx.fence()));
/// let often = Job::blocking("sync", Every::new(Duration::from_secs(15))?, |_| std::thread::yield_now());
/// # drop((nightly, hourly, often));
/// # Ok::<(), solocron::Error>(())
/// ```
pub struct Job {
    pub(crate) id: Result<LockKey, Invalid>,
    pub(crate) trigger: Result<Arc<dyn Trigger>, Error>,
    pub(crate) work: Work,
    misfire: Misfire,
    delivery: Delivery,
    pub(crate) max_runtime: Option<Duration>,
}

pub(crate) type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;
pub(crate) type Begin = Arc<dyn Fn(Context) -> Running + Send + Sync>;
pub(crate) type Block = Arc<dyn Fn(Context) -> Outcome + Send + Sync>;

/// What a job does, and whether it can be stopped from outside.
#[derive(Clone)]
pub(crate) enum Work {
    Async(Begin),
    Blocking(Block),
}

impl Job {
    /// A job that runs `work` on the runtime of its scheduler.
    ///
    /// `id` is the name that the whole fleet knows the job by: it is what ticks are claimed under, so it must be the same on every
    /// node, and renaming a job makes it a new one. `trigger` is a [`Trigger`], or the text of a cron pattern in UTC. What is
    /// wrong with either is told by [`SchedulerBuilder::build`](crate::SchedulerBuilder::build), before anything has changed.
    ///
    /// A closure that brings state along is written `move |ctx| async move { … }`, or uses [`with_state`](Self::with_state): an
    /// `async |ctx| …` closure may only use what it is given.
    pub fn new<F, Fut>(id: impl Into<String>, trigger: impl IntoTrigger, work: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        Self::of(id, trigger, Work::Async(Arc::new(move |context| guarded(&context, &work))))
    }

    /// A job that runs `work` with a clone of `state`.
    pub fn with_state<S, F, Fut>(
        id: impl Into<String>,
        trigger: impl IntoTrigger,
        state: S,
        work: F,
    ) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(Context, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        Self::new(id, trigger, move |context| work(context, state.clone()))
    }

    /// A job that blocks its thread, run on tokio's blocking pool. It cannot be stopped from outside: let it ask
    /// [`Context::checkpoint`] between its steps. Its lease is kept for as long as it goes on, also when the scheduler has ended
    /// and while its runtime is dropped.
    pub fn blocking<F, T>(id: impl Into<String>, trigger: impl IntoTrigger, work: F) -> Self
    where
        F: Fn(Context) -> T + Send + Sync + 'static,
        T: IntoOutcome,
    {
        let run: Block = Arc::new(move |context| {
            caught_here(|| work(context).into_outcome()).unwrap_or_else(Outcome::Panicked)
        });
        Self::of(id, trigger, Work::Blocking(run))
    }

    fn of(id: impl Into<String>, trigger: impl IntoTrigger, work: Work) -> Self {
        Self {
            id: LockKey::new(id.into())
                .and_then(LockKey::not_reserved)
                .map_err(|invalid| invalid.named("job id")),
            trigger: trigger.into_trigger(),
            work,
            misfire: Misfire::default(),
            delivery: Delivery::default(),
            max_runtime: None,
        }
    }

    /// What happens to ticks that nobody claimed in time. Default: the latest of them is run.
    #[must_use]
    pub fn misfire(mut self, misfire: Misfire) -> Self {
        self.misfire = misfire;
        self
    }

    /// What happens to a run that never ended. Default [`Delivery::AtMostOnce`]: it is reported and not run again.
    #[must_use]
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// How long a run may take; then it is told to stop, and a moment later stopped. Default: no limit.
    #[must_use]
    pub fn max_runtime(mut self, limit: Duration) -> Self {
        self.max_runtime = Some(limit);
        self
    }

    pub(crate) fn plan(&self) -> Result<JobPlan> {
        self.misfire.check()?;
        if let Delivery::AtLeastOnce { max_attempts: 0 } = self.delivery {
            return Err(Invalid::new(
                "max_attempts",
                0,
                "a run needs at least one attempt: choose 2 or more",
            )
            .into());
        }
        if self.max_runtime.is_some_and(|limit| limit.is_zero()) {
            return Err(Invalid::new(
                "max_runtime",
                "0s",
                "no run ends in no time: leave it out for no limit",
            )
            .into());
        }
        let trigger = Arc::clone(self.trigger.as_ref().map_err(Clone::clone)?);
        if let Some(tick) = trigger.next_after(Timestamp::now()) {
            Mark::of(tick)?;
        }
        Ok(JobPlan {
            trigger: Arc::new(Checked(trigger)),
            misfire: self.misfire,
            delivery: self.delivery,
        })
    }
}

impl Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("trigger", &self.trigger)
            .field("misfire", &self.misfire)
            .finish_non_exhaustive()
    }
}

/// What a [`Job`] takes as its trigger: a [`Trigger`], or the text of a cron pattern in UTC.
pub trait IntoTrigger {
    /// The trigger.
    ///
    /// # Errors
    ///
    /// Where the text is no cron pattern.
    fn into_trigger(self) -> Result<Arc<dyn Trigger>>;
}

impl<T: Trigger> IntoTrigger for T {
    fn into_trigger(self) -> Result<Arc<dyn Trigger>> {
        Ok(Arc::new(self))
    }
}

impl IntoTrigger for &str {
    fn into_trigger(self) -> Result<Arc<dyn Trigger>> {
        Ok(Arc::new(Cron::parse(self)?))
    }
}

/// What a run may return: `()`, or a `Result` whose error can be printed.
pub trait IntoOutcome {
    /// How the run ended.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Ok
    }
}

impl<T, E: Display> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(_) => Outcome::Ok,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

/// What a run is told: the truth.
#[derive(Debug, Clone)]
pub struct Context(Arc<Told>);

#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) job: LockKey,
    pub(crate) tick: Mark,
    pub(crate) fence: Fence,
    pub(crate) run_number: u64,
    pub(crate) attempt: u32,
    pub(crate) missed: Vec<Mark>,
    pub(crate) lateness: Duration,
    /// Why the run must stop.
    pub(crate) cancel: Ending<Cancelled>,
    /// The run was told, and is stopped now.
    pub(crate) abort: Ending<()>,
    pub(crate) stopping: CancellationToken,
    pub(crate) lease: LeaseCheck,
    /// The term that this run belongs to, where there is a leader.
    pub(crate) term: Option<InTerm>,
    /// By the lease clock.
    pub(crate) ends_at: LeaseInstant,
}

impl Context {
    pub(crate) fn new(told: Told) -> Self {
        Self(Arc::new(told))
    }

    /// All that the run is told, and what ends it.
    pub(crate) fn told(&self) -> &Told {
        &self.0
    }

    /// The job's id.
    #[must_use]
    pub fn job(&self) -> &LockKey {
        &self.0.job
    }

    /// The tick's nominal time, which is the same on every node: use it to say *which* run this is.
    #[must_use]
    pub fn tick(&self) -> Timestamp {
        self.0.tick.timestamp()
    }

    /// The fencing token of this run. Give it to whatever you write to, and let *that* refuse older ones.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.0.fence
    }

    /// Tells runs of one fence apart, from 1. It is 1 where each tick is claimed, because each claim has a fence of its own; it
    /// counts the runs of a term where a [leader](crate::Coordination::Leader) starts them on a backend that keeps no marks.
    #[must_use]
    pub fn run_number(&self) -> u64 {
        self.0.run_number
    }

    /// Which attempt of the tick this is, from 1. More than 1 only under [`Delivery::AtLeastOnce`].
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Earlier ticks that nobody ran, oldest first; the last hundred of them where there are more.
    #[must_use]
    pub fn missed(&self) -> impl ExactSizeIterator<Item = Timestamp> + '_ {
        self.0.missed.iter().map(|mark| mark.timestamp())
    }

    /// How late this run began, by this node's clock.
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.0.lateness
    }

    /// Returns when the run must stop, with the reason. Fires *before* another node can hold the lock.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn cancelled(&self) -> Cancelled {
        self.0.cancel.ended().await
    }

    /// Asks between two steps whether to go on. Looks at the lease itself, so it also tells a run that blocks its thread, and one
    /// that was stopped together with the whole machine.
    ///
    /// A run that returns an error after this is counted as cut short; one that returns `()` or `Ok` is counted as done.
    ///
    /// # Errors
    ///
    /// The reason to stop.
    pub fn checkpoint(&self) -> Result<(), Cancelled> {
        let Told { cancel, lease, term, ends_at, .. } = &*self.0;
        if cancel.why().is_none() {
            if let Err(why) = lease.check() {
                cancel.end(Cancelled::LeaseLost(why));
            } else if let Some(Err(why)) = term.as_ref().map(InTerm::check) {
                cancel.end(why);
            } else if lease.lease_now() >= *ends_at {
                cancel.end(Cancelled::Timeout);
            }
        }
        cancel.why().map_or(Ok(()), Err)
    }

    /// A token that is cancelled when the run must stop, for code that takes one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.0.cancel.token()
    }

    /// Whether the scheduler is shutting down: the run may still end in peace, but should not begin anything long.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }
}

/// The term that a run was started in.
#[derive(Debug, Clone)]
pub(crate) struct InTerm {
    pub(crate) leadership: Leadership,
    /// Nothing but the leadership keeps others from starting the same: the run has no lease that they see.
    pub(crate) is_bare: bool,
}

impl InTerm {
    /// Whether the run may go on, as far as its term is concerned.
    pub(crate) fn check(&self) -> Result<(), Cancelled> {
        match self.leadership.check() {
            Err(how) => self.ends(how).map_or(Ok(()), Err),
            Ok(_) => Ok(()),
        }
    }

    /// Returns once the term says that the run must stop.
    pub(crate) async fn ended(&self) -> Cancelled {
        let how = self.leadership.ended().await;
        match self.ends(how) {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// What the run is told of such an end. A node that hands the leadership over while its runs go on resigns on purpose; those
    /// that have leases of their own need not care.
    fn ends(&self, how: Ended) -> Option<Cancelled> {
        match how {
            Ended::Lost(why) => Some(Cancelled::LeadershipLost(why)),
            Ended::Resigned => self.is_bare.then_some(Cancelled::Shutdown),
        }
    }
}

/// Calls and polls the user's code so that its panic is its own.
fn guarded<F, Fut>(context: &Context, work: &F) -> Running
where
    F: Fn(Context) -> Fut,
    Fut: Future<Output: IntoOutcome> + Send + 'static,
{
    let running = match catch_unwind(AssertUnwindSafe(|| work(context.clone()))) {
        Ok(running) => running,
        Err(panic) => {
            let message = message(&*panic);
            return Box::pin(async move { Outcome::Panicked(message) });
        }
    };
    let running = async move { running.await.into_outcome() };
    Box::pin(async move { caught(running).await.unwrap_or_else(Outcome::Panicked) })
}

/// A trigger that is held to its laws: a panic, a tick that does not lead on, or one finer than a millisecond ends the job's
/// schedule and nothing else.
#[derive(Debug)]
struct Checked(Arc<dyn Trigger>);

impl Checked {
    fn tick(
        &self,
        asked: impl FnOnce(&dyn Trigger) -> Option<Timestamp>,
        lawful: impl FnOnce(Timestamp) -> bool,
    ) -> Option<Timestamp> {
        match catch_unwind(AssertUnwindSafe(|| asked(&*self.0))) {
            Ok(None) => None,
            Ok(Some(tick)) if lawful(tick) && Mark::of(tick).is_ok() => Some(tick),
            Ok(Some(tick)) => {
                tracing::error!(trigger = ?self.0, %tick, "a trigger broke its laws; its job is due no more");
                None
            }
            Err(panic) => {
                tracing::error!(trigger = ?self.0, panic = message(&*panic), "a trigger panicked; its job is due no more");
                None
            }
        }
    }
}

impl Trigger for Checked {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.tick(|trigger| trigger.next_after(after), |tick| tick > after)
    }

    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.tick(|trigger| trigger.last_at_or_before(at), |tick| tick <= at)
    }

    fn fingerprint(&self) -> u64 {
        self.0.fingerprint()
    }
}
