//! A backend of your own, in one file: locks with a memory over any store that can compare and swap a value.
//!
//! The store here is a map in memory that stands for yours: a table with a version column, a bucket with conditional writes, a
//! key-value service. All it must do is: read a value with its version, and replace it if the version is still the same. The
//! rules of a lock with a memory come from [`KeyRecord`]; this file only carries bytes.
//!
//! ```text
//! cargo run --example own_backend     two nodes share a job over it
//! cargo test --example own_backend    the laws that every backend must keep
//! ```
//!
//! [dependencies]
//! async-trait = "0.1"
//! jiff = "0.2"
//! solocron = "0.1"

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Fencing, Holder, KeyRecord, LockBackend, LockKey, Lost,
    MarkAfter, Nonce, Note, Released, Renewal, Reply, Request, Scope, TtlRange, Validity,
};
use solocron::{BackendError, Context, Job, Kind, LeaseInstant, Locks, Scheduler};

// ------------------------------------------------------------------------------------------------------------- your store

/// Versioned values. Replace it with a client of your store.
#[derive(Debug, Clone, Default)]
struct CasStore(Arc<Mutex<HashMap<String, Versioned>>>);

/// A value and its version.
type Versioned = (u64, Vec<u8>);

impl CasStore {
    /// The value and its version; version 0 where there is none.
    async fn get(&self, key: &str) -> Versioned {
        self.0.lock().unwrap().get(key).cloned().unwrap_or_default()
    }

    /// Replaces the value if its version is still `expected`.
    async fn swap(&self, key: &str, expected: u64, value: Vec<u8>) -> bool {
        let mut values = self.0.lock().unwrap();
        let current = values.get(key).map_or(0, |(version, _)| *version);
        let same = current == expected;
        if same {
            values.insert(key.to_owned(), (current + 1, value));
        }
        same
    }

    /// The store's clock. A store without one should not claim `store_clock`.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn values(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().values().map(|(_, value)| value.clone()).collect()
    }
}

// ----------------------------------------------------------------------------------------------------------- the backend

/// Locks in a store that compares and swaps.
#[derive(Debug, Clone, Default)]
struct CasBackend {
    store: CasStore,
}

/// What a winner holds: nothing but its name. The lease itself is in the store.
#[derive(Debug)]
struct CasLease {
    key: LockKey,
    nonce: Nonce,
    ttl: Duration,
}

impl CasBackend {
    /// Reads the record of `key`, lets `change` work on it, writes it back if `change` says so, and starts over where somebody
    /// else was faster. Optimistic, so a crowd costs repeats; a store with scripts would do it in one step.
    async fn update<T>(
        &self,
        key: &LockKey,
        mut change: impl FnMut(&mut KeyRecord, Timestamp) -> (T, bool),
    ) -> Result<T, BackendError> {
        const PATIENCE: usize = 1_000;
        let slot = key.slug();
        for _ in 0..PATIENCE {
            let (version, bytes) = self.store.get(&slot).await;
            let mut record = match version {
                0 => KeyRecord::new(key.clone()),
                _ => KeyRecord::from_bytes(key, &bytes)
                    .map_err(|error| BackendError::new(Kind::Corrupt, error))?,
            };
            let (answer, write) = change(&mut record, self.store.now());
            if !write || self.store.swap(&slot, version, record.to_bytes()).await {
                return Ok(answer);
            }
        }
        Err(BackendError::new(
            Kind::Unavailable,
            format!("{key} changed under {PATIENCE} attempts to write it"),
        ))
    }

    async fn acquire(&self, request: &Request) -> Result<Reply<CasLease>, BackendError> {
        let lease =
            || CasLease { key: request.key.clone(), nonce: request.nonce, ttl: request.ttl };
        self.update(&request.key, |record, now| {
            let reply = record.acquire(request, now, true, Some(request.ttl), lease);
            let write = matches!(reply, Ok(Reply::Won(_)));
            (reply, write)
        })
        .await?
    }
}

#[async_trait]
impl LockBackend for CasBackend {
    type Lease = CasLease;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::exclusion_only(Scope::Process); // Scope::Fleet, over a real store
        capabilities.fencing = Fencing::Stored;
        capabilities.marks = true;
        capabilities.ttl = Some(TtlRange {
            min: Duration::from_millis(50),
            max: Duration::from_secs(86_400),
            step: Duration::from_millis(1),
        });
        capabilities.store_clock = true;
        capabilities.force_release = true;
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let mut enrolled = Vec::with_capacity(jobs.len());
        for job in jobs {
            enrolled.push(self.update(&job.key, |record, now| record.enroll(job, now)).await);
        }
        enrolled
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<CasLease>, BackendError>> {
        let mut replies = Vec::with_capacity(requests.len());
        for request in requests {
            replies.push(self.acquire(request).await);
        }
        replies
    }

    async fn renew(
        &self,
        leases: &[&CasLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let mut renewals = Vec::with_capacity(leases.len());
        for CasLease { key, nonce, ttl } in leases {
            let renewed = self.update(key, |record, now| {
                let renewed = record.renew(*nonce, *ttl, now);
                (renewed, renewed)
            });
            renewals.push(renewed.await.map(|renewed| match renewed {
                true => Renewal::Extended(Validity::Until { since: sent, ttl: *ttl }),
                false => Renewal::NotOwner(Lost::TakenOver),
            }));
        }
        renewals
    }

    async fn release(&self, lease: &CasLease, mark: MarkAfter) -> Result<Released, BackendError> {
        self.update(&lease.key, |record, now| (record.release(lease.nonce, mark, now), true)).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.update(key, |record, now| (record.revoke(nonce, mark, now), true)).await
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        let now = self.store.now();
        let mut holders = Vec::new();
        for bytes in self.store.values().await {
            let record = KeyRecord::from_any_bytes(&bytes)
                .map_err(|error| BackendError::new(Kind::Corrupt, error))?;
            holders.extend(
                record.holder(now, true).filter(|holder| holder.key.as_str().starts_with(prefix)),
            );
        }
        Ok(Some(holders))
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        self.update(key, |record, _| match record.set_note(expected, body) {
            Ok((note, written)) => (Ok(note), written),
            Err(error) => (Err(error), false),
        })
        .await?
    }
}

// --------------------------------------------------------------------------------------------------------------- using it

#[tokio::main]
async fn main() -> solocron::Result<()> {
    let store = CasBackend::default();
    let nodes = ["a", "b"].map(|node| {
        let say = move |ctx: Context| async move {
            println!("{node} runs {}, fence {}", ctx.tick(), ctx.fence())
        };
        let job = Job::new("tick", "* * * * * *", say);
        let locks = Locks::new(store.clone())?;
        Scheduler::builder(locks).job(job).build()
    });
    let [a, b] = nodes;
    let three_seconds = || tokio::time::sleep(Duration::from_secs(3));
    tokio::try_join!(a?.run_until(three_seconds()), b?.run_until(three_seconds()))?;
    Ok(())
}

#[cfg(test)]
mod laws {
    use super::CasBackend;

    struct Store(CasBackend);

    impl solocron_testkit::Harness for Store {
        type Backend = CasBackend;

        async fn start() -> Self {
            Self(CasBackend::default())
        }

        fn connect(&self) -> CasBackend {
            self.0.clone()
        }

        /// Your database writes to disk before it answers. One that may lose what it acknowledged needs the amnesia rule of
        /// `docs/guarantees.md`, and a `forget` here to test it.
        fn never_forgets(&self) -> bool {
            true
        }
    }

    solocron_testkit::conformance!(Store);
}
