//! What the tests share: requests to the driver, and waiting for events.

use std::time::{Duration, Instant};

use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, Delivery, Enrolment, Grant, LockBackend, LockKey, LockOptions, Locks, Mark, NodeId,
    Nonce, Reply, Request,
};
use solocron::{BackendError, Clock, LeaseInstant, SystemClock};
use solocron_etcd::{EtcdBackend, EtcdLease};

/// For events that come within milliseconds: long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

pub(crate) fn now() -> LeaseInstant {
    SystemClock.lease_now()
}

/// A request for a plain lock.
pub(crate) fn plain(name: &str, ttl: Duration) -> Request {
    Request::new(key(name), Nonce::random(), NodeId::named("node"), ttl, now())
}

/// A request for a tick that is run at most once.
pub(crate) fn claim(name: &str, tick: Mark) -> Request {
    let claim = Claim { tick, after: None, delivery: Delivery::AtMostOnce };
    plain(name, Duration::from_secs(15)).claiming(claim)
}

pub(crate) async fn attempt(
    backend: &EtcdBackend,
    request: &Request,
) -> Result<Reply<EtcdLease>, BackendError> {
    backend.try_acquire(std::slice::from_ref(request)).await.remove(0)
}

pub(crate) async fn win(backend: &EtcdBackend, request: &Request) -> Grant<EtcdLease> {
    match attempt(backend, request).await.unwrap() {
        Reply::Won(grant) => grant,
        other => panic!("not won: {other:?}"),
    }
}

/// Enrolls the job, and answers with a tick that is due and was not claimed.
pub(crate) async fn due_tick(backend: &EtcdBackend, name: &str) -> Mark {
    let job = Enrolment { key: key(name), fingerprint: 7 };
    let mark = backend.enroll(&[job]).await.remove(0).unwrap().last.mark;
    let tick = Mark::from_millis(mark.as_millis() + 1);
    let due = || Mark::floor(Timestamp::now()) > tick;
    until("a tick that is due", || async { due().then_some(()) }).await;
    tick
}

pub(crate) fn locks(backend: &EtcdBackend, ttl: u64) -> Locks {
    let options = LockOptions::default().ttl(Duration::from_secs(ttl));
    Locks::builder(backend.clone()).options(options).build().unwrap()
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what} in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The output of an event that must come.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what} in vain"),
    }
}
