//! The network between one node and the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, LockBackend, LockKey, Lost, MarkAfter, MemoryBackend,
    MemoryLease, Nonce, Released, Renewal, Reply, Request, Watch,
};
use solocron::{BackendError, Kind, LeaseInstant};

use super::record::Writer;
use super::rng::Rng;
use crate::history::Claim;

/// How late a call arrives that its caller has given up, at the latest, in milliseconds.
pub(super) const LATEST_MS: u64 = 9_000;

/// Delays, loses and cuts calls. A call whose caller gives up is carried out all the same.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) inner: MemoryBackend,
    pub(super) net: Arc<Net>,
    pub(super) writer: Writer,
}

/// What is wrong with a link.
#[derive(Debug)]
pub(super) struct Net(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    cut: bool,
    /// How many calls in a thousand are hit.
    noise: u64,
    hits: Hits,
}

/// How often calls were hit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hits {
    pub(super) lost_requests: u64,
    pub(super) lost_replies: u64,
    pub(super) late: u64,
    pub(super) refused: u64,
    pub(super) cut: u64,
}

/// What happens to one call.
enum Fate {
    Plain,
    /// It takes this long there, and this long back.
    Slow(Duration, Duration),
    /// Nothing arrives.
    NoEffect,
    /// It arrives after this time, and its answer does not.
    NoReply(Duration),
    /// An error comes at once.
    Refused,
}

impl Net {
    pub(super) fn new(rng: Rng) -> Self {
        Self(Mutex::new(State { rng, cut: false, noise: 0, hits: Hits::default() }))
    }

    pub(super) fn cut(&self, cut: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cut = cut;
    }

    pub(super) fn noise(&self, per_thousand: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).noise = per_thousand;
    }

    pub(super) fn hits(&self) -> Hits {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hits
    }

    fn fate(&self) -> Fate {
        let State { rng, cut, noise, hits } =
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *cut {
            hits.cut += 1;
            return Fate::NoEffect;
        }
        if !rng.one_in_thousand(*noise) {
            return Fate::Plain;
        }
        match rng.below(5) {
            0 => {
                hits.lost_requests += 1;
                Fate::NoEffect
            }
            1 => {
                hits.lost_replies += 1;
                Fate::NoReply(Duration::ZERO)
            }
            2 => {
                hits.late += 1;
                // Most of these come after the caller has given up, some after its lease is over.
                Fate::NoReply(rng.millis(200..LATEST_MS))
            }
            3 => {
                hits.refused += 1;
                Fate::Refused
            }
            _ => Fate::Slow(rng.millis(1..900), rng.millis(1..900)),
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        effect: impl Future<Output = T> + Send + 'static,
        failed: impl FnOnce(BackendError) -> T,
    ) -> T {
        match self.fate() {
            Fate::Plain => effect.await,
            Fate::Slow(there, back) => {
                let carried = tokio::spawn(async move {
                    tokio::time::sleep(there).await;
                    effect.await
                });
                let answer = carried.await.expect("the memory backend does not panic");
                tokio::time::sleep(back).await;
                answer
            }
            Fate::NoReply(after) => {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    drop(effect.await);
                });
                std::future::pending().await
            }
            Fate::NoEffect => std::future::pending().await,
            Fate::Refused => failed(BackendError::new(Kind::Unavailable, "connection refused")),
        }
    }
}

#[async_trait]
impl LockBackend for Link {
    type Lease = MemoryLease;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let (inner, jobs, n) = (self.inner.clone(), jobs.to_vec(), jobs.len());
        let effect = async move { inner.enroll(&jobs).await };
        self.net.call(effect, |error| vec![Err(error); n]).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<MemoryLease>, BackendError>> {
        requests.iter().for_each(|request| self.writer.asked(request.nonce));
        let (inner, requests) = (self.inner.clone(), requests.to_vec());
        let (writer, n) = (self.writer.clone(), requests.len());
        let effect = async move {
            let replies = inner.try_acquire(&requests).await;
            for (request, reply) in requests.iter().zip(&replies) {
                if let (Some(claim), Ok(Reply::Won(grant))) = (request.claim, reply) {
                    let (job, tick) = (request.key.as_str(), claim.tick.as_millis());
                    writer.granted(request.nonce, Claim::new(job, tick, grant.fence.as_u64()));
                }
            }
            replies
        };
        self.net.call(effect, |error| (0..n).map(|_| Err(error.clone())).collect()).await
    }

    async fn renew(
        &self,
        leases: &[&MemoryLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let leases: Vec<MemoryLease> = leases.iter().map(|lease| (*lease).clone()).collect();
        let (inner, n) = (self.inner.clone(), leases.len());
        let effect = async move {
            let leases: Vec<_> = leases.iter().collect();
            inner.renew(&leases, sent).await
        };
        self.net.call(effect, |error| vec![Err(error); n]).await
    }

    async fn release(
        &self,
        lease: &MemoryLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let (inner, lease) = (self.inner.clone(), lease.clone());
        self.net.call(async move { inner.release(&lease, mark).await }, Err).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let (inner, key, writer) = (self.inner.clone(), key.clone(), self.writer.clone());
        let effect = async move {
            let answer = inner.revoke(&key, nonce, mark).await;
            if mark == MarkAfter::Undo {
                writer.undone(nonce);
            }
            answer
        };
        self.net.call(effect, Err).await
    }

    async fn lost(&self, lease: &MemoryLease) -> Lost {
        self.inner.lost(lease).await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        let (inner, key) = (self.inner.clone(), key.clone());
        self.net.call(async move { inner.watch(&key).await }, Err).await
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        let inner = self.inner.clone();
        self.net.call(async move { inner.epoch().await }, Err).await
    }
}
