//! Solocron, over the memory backend: with every claim, fence and mark, and no network.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{Enrolment, LockKey, MemoryBackend};
use solocron::trigger::{At, Cron, Every, Trigger};
use solocron::{Context, Job, Locks, Scheduler, What};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::fires::Fires;

/// Stops when it is dropped.
pub(crate) struct Running(JoinHandle<solocron::Result<()>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn locks() -> Locks {
    Locks::new(MemoryBackend::new()).expect("the defaults fit")
}

/// A pattern that is due once a year; the first half of a million differ from each other.
fn yearly(job: usize, distinct: bool) -> String {
    if !distinct {
        return "0 0 1 1 *".into();
    }
    let (minute, hour, day, month) = (job % 60, job / 60 % 24, job / 1_440 % 28, job / 40_320 % 12);
    format!("{minute} {hour} {} {} *", day + 1, month + 1)
}

fn jobs(count: usize, distinct: bool) -> impl Iterator<Item = Job> {
    (0..count).map(move |job| {
        Job::new(job.to_string(), yearly(job, distinct).as_str(), async |_: Context| {})
    })
}

pub(crate) async fn add_alike(count: usize) -> Scheduler {
    Scheduler::builder(locks()).jobs(jobs(count, false)).build().expect("a scheduler")
}

pub(crate) async fn add_distinct(count: usize) -> Scheduler {
    Scheduler::builder(locks()).jobs(jobs(count, true)).build().expect("a scheduler")
}

pub(crate) async fn start(scheduler: Scheduler) -> Running {
    Running(tokio::spawn(scheduler.run_until(std::future::pending::<()>())))
}

/// A scheduler, and how many of its jobs the store does not know yet.
type Known = (Scheduler, Arc<AtomicUsize>);

/// The same over a store that has the records of all jobs already, so that they are not counted: they are the store's.
pub(crate) fn add_known(
    runtime: &Runtime,
    count: usize,
    distinct: bool,
) -> impl Future<Output = Known> + use<> {
    let locks = locks();
    let enrolments = (0..count).map(|job| Enrolment {
        key: LockKey::new(job.to_string()).expect("a short name"),
        fingerprint: Cron::parse(&yearly(job, distinct)).expect("a pattern").fingerprint(),
    });
    let enrolments: Vec<_> = enrolments.collect();
    runtime.block_on(locks.enroll(&enrolments)).expect("memory does not fail");
    async move {
        let unknown = Arc::new(AtomicUsize::new(count));
        let known = Arc::clone(&unknown);
        let scheduler = Scheduler::builder(locks).jobs(jobs(count, distinct));
        let scheduler = scheduler.observe(move |event| {
            if let What::Enrolled { .. } = event.what {
                known.fetch_sub(1, Ordering::Relaxed);
            }
        });
        (scheduler.build().expect("a scheduler"), unknown)
    }
}

/// Returns when every job has been enrolled.
pub(crate) async fn start_known((scheduler, unknown): Known) -> Running {
    let running = start(scheduler).await;
    while unknown.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running
}

pub(crate) async fn fire(fires: &Fires) -> Running {
    let trigger: Arc<dyn Trigger> = if fires.is_once() {
        let first = i64::try_from(fires.first().as_millis()).expect("this era");
        let first = Timestamp::from_millisecond(first).expect("this era");
        Arc::new(At::new(first).expect("whole milliseconds"))
    } else if fires.period() == Duration::from_secs(1) {
        Arc::new(Cron::parse("* * * * * *").expect("a pattern"))
    } else {
        Arc::new(Every::new(fires.period()).expect("a period"))
    };
    let jobs = (0..fires.jobs()).map(|job| {
        let told = fires.clone();
        Job::new(job.to_string(), Arc::clone(&trigger), move |context: Context| {
            let told = told.clone();
            async move {
                let tick = context.tick().as_millisecond();
                told.fired(job, Duration::from_millis(tick.unsigned_abs()));
            }
        })
    });
    start(Scheduler::builder(locks()).jobs(jobs).build().expect("a scheduler")).await
}
