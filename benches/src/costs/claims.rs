//! Solocron's own operations, the same over every backend.

use std::time::Duration;

use jiff::Timestamp;
use solocron::Locks;
use solocron::lock::{Claim, Delivery, Enrolment, LockKey, Mark, Released};

use super::Operation;

/// Takes a lock and gives it back.
pub(super) struct LockAndRelease {
    locks: Locks,
    key: LockKey,
}

impl LockAndRelease {
    pub(super) fn new(locks: &Locks, key: &str) -> Self {
        Self { locks: locks.clone(), key: LockKey::new(key).expect("a name") }
    }
}

impl Operation for LockAndRelease {
    async fn once(&mut self) {
        let guard = self.locks.try_lock(&self.key).await.expect("the store answers");
        let released = guard.won().expect("nobody else is here").release().await;
        assert_eq!(released.expect("the store answers"), Released::Done);
    }
}

/// Claims a tick and gives it back as done; jobs take turns, and each has a tick in every millisecond.
pub(super) struct ClaimAndRelease {
    locks: Locks,
    jobs: Vec<(LockKey, i64)>,
    at: usize,
}

impl ClaimAndRelease {
    /// `jobs`: how many. The more there are, the less has to be waited for ticks to become due.
    pub(super) async fn new(locks: &Locks, prefix: &str, jobs: usize) -> Self {
        let enrolments: Vec<_> = (0..jobs)
            .map(|job| Enrolment {
                key: LockKey::new(format!("{prefix}-{job}")).expect("a name"),
                fingerprint: 0,
            })
            .collect();
        let enrolled = locks.enroll(&enrolments).await.expect("the store answers");
        let jobs = enrolments.into_iter().zip(enrolled);
        let jobs = jobs.map(|(job, enrolled)| (job.key, enrolled.last.mark.as_millis())).collect();
        Self { locks: locks.clone(), jobs, at: 0 }
    }
}

impl Operation for ClaimAndRelease {
    async fn prepare(&mut self, times: u64) {
        let jobs = self.jobs.len();
        let times = usize::try_from(times).expect("few");
        let next = (self.at..self.at + times.min(jobs)).map(|at| self.jobs[at % jobs].1).max();
        let last = next.unwrap_or_default() + i64::try_from(times.div_ceil(jobs)).expect("few");
        while let Ok(left @ 1..) = u64::try_from(last - Timestamp::now().as_millisecond()) {
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
    }

    async fn once(&mut self) {
        let (key, tick) = &mut self.jobs[self.at];
        *tick += 1;
        let claim =
            Claim { tick: Mark::from_millis(*tick), after: None, delivery: Delivery::AtMostOnce };
        let claimed = self.locks.claim(&*key, claim).await.expect("the store answers");
        let claimed = claimed.won().expect("nobody else is here");
        let released = claimed.lease.release().await.expect("the store answers");
        assert_eq!(released, Released::Done);
        self.at = (self.at + 1) % self.jobs.len();
    }
}
