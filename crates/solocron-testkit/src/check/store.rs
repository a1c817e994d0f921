//! The real memory backend, put into any earlier state.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use solocron::lock::{
    Enrolled, Enrolment, KeyRecord, LockBackend, LockKey, MarkAfter, MemoryBackend, Nonce, Reply,
    Request,
};
use solocron::{BackendError, Clock, LeaseInstant};

use super::config::time;

/// What the store knows. The backend itself is made anew for each call, from this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Store {
    pub(super) records: Vec<Option<KeyRecord>>,
    /// How often everything was forgotten.
    pub(super) losses: u8,
    /// When the first call after the last loss came.
    pub(super) reopened: Option<u16>,
}

#[derive(Debug, Default)]
struct StoreClock(AtomicU16);

#[async_trait]
impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        time(self.0.load(Ordering::Relaxed).into())
    }

    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_origin(Duration::from_secs(self.0.load(Ordering::Relaxed).into()))
    }

    async fn sleep_until(&self, _: LeaseInstant) {
        unreachable!("the memory backend never waits")
    }
}

impl Store {
    pub(super) fn new(jobs: usize) -> Self {
        Self { records: vec![None; jobs], losses: 0, reopened: None }
    }

    /// Calls the real backend in this state.
    fn call<T>(&mut self, now: u16, job: usize, call: impl FnOnce(&MemoryBackend) -> T) -> T {
        let clock = Arc::new(StoreClock::default());
        let backend = MemoryBackend::with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        if self.losses > 0 {
            backend.forget();
            let since = *self.reopened.get_or_insert(now);
            clock.0.store(since, Ordering::Relaxed);
            at_once(backend.epoch()).expect("the memory backend always answers");
        }
        clock.0.store(now, Ordering::Relaxed);
        let key = key(job);
        if let Some(record) = self.records[job].take() {
            backend.restore(&key, Some(record));
        }
        let answer = call(&backend);
        self.records[job] = backend.record(&key);
        answer
    }

    pub(super) fn enroll(
        &mut self,
        now: u16,
        job: usize,
        fingerprint: u64,
    ) -> Result<Enrolled, BackendError> {
        let enrolment = [Enrolment { key: key(job), fingerprint }];
        let answers = self.call(now, job, |backend| at_once(backend.enroll(&enrolment)));
        answers.into_iter().next().expect("one enrolment, one answer")
    }

    pub(super) fn acquire(
        &mut self,
        now: u16,
        job: usize,
        request: Request,
    ) -> Result<Reply<()>, BackendError> {
        let requests = [request];
        let answers = self.call(now, job, |backend| at_once(backend.try_acquire(&requests)));
        let answer = answers.into_iter().next().expect("one request, one answer")?;
        Ok(answer.map(drop))
    }

    pub(super) fn revoke(&mut self, now: u16, job: usize, nonce: Nonce, after: MarkAfter) {
        self.call(now, job, |backend| at_once(backend.revoke(&key(job), nonce, after)))
            .expect("the memory backend always answers");
    }

    /// What the backend's `release` does with a lease, which cannot be carried from one backend to another.
    pub(super) fn release(&mut self, now: u16, job: usize, nonce: Nonce, after: MarkAfter) {
        if let Some(record) = &mut self.records[job] {
            record.release(nonce, after, time(now.into()));
        }
    }

    pub(super) fn renew(&mut self, now: u16, job: usize, nonce: Nonce, ttl: Duration) -> bool {
        let now = time(now.into());
        self.records[job].as_mut().is_some_and(|record| record.renew(nonce, ttl, now))
    }

    /// The number that changes with every loss.
    pub(super) fn epoch(&mut self, now: u16) -> u8 {
        if self.losses > 0 {
            self.reopened.get_or_insert(now);
        }
        self.losses
    }

    pub(super) fn forget(&mut self) {
        self.records.fill(None);
        self.losses += 1;
        self.reopened = None;
    }

    /// Whether a new tick of this job would be granted now.
    pub(super) fn is_free(&self, now: u16, job: usize, ttl: u16) -> bool {
        let waits = self.losses > 0 && self.reopened.is_none_or(|since| now < since + ttl);
        let free = |record: &KeyRecord| {
            record.last().is_some() && record.holder(time(now.into()), true).is_none()
        };
        !waits && self.records[job].as_ref().is_some_and(free)
    }
}

pub(super) fn key(job: usize) -> LockKey {
    static KEYS: OnceLock<[LockKey; 2]> = OnceLock::new();
    KEYS.get_or_init(|| ["J", "K"].map(|name| LockKey::new(name).expect("a letter is a name")))[job]
        .clone()
}

/// The answer of a future that never waits.
fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("the memory backend never waits"),
    }
}
