//! A backend whose grants are written down, with the times around the call.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Holder, LockBackend, LockKey, Lost, MarkAfter, Nonce,
    Note, Released, Renewal, Reply, Request, Watch,
};
use solocron::{BackendError, Effect, LeaseInstant};

use super::pen::Pen;
use crate::history::{Claim, What, monotonic_ns};

/// Passes everything on.
#[derive(Debug)]
pub(super) struct Witnessed<B> {
    inner: B,
    pen: Pen,
    known: Mutex<HashMap<Nonce, Known>>,
}

/// What is known of an acquisition.
#[derive(Debug, Default)]
struct Known {
    /// When it was first sent.
    asked: u64,
    claim: Option<Claim>,
}

/// A lease that knows its nonce.
#[derive(Debug)]
pub(super) struct Lease<L> {
    inner: L,
    nonce: Nonce,
}

impl<B> Witnessed<B> {
    pub(super) fn new(inner: B, pen: Pen) -> Self {
        Self { inner, pen, known: Mutex::default() }
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<Nonce, Known>) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn asks(&self, nonce: Nonce) {
        let known = || Known { asked: monotonic_ns(), claim: None };
        self.with(|all| _ = all.entry(nonce).or_insert_with(known));
    }

    /// A grant that is sent again is the same one.
    fn granted(&self, nonce: Nonce, claim: Claim) {
        let asked = self.with(|all| {
            let known = all.entry(nonce).or_default();
            known.claim.replace(claim.clone()).is_none().then_some(known.asked)
        });
        if let Some(asked) = asked {
            self.pen.write(What::Grant { claim, asked, answered: monotonic_ns() });
        }
    }

    fn given_back(&self, nonce: Nonce, after: MarkAfter) {
        let known = self.with(|all| all.remove(&nonce));
        if let (MarkAfter::Undo, Some(claim)) = (after, known.and_then(|known| known.claim)) {
            self.pen.write(What::Undo { claim });
        }
    }
}

#[async_trait]
impl<B: LockBackend> LockBackend for Witnessed<B> {
    type Lease = Lease<B::Lease>;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        self.inner.enroll(jobs).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<Self::Lease>, BackendError>> {
        requests.iter().for_each(|request| self.asks(request.nonce));
        let replies = self.inner.try_acquire(requests).await;
        let told = requests.iter().zip(replies).map(|(request, reply)| {
            let nonce = request.nonce;
            match reply {
                Ok(Reply::Won(grant)) => {
                    if let Some(claim) = request.claim {
                        let (job, fence) = (request.key.as_str(), grant.fence.as_u64());
                        self.granted(nonce, Claim::new(job, claim.tick.as_millis(), fence));
                    }
                    Ok(Reply::Won(grant.map(|inner| Lease { inner, nonce })))
                }
                other => {
                    // Nothing is remembered of an attempt that certainly won nothing.
                    let unknown =
                        other.as_ref().is_err_and(|error| error.effect() == Effect::Unknown);
                    self.with(|all| {
                        if !unknown && all.get(&nonce).is_some_and(|known| known.claim.is_none()) {
                            all.remove(&nonce);
                        }
                    });
                    other.map(|reply| match reply {
                        Reply::Stale { mark, done, owner } => Reply::Stale { mark, done, owner },
                        Reply::Busy { holder } => Reply::Busy { holder },
                        Reply::Behind { mark, unfinished } => Reply::Behind { mark, unfinished },
                        Reply::Early { store_now } => Reply::Early { store_now },
                        _ => unreachable!("the core has no other reply"),
                    })
                }
            }
        });
        told.collect()
    }

    async fn renew(
        &self,
        leases: &[&Self::Lease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let leases: Vec<_> = leases.iter().map(|lease| &lease.inner).collect();
        self.inner.renew(&leases, sent).await
    }

    async fn release(
        &self,
        lease: &Self::Lease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let answer = self.inner.release(&lease.inner, mark).await;
        if answer.is_ok() {
            self.given_back(lease.nonce, mark);
        }
        answer
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let answer = self.inner.revoke(key, nonce, mark).await;
        if answer.is_ok() {
            self.given_back(nonce, mark);
        }
        answer
    }

    async fn lost(&self, lease: &Self::Lease) -> Lost {
        self.inner.lost(&lease.inner).await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        self.inner.watch(key).await
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        self.inner.epoch().await
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        self.inner.holders(prefix).await
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        self.inner.set_note(key, expected, body).await
    }
}
