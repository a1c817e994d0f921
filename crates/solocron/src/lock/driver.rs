//! The driver with its lease type erased, so that no user writes a generic.

use std::any::Any;
use std::fmt::Debug;
use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;

use super::backend::{
    Enrolled, Enrolment, Epoch, Holder, LockBackend, Lost, MarkAfter, Note, Released, Renewal,
    Reply, Request, Watch,
};
use super::{Capabilities, LockKey, Nonce};
use crate::caught::caught;
use crate::clock::LeaseInstant;
use crate::error::{BackendError, Kind};

/// A lease whose type only its driver knows.
pub(crate) type AnyLease = Arc<dyn Any + Send + Sync>;

/// [`LockBackend`] without its lease type.
#[async_trait]
pub(crate) trait Driver: Send + Sync + Debug + 'static {
    fn capabilities(&self) -> Capabilities;
    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>>;
    async fn try_acquire(&self, requests: &[Request])
    -> Vec<Result<Reply<AnyLease>, BackendError>>;
    async fn renew(
        &self,
        leases: &[AnyLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>>;
    async fn release(&self, lease: &AnyLease, mark: MarkAfter) -> Result<Released, BackendError>;
    async fn release_each(
        &self,
        leases: &[(AnyLease, MarkAfter)],
        answer: &mut (dyn FnMut(usize, Result<Released, BackendError>) + Send),
    );
    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError>;
    async fn lost(&self, lease: &AnyLease) -> Lost;
    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError>;
    async fn epoch(&self) -> Result<Epoch, BackendError>;
    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError>;
    async fn settled(&self);
    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError>;
}

#[derive(Debug)]
pub(crate) struct Erased<B>(pub(crate) B);

fn lease<B: LockBackend>(lease: &AnyLease) -> &B::Lease {
    lease.downcast_ref().expect("a driver is only given the leases that it granted")
}

/// A panic in a backend is an answer like any other that says nothing: nobody knows what was carried out.
async fn safe<T>(call: impl Future<Output = T>) -> Result<T, BackendError> {
    caught(call).await.map_err(|panic| {
        BackendError::new(Kind::Unavailable, format!("the backend panicked: {panic}"))
            .effect_unknown()
    })
}

/// [`safe`], for a call that answers once for each of `count`; answers that are missing are errors too.
async fn safe_each<T>(
    count: usize,
    call: impl Future<Output = Vec<Result<T, BackendError>>>,
) -> Vec<Result<T, BackendError>> {
    let (mut answers, error) = match safe(call).await {
        Ok(answers) => {
            (answers, BackendError::new(Kind::Unavailable, "the backend left out an answer"))
        }
        Err(error) => (Vec::new(), error),
    };
    answers.truncate(count);
    while answers.len() < count {
        answers.push(Err(error.clone().effect_unknown()));
    }
    answers
}

#[async_trait]
impl<B: LockBackend> Driver for Erased<B> {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        safe_each(jobs.len(), self.0.enroll(jobs)).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<AnyLease>, BackendError>> {
        let replies = safe_each(requests.len(), self.0.try_acquire(requests)).await;
        let erase = |reply: Reply<B::Lease>| reply.map(|lease| Arc::new(lease) as AnyLease);
        replies.into_iter().map(|reply| reply.map(erase)).collect()
    }

    async fn renew(
        &self,
        leases: &[AnyLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let leases: Vec<_> = leases.iter().map(lease::<B>).collect();
        safe_each(leases.len(), self.0.renew(&leases, sent)).await
    }

    async fn release(&self, any: &AnyLease, mark: MarkAfter) -> Result<Released, BackendError> {
        safe(self.0.release(lease::<B>(any), mark)).await?
    }

    async fn release_each(
        &self,
        leases: &[(AnyLease, MarkAfter)],
        answer: &mut (dyn FnMut(usize, Result<Released, BackendError>) + Send),
    ) {
        let leases: Vec<_> = leases.iter().map(|(any, mark)| (lease::<B>(any), *mark)).collect();
        if let Err(error) = safe(self.0.release_each(&leases, answer)).await {
            tracing::error!(%error, "what it left unanswered is given back again");
        }
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        safe(self.0.revoke(key, nonce, mark)).await?
    }

    async fn lost(&self, any: &AnyLease) -> Lost {
        match safe(self.0.lost(lease::<B>(any))).await {
            Ok(why) => why,
            Err(error) => {
                // Renewals find a loss all the same.
                tracing::error!(%error, "no more pushed news of a loss");
                pending().await
            }
        }
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        safe(self.0.watch(key)).await?
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        safe(self.0.epoch()).await?
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        safe(self.0.holders(prefix)).await?
    }

    async fn settled(&self) {
        if let Err(error) = safe(self.0.settled()).await {
            tracing::error!(%error, "nobody knows what is left to be given back");
        }
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        safe(self.0.set_note(key, expected, body)).await?
    }
}
