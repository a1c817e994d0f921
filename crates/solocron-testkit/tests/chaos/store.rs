//! A lease store of files for processes of one host: the smallest honest backend that many processes can share. The rules are the
//! core's, so one of them can be taken away.
//!
//! ```text
//! <dir>/<key>.record    a KeyRecord, read, changed and written under <dir>/lock
//! <dir>/refuses         while it is there, every call is refused
//! <dir>/mute-<node>     while it is there, this node's calls take effect, and their answers are lost
//! ```
//!
//! The environment variable [`PLANT`] makes it wrong, in one of these ways: `refuses` everything, always; `sulks`, refuses everything
//! for ever once it had to; `fences` all alike.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Fence, Fencing, KeyRecord, LockBackend, LockKey, Lost,
    MarkAfter, Nonce, Released, Renewal, Reply, Request, Scope, TtlRange, Validity,
};
use solocron::{BackendError, Kind, LeaseInstant};

/// Names what is wrong: a way above, or one of the core's rules that shall not hold.
pub(crate) const PLANT: &str = "SOLOCRON_CHAOS_PLANT";

/// A client of the store.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    node: String,
    plant: String,
    sulks: AtomicBool,
}

/// What a winner holds: nothing but its name.
#[derive(Debug)]
pub(crate) struct FileLease {
    key: LockKey,
    nonce: Nonce,
    ttl: Duration,
}

impl Files {
    pub(crate) fn open(dir: &Path, node: &str) -> Self {
        let plant = std::env::var(PLANT).unwrap_or_default();
        let sulks = AtomicBool::new(plant == "refuses");
        Self { dir: dir.to_owned(), node: node.to_owned(), plant, sulks }
    }

    pub(crate) fn refuses(dir: &Path) -> PathBuf {
        dir.join("refuses")
    }

    pub(crate) fn mute(dir: &Path, node: &str) -> PathBuf {
        dir.join(format!("mute-{node}"))
    }

    fn update<T>(
        &self,
        key: &LockKey,
        change: impl FnOnce(&mut KeyRecord, Timestamp) -> T,
    ) -> Result<T, BackendError> {
        if Self::refuses(&self.dir).exists() || self.sulks.load(Ordering::Relaxed) {
            self.sulks.fetch_or(self.plant == "sulks", Ordering::Relaxed);
            return Err(BackendError::new(Kind::Unavailable, "the store refuses"));
        }
        let broken = |error| BackendError::new(Kind::Unavailable, error);
        let lock = File::create(self.dir.join("lock")).map_err(broken)?;
        lock.lock().map_err(broken)?;
        let path = self.dir.join(format!("{}.record", key.slug()));
        let mut record = match fs::read(&path) {
            Ok(bytes) => KeyRecord::from_bytes(key, &bytes)
                .map_err(|error| BackendError::new(Kind::Corrupt, error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => KeyRecord::new(key.clone()),
            Err(error) => return Err(broken(error)),
        };
        let answer = change(&mut record, Timestamp::now());
        // Whole, or not at all: a process may be killed in between.
        let fresh = path.with_extension(std::process::id().to_string());
        fs::write(&fresh, record.to_bytes())
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(broken)?;
        match Self::mute(&self.dir, &self.node).exists() {
            true => Err(BackendError::new(Kind::Timeout, "the answer is lost").effect_unknown()),
            false => Ok(answer),
        }
    }
}

#[async_trait]
impl LockBackend for Files {
    type Lease = FileLease;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::exclusion_only(Scope::Host);
        capabilities.fencing = Fencing::Stored;
        capabilities.marks = true;
        capabilities.store_clock = true;
        capabilities.ttl = Some(TtlRange {
            min: Duration::from_millis(100),
            max: Duration::from_secs(3600),
            step: Duration::from_millis(1),
        });
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        jobs.iter()
            .map(|job| self.update(&job.key, |record, now| record.enroll(job, now).0))
            .collect()
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<FileLease>, BackendError>> {
        let acquire = |request: &Request| {
            self.update(&request.key, |record, now| {
                let Request { key, nonce, ttl, .. } = request.clone();
                let lease = || FileLease { key, nonce, ttl };
                let mut reply = record.acquire(request, now, true, Some(ttl), lease);
                if let (Ok(Reply::Won(grant)), "fences") = (&mut reply, &*self.plant) {
                    grant.fence = Fence::new(7);
                }
                reply
            })?
        };
        requests.iter().map(acquire).collect()
    }

    async fn renew(
        &self,
        leases: &[&FileLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let renew = |FileLease { key, nonce, ttl }: &FileLease| {
            let renewed = self.update(key, |record, now| record.renew(*nonce, *ttl, now))?;
            Ok(match renewed {
                true => Renewal::Extended(Validity::Until { since: sent, ttl: *ttl }),
                false => Renewal::NotOwner(Lost::TakenOver),
            })
        };
        leases.iter().map(|lease| renew(lease)).collect()
    }

    async fn release(&self, lease: &FileLease, mark: MarkAfter) -> Result<Released, BackendError> {
        self.update(&lease.key, |record, now| record.release(lease.nonce, mark, now))
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.update(key, |record, now| record.revoke(nonce, mark, now))
    }
}
