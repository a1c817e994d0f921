//! The driver.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use solocron::jiff::Timestamp;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Fence, Fencing, Holder, KeyRecord, LockBackend,
    LockKey, Lost, MarkAfter, Nonce, Note, Released, Renewal, Reply, Request, Scope, TtlRange,
    Watch,
};
use solocron::{BackendError, LeaseInstant};

use crate::change::LockKeyIs;
use crate::compare::FenceCompare;
use crate::config::Config;
use crate::home::{Home, Names};
use crate::keys::Tag;
use crate::lease::EtcdLease;
use crate::seen::Seen;
use crate::watch::{EtcdWatch, established};

/// Locks in an etcd cluster. Clones share one session, one watch and one connection; so should all of a process's locks.
///
/// When the last clone is dropped, the session is taken away in the background, and with it whatever is still held.
#[derive(Clone)]
pub struct EtcdBackend {
    config: Arc<Config>,
    /// That of this process: a forked child makes one of its own.
    handle: Arc<Mutex<Arc<Handle>>>,
}

/// Keeps the tasks of a [`Home`] going.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<Home>);

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.pid == std::process::id() {
            self.0.closed.cancel();
        }
    }
}

impl EtcdBackend {
    pub(crate) fn new(config: Config) -> io::Result<Self> {
        let home = Home::new(config.clone())?;
        let handle = Arc::new(Mutex::new(Arc::new(Handle(home))));
        Ok(Self { config: Arc::new(config), handle })
    }

    fn handle(&self) -> Result<Arc<Handle>, BackendError> {
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if handle.0.pid != std::process::id() {
            // The connections, the session and the thread that keeps them belong to the parent of this forked child.
            let home = Home::new((*self.config).clone())
                .map_err(|error| BackendError::new(solocron::Kind::Unavailable, error))?;
            std::mem::forget(std::mem::replace(&mut *handle, Arc::new(Handle(home))));
        }
        Ok(Arc::clone(&handle))
    }

    pub(crate) fn home(&self) -> Result<Arc<Home>, BackendError> {
        self.handle().map(|handle| Arc::clone(&handle.0))
    }

    /// What a transaction of yours must compare, so that etcd itself refuses it once the lock is not held any more.
    ///
    /// This is the whole of fencing on etcd: no pause, however long, can come between the check and the write.
    ///
    /// ```
    /// use solocron::lock::{Fence, LockKey};
    /// use solocron_etcd::EtcdBackend;
    ///
    /// let backend = EtcdBackend::from_url("etcd://127.0.0.1:2379/billing")?;
    /// // of a guard: backend.fence_compare(guard.key(), guard.fence())
    /// let compare = backend.fence_compare(&LockKey::new("nightly")?, Fence::new(42));
    /// assert!(compare.key.starts_with(b"solocron/billing/lock/nightly-"));
    /// assert_eq!(compare.create_revision, 42);
    /// # Ok::<(), solocron::Error>(())
    /// ```
    #[must_use]
    pub fn fence_compare(&self, key: &LockKey, fence: Fence) -> FenceCompare {
        FenceCompare {
            key: crate::keys::Keys::of(&self.config.namespace).lock(key),
            // A number that is no revision is never equal to one.
            create_revision: i64::try_from(fence.as_u64()).unwrap_or(i64::MAX),
        }
    }
}

impl fmt::Debug for EtcdBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBackend")
            .field("namespace", &self.config.namespace)
            .field("endpoints", &self.config.endpoints)
            .finish_non_exhaustive()
    }
}

/// More operations would be refused by a server with default limits (128 a transaction).
pub(crate) const KEYS_AT_ONCE: usize = 50;

impl Home {
    /// Reads the records of many locks in few round trips.
    async fn read_each(&self, names: &[(&LockKey, Names)]) -> Vec<Result<Arc<Seen>, BackendError>> {
        let reads = names.chunks(KEYS_AT_ONCE).map(|chunk| async move {
            let keys: Vec<_> =
                chunk.iter().map(|(_, names)| (names.lock.clone(), names.state.clone())).collect();
            let error = match self.wire.read(&keys).await {
                Ok(found) if found.len() == chunk.len() => {
                    let each = chunk.iter().zip(found);
                    return each
                        .map(|((key, names), both)| self.see(names, Seen::of(key, both)?))
                        .collect();
                }
                Ok(_) => BackendError::new(solocron::Kind::Corrupt, "etcd left out some keys"),
                Err(fault) => fault.error,
            };
            chunk.iter().map(|_| Err(error.clone())).collect::<Vec<_>>()
        });
        join_all(reads).await.into_iter().flatten().collect()
    }

    /// Enrolls one job; `seen` is news.
    async fn enroll(
        &self,
        job: &Enrolment,
        names: &Names,
        seen: Arc<Seen>,
    ) -> Result<Enrolled, BackendError> {
        let enroll = |record: &mut KeyRecord| {
            let (mut enrolled, changed) = record.enroll(job, Timestamp::now());
            enrolled.store_now = None;
            (enrolled, changed)
        };
        let (enrolled, changed) = enroll(&mut seen.record.clone());
        if !changed {
            return Ok(enrolled);
        }
        self.change(&job.key, names, Some(seen), |record, _| Ok((enroll(record).0, LockKeyIs::Any)))
            .await
    }

    async fn holders(&self, prefix: &str) -> Result<Vec<Holder>, BackendError> {
        let kept = self.wire.list(self.keys.locks()).await?;
        let named = kept.iter().filter_map(|kept| {
            let tag = Tag::from_bytes(&kept.value).ok()?;
            tag.key.as_str().starts_with(prefix).then_some((kept.lease, tag))
        });
        let named: Vec<_> = named.collect();
        let mut leases: Vec<_> = named.iter().map(|(lease, _)| *lease).collect();
        leases.sort_unstable();
        leases.dedup();
        let looks = leases.iter().map(|lease| self.wire.look_at_lease(*lease, false));
        let states = join_all(looks).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut holders = Vec::with_capacity(named.len());
        for (lease, tag) in named {
            let state = leases.binary_search(&lease).ok().and_then(|at| states[at].as_ref());
            // A lease that is gone took its keys with it, in between.
            let Some(state) = state else { continue };
            let mut holder = tag.holder();
            holder.remaining = Some(state.remaining.min(tag.ttl));
            holders.push(holder);
        }
        Ok(holders)
    }
}

#[async_trait]
impl LockBackend for EtcdBackend {
    type Lease = EtcdLease;

    fn capabilities(&self) -> Capabilities {
        let ttl = TtlRange {
            // A server with usual elections (1 s) grants no less.
            min: Duration::from_secs(2),
            max: Duration::from_secs(366 * 24 * 3600),
            step: Duration::from_secs(1),
        };
        let mut capabilities = Capabilities::exclusion_only(Scope::Fleet);
        capabilities.fencing = Fencing::Consensus;
        capabilities.marks = true;
        capabilities.ttl = Some(ttl);
        capabilities.wakes = true;
        capabilities.tells_loss = true;
        capabilities.force_release = true;
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let home = match self.home() {
            Ok(home) => home,
            Err(error) => return jobs.iter().map(|_| Err(error.clone())).collect(),
        };
        let names: Vec<_> = jobs.iter().map(|job| (&job.key, home.names(&job.key))).collect();
        let seen = home.read_each(&names).await;
        let each = jobs.iter().zip(&names).zip(seen).map(|((job, (_, names)), seen)| {
            let home = &home;
            async move { home.enroll(job, names, seen?).await }
        });
        join_all(each).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<EtcdLease>, BackendError>> {
        let home = match self.home() {
            Ok(home) => home,
            Err(error) => return requests.iter().map(|_| Err(error.clone())).collect(),
        };
        // A transaction each, sent together: one transaction for all would sink all with one loser.
        join_all(requests.iter().map(|request| home.acquire(request))).await
    }

    async fn renew(
        &self,
        leases: &[&EtcdLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        match self.home() {
            Ok(home) => home.renew(leases, sent).await,
            Err(error) => leases.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn release(&self, lease: &EtcdLease, mark: MarkAfter) -> Result<Released, BackendError> {
        self.home()?.release(&lease.0, mark).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.home()?.revoke(key, nonce, mark).await
    }

    async fn lost(&self, lease: &EtcdLease) -> Lost {
        lease.0.lost().await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        let handle = self.handle()?;
        let home = &handle.0;
        let news = home.bells.listen(&home.keys.lock(key));
        established(home).await?;
        Ok(Some(Box::new(EtcdWatch { news, _backend: handle })))
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        let home = self.home()?;
        if home.wire.memory().0 == 0 {
            // Not heard from yet.
            home.wire.list(home.keys.locks()).await?;
        }
        let (cluster, losses) = home.wire.memory();
        Ok(Epoch(u128::from(cluster) << 64 | u128::from(losses)))
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        self.home()?.holders(prefix).await.map(Some)
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        let home = self.home()?;
        let names = home.names(key);
        let known = home.remembered(&names);
        home.change(key, &names, known, |record, _| {
            Ok((record.set_note(expected, body)?.0, LockKeyIs::Any))
        })
        .await
    }
}
