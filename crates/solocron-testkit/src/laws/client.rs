//! What the laws share: clients of both levels, waiting for events, and stopping a future halfway.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{
    AnyBackend, AnyLease, Capabilities, Claim, ClaimState, Delivery, Enrolled, Enrolment, Grant,
    LockBackend, LockGuard, LockKey, LockOptions, Locks, Mark, MarkAfter, NodeId, Nonce, Reply,
    Request,
};
use solocron::{BackendError, Clock, LeaseInstant, SystemClock};

use crate::Store;

/// How long an event may take that should come soon, on a loaded machine and over a network.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn key(name: &str) -> LockKey {
    LockKey::new(name).expect("the laws use good names")
}

/// A ttl that a law can wait for: some times the shortest, so that a loaded machine still renews in time.
pub(crate) fn short_ttl(capabilities: &Capabilities) -> Duration {
    capabilities.ttl.map_or(Duration::from_millis(500), |range| {
        (range.min * 10).min(range.min.max(Duration::from_secs(1))).min(range.max)
    })
}

/// A ttl that does not run out within a law.
pub(crate) fn long_ttl(capabilities: &Capabilities) -> Duration {
    const LONG: Duration = Duration::from_secs(60);
    capabilities.ttl.map_or(LONG, |range| LONG.clamp(range.min, range.max))
}

/// One more node, with leases that do not run out within a law.
pub(crate) fn node(h: &Store) -> Locks {
    let backend = h.connect();
    let ttl = long_ttl(&backend.capabilities());
    locks(backend, ttl)
}

/// One more node, with leases that a law can wait for.
pub(crate) fn brief_node(h: &Store) -> Locks {
    let backend = h.connect();
    let ttl = short_ttl(&backend.capabilities());
    locks(backend, ttl)
}

/// The locks of this client, with this ttl.
pub(crate) fn locks(backend: impl LockBackend, ttl: Duration) -> Locks {
    let options = LockOptions::default().ttl(ttl);
    Locks::builder(backend).options(options).build().expect("the options fit the backend")
}

/// The lock, which nobody holds.
pub(crate) async fn take(locks: &Locks, key: &LockKey) -> LockGuard {
    let answer = locks.try_lock(key.clone()).await.expect("the store answers");
    answer.won().unwrap_or_else(|| panic!("{key} should be free"))
}

/// Whether nobody holds `key`; found out by taking it and giving it back.
pub(crate) async fn is_free(locks: &Locks, key: &LockKey) -> bool {
    match locks.try_lock(key.clone()).await.expect("the store answers").won() {
        Some(guard) => {
            guard.release().await.expect("the store answers");
            true
        }
        None => false,
    }
}

/// A client that speaks to the driver itself.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) backend: AnyBackend,
    pub(crate) node: NodeId,
    pub(crate) ttl: Duration,
}

impl Raw {
    /// One more client, with leases that do not run out within a law.
    pub(crate) fn new(h: &Store) -> Self {
        let backend = h.connect();
        let ttl = long_ttl(&backend.capabilities());
        Self { backend, node: NodeId::unique(), ttl }
    }

    /// One more client, with leases that a law can wait for.
    pub(crate) fn brief(h: &Store) -> Self {
        let backend = h.connect();
        let ttl = short_ttl(&backend.capabilities());
        Self { backend, node: NodeId::unique(), ttl }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    /// A fresh request for a plain lock.
    pub(crate) fn plain(&self, key: &LockKey) -> Request {
        Request::new(key.clone(), Nonce::random(), self.node.clone(), self.ttl, now())
    }

    /// A fresh request for a tick that is run at most once.
    pub(crate) fn once(&self, key: &LockKey, tick: Mark) -> Request {
        self.plain(key).claiming(Claim { tick, after: None, delivery: Delivery::AtMostOnce })
    }

    /// A fresh request for a tick that is run at least once, in up to `max_attempts` attempts.
    pub(crate) fn again(&self, key: &LockKey, tick: Mark, max_attempts: u32) -> Request {
        let delivery = Delivery::AtLeastOnce { max_attempts };
        self.plain(key).claiming(Claim { tick, after: None, delivery })
    }

    /// Sends one request.
    pub(crate) async fn send(&self, request: &Request) -> Result<Reply<AnyLease>, BackendError> {
        let mut answers = self.backend.try_acquire(std::slice::from_ref(request)).await;
        assert_eq!(answers.len(), 1, "one request, one answer");
        answers.remove(0)
    }

    /// The answer of a store that answers.
    pub(crate) async fn reply(&self, request: &Request) -> Reply<AnyLease> {
        self.send(request).await.expect("the store answers")
    }

    /// The grant of a request that wins.
    pub(crate) async fn win(&self, request: &Request) -> Grant<AnyLease> {
        match self.reply(request).await {
            Reply::Won(grant) => grant,
            other => panic!("{request:?} should win, and got {other:?}"),
        }
    }

    /// The grant of the first request that wins, and when it was answered. A fresh nonce each time.
    pub(crate) async fn win_when_free(&self, key: &LockKey) -> (Grant<AnyLease>, LeaseInstant) {
        let polling = async {
            loop {
                match self.send(&self.plain(key)).await {
                    Ok(Reply::Won(grant)) => return (grant, now()),
                    Ok(Reply::Busy { .. }) => {}
                    Err(error) if error.kind().is_transient() => {}
                    other => panic!("{key} was answered with {other:?}"),
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        };
        in_time(self.ttl * 4 + SOON, "a free lock", polling).await
    }

    /// Enrolls the job, or reads what is on record for it.
    pub(crate) async fn enroll(&self, key: &LockKey) -> Enrolled {
        self.enroll_as(key, 7).await
    }

    pub(crate) async fn enroll_as(&self, key: &LockKey, fingerprint: u64) -> Enrolled {
        let job = Enrolment { key: key.clone(), fingerprint };
        let mut answers = self.backend.enroll(std::slice::from_ref(&job)).await;
        assert_eq!(answers.len(), 1, "one job, one answer");
        answers.remove(0).expect("the store answers")
    }

    /// Waits until the store answers this client again, after trouble that was made for it.
    pub(crate) async fn answered(&self) {
        let asking = async {
            // Every backend has to ask its store for this, and it changes nothing for anybody.
            let anything = key("is anybody there");
            loop {
                match self.backend.revoke(&anything, Nonce::random(), MarkAfter::Undo).await {
                    Err(error) if error.kind().is_transient() => {}
                    _ => return,
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time(SOON * 3, "a store that answers", asking).await;
    }

    /// The last claim on record.
    pub(crate) async fn last(&self, key: &LockKey) -> ClaimState {
        self.enroll(key).await.last
    }

    /// Enrolls the job and waits until `n` ticks after its mark are due. They are one millisecond apart.
    pub(crate) async fn ticks<const N: usize>(&self, key: &LockKey) -> [Mark; N] {
        let first = self.enroll(key).await.last.mark.as_millis();
        let last = first + i64::try_from(N).expect("few ticks");
        let due = async {
            loop {
                let store_now = self.enroll(key).await.store_now.unwrap_or_else(Timestamp::now);
                if Mark::floor(store_now).as_millis() > last {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        in_time(SOON, "ticks that are due", due).await;
        std::array::from_fn(|i| Mark::from_millis(first + 1 + i64::try_from(i).expect("few ticks")))
    }
}

/// Enrolls the job at the user's level and waits until `N` ticks after its mark are due.
pub(crate) async fn due_ticks<const N: usize>(h: &Store, key: &LockKey) -> [Mark; N] {
    Raw::new(h).ticks(key).await
}

/// A claim that is run at most once.
pub(crate) fn once(tick: Mark) -> Claim {
    Claim { tick, after: None, delivery: Delivery::AtMostOnce }
}

/// An hour from now: a tick from the future for every clock that is right.
pub(crate) fn in_an_hour() -> Mark {
    Mark::from_millis(Timestamp::now().as_millisecond() + 3_600_000)
}

/// Lease time, now.
pub(crate) fn now() -> LeaseInstant {
    SystemClock.lease_now()
}

/// The output of `event`, which must come within `limit`.
pub(crate) async fn in_time<T>(limit: Duration, what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, event).await {
        Ok(output) => output,
        Err(_) => panic!("waited {limit:?} for {what} in vain"),
    }
}

/// Whether `event` stays away for `time`.
pub(crate) async fn stays_away(time: Duration, event: impl Future) -> bool {
    tokio::time::timeout(time, event).await.is_err()
}

/// Polls `future` up to `polls` times and drops it then. `None`: it had not ended by then.
pub(crate) async fn stop_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
