//! One fire, from the instant it is due to the end of its release.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, LockBackend, LockKey, MarkAfter, MemoryBackend, MemoryLease,
    Nonce, Released, Renewal, Reply, Request,
};
use solocron::trigger::Every;
use solocron::{BackendError, Context, Job, LeaseInstant, Locks, Scheduler};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::{Group, Role, Subject, Took};

const PERIOD: Duration = Duration::from_millis(10);

pub(super) fn groups() -> Vec<Group> {
    let subjects = vec![
        Subject::measured("tokio's sleep_until + spawn", Role::Floor, floor),
        Subject::measured("a job, locks in memory", Role::Ours, ours),
    ];
    vec![Group::new("one fire, due to released", subjects, ())]
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Since the last whole period.
fn lateness() -> Duration {
    let nanos = since_epoch().as_nanos() % PERIOD.as_nanos();
    Duration::from_nanos(u64::try_from(nanos).expect("less than a period"))
}

fn took(each: Vec<Duration>) -> Took {
    Took {
        done: each.len() as u64,
        elapsed: each.iter().sum(),
        each: each.iter().map(|late| late.as_secs_f64() * 1e6).collect(),
    }
}

async fn floor(times: u64) -> Took {
    let mut each = Vec::new();
    for _ in 0..times {
        let due = Instant::now() + (PERIOD - lateness());
        tokio::time::sleep_until(due).await;
        each.push(tokio::spawn(async { lateness() }).await.expect("it cannot panic"));
    }
    took(each)
}

async fn ours(times: u64) -> Took {
    let (ended, mut ends) = unbounded_channel();
    let locks = Locks::new(Stamped { memory: MemoryBackend::new(), ended });
    let every = Every::new(PERIOD).expect("a period");
    let job = Job::new("one", every, async |_: Context| {});
    let scheduler = Scheduler::builder(locks.expect("the defaults fit")).job(job).build();
    let scheduler = scheduler.expect("a scheduler");
    let stopper = scheduler.stopper();
    let running = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
    ends.recv().await.expect("the first one, not measured");
    let mut each = Vec::new();
    for _ in 0..times {
        each.push(ends.recv().await.expect("it fires"));
    }
    stopper.stop();
    running.await.expect("no panic").expect("it ran");
    took(each)
}

/// Locks in memory that say how late each release ended.
#[derive(Debug)]
struct Stamped {
    memory: MemoryBackend,
    ended: UnboundedSender<Duration>,
}

#[async_trait]
impl LockBackend for Stamped {
    type Lease = MemoryLease;

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        self.memory.enroll(jobs).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<MemoryLease>, BackendError>> {
        self.memory.try_acquire(requests).await
    }

    async fn renew(
        &self,
        leases: &[&MemoryLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        self.memory.renew(leases, sent).await
    }

    async fn release(
        &self,
        lease: &MemoryLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let released = self.memory.release(lease, mark).await;
        assert!(matches!(released, Ok(Released::Done)), "{released:?}");
        let _ = self.ended.send(lateness()); // the measurement may be over
        released
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.memory.revoke(key, nonce, mark).await
    }

    async fn lost(&self, lease: &MemoryLease) -> solocron::lock::Lost {
        self.memory.lost(lease).await
    }
}
