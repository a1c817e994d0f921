//! A backend whose type is not known before the program runs.

use std::sync::Arc;

use async_trait::async_trait;

use super::backend::{
    Enrolled, Enrolment, Epoch, Holder, LockBackend, Lost, MarkAfter, Note, Released, Renewal,
    Reply, Request, Watch,
};
use super::driver::{AnyLease as Erased, Driver, Erased as Typed};
use super::{Capabilities, LockKey, Nonce};
use crate::clock::LeaseInstant;
use crate::error::BackendError;

/// Any backend, for programs that pick one while they run. Clones are the same backend.
///
/// A panic in the backend comes out as an error.
///
/// ```
/// use solocron::lock::{AnyBackend, Locks, MemoryBackend};
///
/// fn from_settings(name: &str) -> Option<AnyBackend> {
///     match name {
///         "memory" => Some(AnyBackend::new(MemoryBackend::new())),
///         _ => None,
///     }
/// }
///
/// let locks = Locks::new(from_settings("memory").expect("we know that one"))?;
/// # Ok::<(), solocron::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AnyBackend(Arc<dyn Driver>);

/// A lease of whatever backend granted it.
#[derive(Debug, Clone)]
pub struct AnyLease(Erased);

impl AnyBackend {
    /// That backend, with its type forgotten.
    #[must_use]
    pub fn new(backend: impl LockBackend) -> Self {
        Self(Arc::new(Typed(backend)))
    }
}

#[async_trait]
impl LockBackend for AnyBackend {
    type Lease = AnyLease;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        self.0.enroll(jobs).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<AnyLease>, BackendError>> {
        let replies = self.0.try_acquire(requests).await;
        replies.into_iter().map(|reply| Ok(reply?.map(AnyLease))).collect()
    }

    async fn renew(
        &self,
        leases: &[&AnyLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let leases: Vec<_> = leases.iter().map(|lease| Arc::clone(&lease.0)).collect();
        self.0.renew(&leases, sent).await
    }

    async fn release(&self, lease: &AnyLease, mark: MarkAfter) -> Result<Released, BackendError> {
        self.0.release(&lease.0, mark).await
    }

    async fn release_each(
        &self,
        leases: &[(&AnyLease, MarkAfter)],
        answer: &mut (dyn FnMut(usize, Result<Released, BackendError>) + Send),
    ) {
        let leases: Vec<_> =
            leases.iter().map(|(lease, mark)| (Arc::clone(&lease.0), *mark)).collect();
        self.0.release_each(&leases, answer).await;
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.0.revoke(key, nonce, mark).await
    }

    async fn lost(&self, lease: &AnyLease) -> Lost {
        self.0.lost(&lease.0).await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        self.0.watch(key).await
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        self.0.epoch().await
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        self.0.holders(prefix).await
    }

    async fn settled(&self) {
        self.0.settled().await;
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        self.0.set_note(key, expected, body).await
    }
}
