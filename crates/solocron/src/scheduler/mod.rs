//! The scheduler: carries out what the [plan](crate::plan) decides.

mod builder;
mod coordination;
mod hands;
mod hub;
mod run;
mod running;
mod stopper;
mod term;

pub use self::builder::SchedulerBuilder;
pub use self::coordination::Coordination;
pub use self::stopper::Stopper;

use std::sync::Arc;
use std::time::Duration;

use crate::event::Observer;
use crate::job::Work;
use crate::lock::{Keeper, LockKey, Locks};
use crate::plan::JobPlan;

/// A set of jobs on one node of a fleet.
///
/// Every node of the fleet builds the same scheduler over the same backend; each tick is claimed by one of them, or
/// [started by one leader](Coordination).
///
/// ```
/// use std::time::Duration;
/// use solocron::lock::{Locks, MemoryBackend};
/// use solocron::trigger::Every;
/// use solocron::{Context, Job, Scheduler};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let (told, mut ran) = tokio::sync::mpsc::unbounded_channel();
/// let tell = move |ctx: Context| { let told = told.clone(); async move { told.send(ctx.tick()) } };
/// let scheduler = Scheduler::builder(Locks::new(MemoryBackend::new())?)
///     .job(Job::new("often", Every::new(Duration::from_millis(20))?, tell))
///     .build()?;
/// // Until the first run; a program would wait for a signal here.
/// scheduler.run_until(async { ran.recv().await }).await?;
/// # Ok::<(), solocron::Error>(()) }).unwrap();
/// ```
pub struct Scheduler {
    locks: Locks,
    jobs: Vec<Planned>,
    /// Where only a leader plans and runs: the lock of its group.
    group: Option<LockKey>,
    observer: Option<Observer>,
    drain: Duration,
    spawner: Option<Keeper>,
    stopper: Stopper,
}

/// A checked job.
#[derive(Clone)]
struct Planned {
    key: LockKey,
    plan: Arc<JobPlan>,
    work: Work,
    max_runtime: Option<Duration>,
}

impl Scheduler {
    /// A scheduler whose ticks are claimed from `locks`.
    #[must_use]
    pub fn builder(locks: Locks) -> SchedulerBuilder {
        SchedulerBuilder::new(locks)
    }

    /// A handle that stops this scheduler, from anywhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let jobs: Vec<_> = self.jobs.iter().map(|job| &job.key).collect();
        f.debug_struct("Scheduler")
            .field("node", self.locks.node())
            .field("jobs", &jobs)
            .finish_non_exhaustive()
    }
}
