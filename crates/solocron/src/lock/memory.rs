//! A backend in this process's memory: for tests, simulations, and programs that run once.
//!
//! It forgets only when told to, and takes its time from a clock of its own, which a test may skew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use super::backend::{
    Enrolled, Enrolment, Epoch, Holder, LockBackend, Lost, MarkAfter, Note, Released, Renewal,
    Reply, Request, Validity, Watch,
};
use super::record::{KeyRecord, Verdict};
use super::rule::Rule;
use super::{Capabilities, Fencing, LockKey, Nonce, Scope, TtlRange};
use crate::clock::{Clock, LeaseInstant, SystemClock};
use crate::error::{BackendError, Kind};

/// Locks in this process's memory. Clones share them.
///
/// ```
/// use solocron::lock::{Locks, MemoryBackend};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let locks = Locks::new(MemoryBackend::new())?;
/// let guard = locks.try_lock("report").await?.won().expect("nobody else is here");
/// assert!(locks.try_lock("report").await?.won().is_none());
/// guard.release().await?;
/// # Ok::<(), solocron::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct MemoryBackend {
    store: Arc<Store>,
    process_bound: bool,
}

#[derive(Debug)]
struct Store {
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    entries: HashMap<LockKey, Entry>,
    /// How often everything was forgotten.
    losses: u128,
    /// When the first call after the last loss came; nothing is granted for the longest ttl from then on.
    reopened: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry {
    record: KeyRecord,
    /// Where somebody watches.
    changed: Option<watch::Sender<()>>,
    /// The lease of the last grant and its nonce, so that the same nonce gets the same one. A process-bound holder lives for as
    /// long as this does.
    lease: (Nonce, Weak<Lease>),
}

impl Entry {
    fn alive(&self) -> bool {
        self.lease.1.strong_count() > 0
    }

    /// Wakes whoever watches. Few keys are watched, and a channel is larger than all the rest.
    fn wake(&mut self) {
        if let Some(changed) = self.changed.take_if(|changed| changed.receiver_count() == 0) {
            drop(changed);
        } else if let Some(changed) = &self.changed {
            changed.send_replace(());
        }
    }

    fn watch(&mut self) -> watch::Receiver<()> {
        self.changed.get_or_insert_with(|| watch::Sender::new(())).subscribe()
    }
}

/// A lease of the [`MemoryBackend`].
#[derive(Debug, Clone)]
pub struct MemoryLease(Arc<Lease>);

#[derive(Debug)]
struct Lease {
    store: Arc<Store>,
    key: LockKey,
    nonce: Nonce,
    ttl: Option<Duration>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBackend {
    /// Locks with leases that expire, on the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// The same, on a clock of your own: the store's clock, which need not be that of any node.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { store: Arc::new(Store { clock, memory: Mutex::default() }), process_bound: false }
    }

    /// The same locks with leases that live for as long as their [`MemoryLease`] does, like those of a kernel lock.
    #[must_use]
    pub fn process_bound(mut self) -> Self {
        self.process_bound = true;
        self
    }

    /// Forgets everything, like a flushed store.
    pub fn forget(&self) {
        let mut memory = self.store.lock();
        let forgotten = std::mem::take(&mut memory.entries);
        memory.losses += 1;
        memory.reopened = None;
        drop(memory);
        drop(forgotten); // closes every watch, which wakes its waiter
    }

    /// Ends the lease on `key` before its time, like a store whose clock stepped forward.
    pub fn expire(&self, key: &LockKey) {
        if let Some(entry) = self.store.lock().entries.get_mut(key) {
            entry.record.holder_died();
            entry.wake();
        }
    }

    /// A copy of the record of `key`, for a test to look at.
    #[must_use]
    pub fn record(&self, key: &LockKey) -> Option<KeyRecord> {
        self.store.lock().entries.get(key).map(|entry| entry.record.clone())
    }

    /// Puts `record` in place of the one on record, for a checker that goes back to an earlier state. `None` removes it.
    pub fn restore(&self, key: &LockKey, record: Option<KeyRecord>) {
        let mut memory = self.store.lock();
        match record {
            Some(record) => memory.entry(key).record = record,
            None => drop(memory.entries.remove(key)),
        }
    }

    fn acquire(
        &self,
        memory: &mut Memory,
        request: &Request,
        now: Timestamp,
    ) -> Result<Reply<MemoryLease>, BackendError> {
        let reopened = memory.reopened(now);
        let ttl = (!self.process_bound).then_some(request.ttl);
        let entry = memory.entry(&request.key);
        let alive = entry.alive();
        if let Some(wait) = reopened.and_then(|at| left(at, request.longest_ttl, now))
            && entry.record.judge(request, now, alive) == Verdict::Grant
            && Rule::ForgottenWaits.holds()
        {
            let why = format!(
                "the store lost its memory; the first grant waits another {wait:?} for leases of before"
            );
            return Err(BackendError::new(Kind::Recovering, why).after(wait));
        }
        let Entry { record, lease, .. } = entry;
        record.acquire(request, now, alive, ttl, || self.lease(lease, request, ttl))
    }

    /// The lease of a request that won: the one it has already, if it lives.
    fn lease(
        &self,
        last: &mut (Nonce, Weak<Lease>),
        request: &Request,
        ttl: Option<Duration>,
    ) -> MemoryLease {
        // Only a lease that is handed out is upgraded: whoever drops the last one needs the lock that is held here.
        let living = if last.0 == request.nonce { last.1.upgrade() } else { None };
        let lease = living.unwrap_or_else(|| {
            Arc::new(Lease {
                store: Arc::clone(&self.store),
                key: request.key.clone(),
                nonce: request.nonce,
                ttl,
            })
        });
        *last = (request.nonce, Arc::downgrade(&lease));
        MemoryLease(lease)
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Every change of the memory is complete before the next can panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record of `key`, if it has one, and wakes whoever watches it.
    fn change<T>(
        &self,
        key: &LockKey,
        change: impl FnOnce(&mut KeyRecord, Timestamp) -> T,
    ) -> Option<T> {
        let now = self.clock.now();
        let mut memory = self.lock();
        let entry = memory.entries.get_mut(key)?;
        let answer = change(&mut entry.record, now);
        entry.wake();
        Some(answer)
    }
}

impl Memory {
    fn entry(&mut self, key: &LockKey) -> &mut Entry {
        self.entries.entry(key.clone()).or_insert_with(|| Entry {
            record: KeyRecord::new(key.clone()),
            changed: None,
            lease: (Nonce::from_u128(0), Weak::new()),
        })
    }

    /// When this memory began again after a loss; `None` where it never lost anything.
    fn reopened(&mut self, now: Timestamp) -> Option<Timestamp> {
        (self.losses > 0).then(|| *self.reopened.get_or_insert(now))
    }
}

fn left(since: Timestamp, wait: Duration, now: Timestamp) -> Option<Duration> {
    let over = since.checked_add(wait).unwrap_or(Timestamp::MAX);
    Duration::try_from(over.duration_since(now)).ok().filter(|left| !left.is_zero())
}

impl MemoryLease {
    /// The lock that it is a lease of, for whoever wraps this backend.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.0.key
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ttl.is_some() {
            return;
        }
        let mut memory = self.store.lock();
        if let Some(entry) = memory.entries.get_mut(&self.key)
            && entry
                .record
                .holder(Timestamp::MIN, true)
                .is_some_and(|holder| holder.nonce == Some(self.nonce))
        {
            // It stays on record: if only its reply was lost, the same nonce still finds its grant.
            entry.wake();
        }
    }
}

#[async_trait]
impl LockBackend for MemoryBackend {
    type Lease = MemoryLease;

    fn capabilities(&self) -> Capabilities {
        let ttl = TtlRange {
            min: Duration::from_millis(50),
            max: Duration::from_secs(366 * 24 * 3600),
            step: Duration::from_millis(1),
        };
        Capabilities {
            fencing: Fencing::Stored,
            marks: true,
            ttl: (!self.process_bound).then_some(ttl),
            wakes: true,
            tells_loss: true,
            store_clock: true,
            force_release: true,
            ..Capabilities::exclusion_only(Scope::Process)
        }
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let now = self.store.clock.now();
        let mut memory = self.store.lock();
        memory.reopened(now);
        jobs.iter().map(|job| Ok(memory.entry(&job.key).record.enroll(job, now).0)).collect()
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<MemoryLease>, BackendError>> {
        let now = self.store.clock.now();
        let mut memory = self.store.lock();
        requests.iter().map(|request| self.acquire(&mut memory, request, now)).collect()
    }

    async fn renew(
        &self,
        leases: &[&MemoryLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let now = self.store.clock.now();
        let mut memory = self.store.lock();
        let mut renew = |lease: &Lease| {
            let Some(entry) = memory.entries.get_mut(&lease.key) else {
                return Renewal::NotOwner(Lost::TakenOver);
            };
            match lease.ttl {
                Some(ttl) if entry.record.renew(lease.nonce, ttl, now) => {
                    Renewal::Extended(Validity::Until { since: sent, ttl })
                }
                None if entry
                    .record
                    .holder(now, true)
                    .is_some_and(|holder| holder.nonce == Some(lease.nonce)) =>
                {
                    Renewal::Extended(Validity::ProcessBound)
                }
                _ => Renewal::NotOwner(Lost::TakenOver),
            }
        };
        leases.iter().map(|lease| Ok(renew(&lease.0))).collect()
    }

    async fn release(
        &self,
        lease: &MemoryLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let released =
            self.store.change(&lease.0.key, |record, now| record.release(lease.0.nonce, mark, now));
        Ok(released.unwrap_or(Released::NotOwner { mark: None }))
    }

    async fn release_each(
        &self,
        leases: &[(&MemoryLease, MarkAfter)],
        answer: &mut (dyn FnMut(usize, Result<Released, BackendError>) + Send),
    ) {
        let now = self.store.clock.now();
        let mut memory = self.store.lock();
        for (at, (MemoryLease(lease), mark)) in leases.iter().enumerate() {
            let released = memory.entries.get_mut(&lease.key).map(|entry| {
                let released = entry.record.release(lease.nonce, *mark, now);
                entry.wake();
                released
            });
            answer(at, Ok(released.unwrap_or(Released::NotOwner { mark: None })));
        }
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        // Also where there is no record yet: the request may still be on its way.
        self.store.lock().entry(key);
        let released = self.store.change(key, |record, now| record.revoke(nonce, mark, now));
        Ok(released.unwrap_or(Released::NotOwner { mark: None }))
    }

    async fn lost(&self, lease: &MemoryLease) -> Lost {
        loop {
            let now = self.store.clock.now();
            let changed = {
                let mut memory = self.store.lock();
                let entry = memory.entries.get_mut(&lease.0.key);
                entry
                    .filter(|entry| {
                        entry
                            .record
                            .holder(now, true)
                            .is_some_and(|holder| holder.nonce == Some(lease.0.nonce))
                    })
                    .map(Entry::watch)
            };
            let Some(mut changed) = changed else { return Lost::TakenOver };
            // Closed when everything is forgotten, which is news as well.
            let _ = changed.changed().await;
        }
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        let changed = self.store.lock().entry(key).watch();
        Ok(Some(Box::new(MemoryWatch { changed })))
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        let now = self.store.clock.now();
        let mut memory = self.store.lock();
        memory.reopened(now);
        Ok(Epoch(memory.losses))
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        let now = self.store.clock.now();
        let memory = self.store.lock();
        let named = memory.entries.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        Ok(Some(named.filter_map(|(_, entry)| entry.record.holder(now, entry.alive())).collect()))
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        let mut memory = self.store.lock();
        memory.entry(key).record.set_note(expected, body).map(|(note, _)| note)
    }
}

#[derive(Debug)]
struct MemoryWatch {
    changed: watch::Receiver<()>,
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn changed(&mut self) {
        // An error means that everything was forgotten, so the key is free; again and again, until the watch is renewed.
        let _ = self.changed.changed().await;
    }
}
