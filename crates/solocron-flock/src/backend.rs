//! The driver: a [`KeyRecord`] in each lock file, read and written under the file's lock, decides everything.
//!
//! ```text
//!   acquire   own lease of the same nonce? ──► the same lease
//!             claim: a glance at the record; settled? ──► Stale, without the lock
//!             lock ── busy ──► judge what can be read: Stale or Busy
//!              │ won: a holder on record is dead, or is this nonce's own lost reply
//!             what the glance saw still stands? else read it again
//!             judge ──► Grant ──► enter in `held` ──► write the record with our bell ──► Won
//!                └────► anything else ──► LOCK_UN, close
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use solocron::jiff::Timestamp;
use solocron::lock::files::slots::{self, Content, Glance, Of};
use solocron::lock::files::{self, Known, Opened, Rights, Seen, refused};
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Fencing, Holder, KeyRecord, LockBackend, LockKey,
    Lost, Mark, MarkAfter, Nonce, Note, Released, Renewal, Reply, Request, Scope, Validity,
    Verdict, Watch,
};
use solocron::{BackendError, Clock as _, Kind, LeaseInstant, SystemClock};

use crate::config::{Durability, FlockBuilder};
use crate::file::{self, Attempt};
use crate::home::Home;
use crate::lease::{FlockLease, Lease, Won, not_ours};
use crate::watch::{BellWatch, Pause, Wanted};

/// Locks in the files of one directory. Clones share them, and so do all processes of this host that open the same directory.
#[derive(Debug, Clone)]
pub struct FlockBackend(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    rights: Rights,
    durability: Durability,
    home: Arc<Home>,
    known: Known,
}

/// What comes of a change that needs the lock.
enum Change<T> {
    Made(T),
    /// Somebody else holds the lock; what can be read without it.
    Busy(Option<Box<Seen>>),
}

impl FlockBackend {
    /// The locks in `dir`, which is made with mode 0700 if it is not there; its parent must be.
    ///
    /// # Errors
    ///
    /// [`solocron::Error::Invalid`] where the directory cannot be trusted with locks: see [`FlockBuilder::build`].
    pub fn open(dir: impl Into<PathBuf>) -> solocron::Result<Self> {
        Self::builder().dir(dir).build()
    }

    /// The same, with options.
    #[must_use]
    pub fn builder() -> FlockBuilder {
        FlockBuilder::default()
    }

    pub(crate) fn new(dir: PathBuf, rights: Rights, durability: Durability) -> Self {
        let home = Home::of(&dir, rights);
        Self(Arc::new(Shared { dir, rights, durability, home, known: Known::default() }))
    }

    /// The lock directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The file of a lock.
    #[must_use]
    pub fn path(&self, key: &LockKey) -> PathBuf {
        let mut name = key.slug();
        name.push_str(".lock");
        self.0.dir.join(name)
    }

    /// This process's home: another one in a forked child.
    fn home(&self) -> Arc<Home> {
        if self.0.home.is_mine() {
            Arc::clone(&self.0.home)
        } else {
            Home::of(&self.0.dir, self.0.rights)
        }
    }

    fn synced(&self) -> bool {
        self.0.durability == Durability::Sync
    }

    fn acquire(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Reply<FlockLease>, BackendError> {
        let home = self.home();
        if home.refuses(request.nonce, now) {
            return Verdict::Refused.denied(now);
        }
        if let Some(lease) = home.lease(request.key.hash128())
            && lease.nonce == request.nonce
            && let Some(mut record) = lease.look(KeyRecord::clone)
        {
            return record.acquire(request, now, true, None, || FlockLease(lease));
        }
        home.bell(); // before the lock file: a dying process closes what it opened last first
        let path = self.path(&request.key);
        for _ in 0..file::TRIES {
            let Some(opened) = files::open(&path, self.0.rights, request.claim.is_none())? else {
                // Only a claim finds no file, and a fresh record grants none.
                return KeyRecord::new(request.key.clone()).judge(request, now, false).denied(now);
            };
            let glance = match request.claim {
                Some(_) => files::glance(&path, &opened.file, &request.key, now, self.synced())?,
                None => None,
            };
            if let Some(settled) = settled(glance.as_ref(), request, now) {
                return Ok(settled);
            }
            match file::lock(opened, &path)? {
                Attempt::Locked(opened) => {
                    return self.decide(&home, path, opened, glance, request, now);
                }
                Attempt::Busy(file) => return self.busy(&path, &file, request, now),
                Attempt::Replaced => {}
            }
        }
        Err(file::replaced(&path))
    }

    /// With the lock in hand.
    fn decide(
        &self,
        home: &Arc<Home>,
        path: PathBuf,
        opened: Opened,
        glance: Option<Glance>,
        request: &Request,
        now: Timestamp,
    ) -> Result<Reply<FlockLease>, BackendError> {
        let standing = glance.filter(|glance| glance.stands(&opened.file).unwrap_or(false));
        let loaded = match standing {
            Some(Glance { record, stamp, .. }) => Ok((record, stamp.seq)),
            None => files::load(&path, &opened.file, &request.key, now, self.synced()),
        };
        let (mut record, seq) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                file::unlock(&opened.file);
                return Err(error);
            }
        };
        // Whoever is on record as a holder let go of the file: it is dead, or its reply was lost and this is the same nonce again.
        let reply = record.acquire(request, now, false, None, || ());
        if !matches!(reply, Ok(Reply::Won(_))) {
            file::unlock(&opened.file);
            return reply.map(|reply| reply.map(|()| unreachable!("it is not won")));
        }
        if seq == 0
            && let Err(error) = slots::allocate(&opened.file)
        {
            file::unlock(&opened.file);
            return Err(refused("allocate lock file", &path, &error));
        }
        let won = Won { opened, record: record.clone(), seq };
        let lease = Lease::new(home, path, request.nonce, self.synced(), won);
        lease.save()?;
        reply.map(|reply| reply.map(|()| FlockLease(lease)))
    }

    /// Somebody else has the lock. What it writes meanwhile may be read half, or before it is written.
    fn busy(
        &self,
        path: &Path,
        file: &File,
        request: &Request,
        now: Timestamp,
    ) -> Result<Reply<FlockLease>, BackendError> {
        let Some(Seen { record, damaged: false }) =
            files::peek(path, file, &request.key, now, self.synced())?
        else {
            return Ok(Reply::Busy { holder: None });
        };
        match record.judge(request, now, true) {
            // The record of a moment ago: whoever has the lock has not written yet.
            Verdict::Behind { .. } => Ok(Reply::Busy { holder: None }),
            verdict => verdict.denied(now),
        }
    }

    /// Changes a record: through this process's own living lease, or with the lock. The file to be synced, if any, comes along.
    fn change<T>(
        &self,
        key: &LockKey,
        now: Timestamp,
        change: impl Fn(&mut KeyRecord) -> Result<(T, bool), BackendError>,
    ) -> Result<Change<(T, Option<File>)>, BackendError> {
        if let Some(lease) = self.home().lease(key.hash128())
            && lease.verify()? == Renewal::Extended(Validity::ProcessBound)
        {
            let through = lease.edit(|record| match change(record) {
                Ok((answer, changed)) => (Ok(answer), changed),
                Err(error) => (Err(error), false),
            });
            if let Some(answer) = through {
                return Ok(Change::Made((answer??, None)));
            }
        }
        let path = self.path(key);
        for _ in 0..file::TRIES {
            let opened = files::open(&path, self.0.rights, true)?.expect("it is made where absent");
            match file::lock(opened, &path)? {
                Attempt::Replaced => {}
                Attempt::Busy(file) => {
                    return Ok(Change::Busy(
                        files::peek(&path, &file, key, now, self.synced())?.map(Box::new),
                    ));
                }
                Attempt::Locked(opened) => {
                    let answer = self.change_locked(&path, &opened, key, now, &change);
                    file::unlock(&opened.file);
                    let (answer, changed) = answer?;
                    let unsynced = (changed && self.synced()).then_some(opened.file);
                    return Ok(Change::Made((answer, unsynced)));
                }
            }
        }
        Err(file::replaced(&path))
    }

    fn change_locked<T>(
        &self,
        path: &Path,
        opened: &Opened,
        key: &LockKey,
        now: Timestamp,
        change: impl Fn(&mut KeyRecord) -> Result<(T, bool), BackendError>,
    ) -> Result<(T, bool), BackendError> {
        let (mut record, seq) = files::load(path, &opened.file, key, now, self.synced())?;
        let (answer, changed) = change(&mut record)?;
        if changed {
            if seq == 0 {
                slots::allocate(&opened.file)
                    .map_err(|error| refused("allocate lock file", path, &error))?;
            }
            slots::write(&opened.file, &record, seq, 0, self.synced())
                .map_err(|error| refused("write lock file", path, &error).effect_unknown())?;
        }
        Ok((answer, changed))
    }

    /// [`change`](Self::change), tried for a moment where somebody has the lock whom the record does not name: it is about to write,
    /// or only looks.
    async fn change_soon<T>(
        &self,
        key: &LockKey,
        now: Timestamp,
        change: impl Fn(&mut KeyRecord) -> Result<(T, bool), BackendError>,
    ) -> Result<Change<(T, Option<File>)>, BackendError> {
        let mut pause = Pause::default();
        for _ in 0..5 {
            match self.change(key, now, &change)? {
                Change::Busy(seen)
                    if seen.as_ref().is_none_or(|seen| seen.record.holder(now, true).is_none()) =>
                {
                    tokio::time::sleep(pause.next()).await;
                }
                answer => return Ok(answer),
            }
        }
        self.change(key, now, &change)
    }

    /// The mark that stands now, read without the lock.
    fn mark_on_record(&self, key: &LockKey, now: Timestamp) -> Result<Option<Mark>, BackendError> {
        let path = self.path(key);
        let Some(opened) = files::open(&path, self.0.rights, false)? else { return Ok(None) };
        let seen = files::peek(&path, &opened.file, key, now, self.synced())?;
        Ok(seen.and_then(|seen| seen.record.last().map(|last| last.mark)))
    }

    async fn enroll_one(
        &self,
        job: &Enrolment,
        now: Timestamp,
    ) -> Result<(Enrolled, Option<File>), BackendError> {
        let path = self.path(&job.key);
        // Nothing to write, in the normal case: no lock.
        if let Some(opened) = files::open(&path, self.0.rights, false)?
            && let Some(Seen { mut record, damaged: false }) =
                files::peek(&path, &opened.file, &job.key, now, self.synced())?
            && record.schedule().is_some_and(|schedule| schedule.fingerprint == job.fingerprint)
        {
            self.0.known.add(path, opened.inode);
            return Ok((record.enroll(job, now).0, None));
        }
        let enroll = |record: &mut KeyRecord| Ok(record.enroll(job, now));
        let (enrolled, unsynced) = match self.change_soon(&job.key, now, enroll).await? {
            Change::Made(made) => made,
            Change::Busy(seen) => (enrolled_by_others(&job.key, seen, now)?, None),
        };
        if let Ok(Some(inode)) = files::at(&path) {
            self.0.known.add(path, inode);
        }
        Ok((enrolled, unsynced))
    }

    /// Waits for the disk, away from the caller's runtime.
    async fn sync<T: Send + 'static>(
        &self,
        what: Vec<T>,
        sync: impl Fn(&T) -> Result<(), BackendError> + Send + 'static,
    ) -> Vec<Result<(), BackendError>> {
        if what.is_empty() {
            return Vec::new();
        }
        let count = what.len();
        let work = move || what.iter().map(sync).collect();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime.spawn_blocking(work).await.unwrap_or_else(|_| {
                let why = "the runtime was shut down while waiting for the disk";
                vec![Err(BackendError::new(Kind::Unavailable, why).effect_unknown()); count]
            }),
            Err(_) => work(),
        }
    }

    fn holder(&self, path: &Path, prefix: &str, now: Timestamp) -> Option<Holder> {
        let opened = files::open(path, self.0.rights, false).ok()??;
        let Ok(Ok(Content::Record { record, .. })) = slots::read(&opened.file, Of::Any) else {
            return None;
        };
        let key = record.key();
        if !key.as_str().starts_with(prefix) || self.path(key) != path {
            return None;
        }
        let holder = record.holder(now, true)?;
        let own = self.home().lease(key.hash128());
        let living = own.is_some_and(|lease| Some(lease.nonce) == holder.nonce)
            || file::is_locked(&opened.file).unwrap_or(true);
        living.then_some(holder)
    }
}

/// A claim that came too late is told so without the lock: losers are many, and none of them may be stopped with it in hand.
fn settled(
    glance: Option<&Glance>,
    request: &Request,
    now: Timestamp,
) -> Option<Reply<FlockLease>> {
    let record = &glance?.record;
    if record.holder(now, true).is_some() {
        return None;
    }
    let verdict = record.judge(request, now, false);
    if matches!(verdict, Verdict::Stale { done: true, .. }) {
        return verdict.denied(now).ok();
    }
    None
}

/// A job that cannot be written now because another process runs it, or holds its key for something else.
fn enrolled_by_others(
    key: &LockKey,
    seen: Option<Box<Seen>>,
    now: Timestamp,
) -> Result<Enrolled, BackendError> {
    let Some(seen) = seen else { return Err(in_use(key, None)) };
    let record = &seen.record;
    let (Some(last), Some(schedule)) = (record.last(), record.schedule()) else {
        return Err(in_use(key, record.holder(now, true)));
    };
    let mut enrolled = Enrolled::new(last.clone(), schedule, false, record.note().clone());
    enrolled.store_now = Some(now);
    Ok(enrolled)
}

fn in_use(key: &LockKey, holder: Option<Holder>) -> BackendError {
    let by = holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
    let why = format!("the file of {key} is locked by {by}: try again when it is free");
    BackendError::new(Kind::Unavailable, why)
}

#[async_trait]
impl LockBackend for FlockBackend {
    type Lease = FlockLease;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::exclusion_only(Scope::Host);
        capabilities.fencing = Fencing::Stored;
        capabilities.marks = true;
        capabilities.wakes = true;
        capabilities.store_clock = true;
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let now = Timestamp::now();
        let mut answers = Vec::with_capacity(jobs.len());
        let (mut at, mut unsynced) = (Vec::new(), Vec::new());
        for job in jobs {
            answers.push(self.enroll_one(job, now).await.map(|(enrolled, file)| {
                if let Some(file) = file {
                    at.push(answers.len());
                    unsynced.push((self.path(&job.key), file));
                }
                enrolled
            }));
        }
        let synced = self.sync(unsynced, |(path, file)| {
            file.sync_data().map_err(|error| refused("sync lock file", path, &error))
        });
        for (at, synced) in at.into_iter().zip(synced.await) {
            if let Err(error) = synced {
                answers[at] = Err(error);
            }
        }
        answers
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<FlockLease>, BackendError>> {
        let now = Timestamp::now();
        let mut replies: Vec<_> =
            requests.iter().map(|request| self.acquire(request, now)).collect();
        if self.synced() {
            let (mut at, mut leases) = (Vec::new(), Vec::new());
            for (index, (request, reply)) in requests.iter().zip(&replies).enumerate() {
                if let (Ok(Reply::Won(grant)), Some(_)) = (reply, request.claim) {
                    at.push(index);
                    leases.push(grant.lease.clone());
                }
            }
            let synced = self.sync(leases, |lease| lease.0.sync()).await;
            for (at, synced) in at.into_iter().zip(synced) {
                if let Err(error) = synced {
                    replies[at] = Err(error);
                }
            }
        }
        replies
    }

    async fn renew(
        &self,
        leases: &[&FlockLease],
        _sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        leases.iter().map(|lease| lease.0.verify()).collect()
    }

    async fn release(&self, lease: &FlockLease, mark: MarkAfter) -> Result<Released, BackendError> {
        let FlockLease(lease) = lease;
        let now = Timestamp::now();
        match lease.finish(Lost::TakenOver, |record| record.release(lease.nonce, mark, now))? {
            Some(released) => Ok(released),
            None => Ok(Released::NotOwner { mark: self.mark_on_record(&lease.key, now)? }),
        }
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let now = Timestamp::now();
        let home = self.home();
        if let Some(lease) = home.lease(key.hash128()).filter(|lease| lease.nonce == nonce) {
            let end = |record: &mut KeyRecord| record.revoke(nonce, mark, now);
            if let Some(released) = lease.finish(Lost::ForceReleased, end)? {
                home.refuse(nonce, now);
                return Ok(released);
            }
        }
        let revoke = |record: &mut KeyRecord| Ok((record.revoke(nonce, mark, now), true));
        let seen = match self.change_soon(key, now, revoke).await? {
            Change::Made((released, _)) => return Ok(released),
            Change::Busy(seen) => seen,
        };
        let Some(seen) = seen else { return Err(in_use(key, None)) };
        let mut record = seen.record;
        if let Some(holder) = record.holder(now, true).filter(|holder| holder.nonce == Some(nonce))
        {
            return Err(not_ours(key, &holder.node));
        }
        let before = record.last().cloned();
        let released = record.revoke(nonce, mark, now);
        if record.last() != before.as_ref() {
            return Err(in_use(key, record.holder(now, true))); // its tick is to be given back, when the file is free
        }
        home.refuse(nonce, now);
        Ok(released)
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        let wanted = Wanted {
            key: key.clone(),
            path: self.path(key),
            dir: self.0.dir.clone(),
            rights: self.0.rights,
            since: SystemClock.lease_now().since_origin().as_nanos() as u64,
        };
        let watch = BellWatch::begin(wanted)
            .map_err(|error| refused("start a thread to wait for", &self.path(key), &error))?;
        Ok(Some(Box::new(watch)))
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        let dir = &self.0.dir;
        self.0.known.epoch(dir).map_err(|error| refused("look at lock directory", dir, &error))
    }

    /// A holder lives if its file is locked. That is found out with a shared lock, for the microsecond it takes, and only of files
    /// whose record names a holder that is not in this process: where it lives the attempt disturbs nobody, and where it died it can
    /// make another attempt of that same moment find the file busy, which is then tried again. (`/proc/locks` would disturb nobody,
    /// but does not show the locks of other PID namespaces.)
    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        let now = Timestamp::now();
        let refuse = |error: std::io::Error| refused("read lock directory", &self.0.dir, &error);
        let mut holders = Vec::new();
        for entry in std::fs::read_dir(&self.0.dir).map_err(refuse)? {
            let path = entry.map_err(refuse)?.path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                holders.extend(self.holder(&path, prefix, now));
            }
        }
        Ok(Some(holders))
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        let now = Timestamp::now();
        let set = |record: &mut KeyRecord| record.set_note(expected, body);
        match self.change_soon(key, now, set).await? {
            Change::Made((note, _)) => Ok(note),
            Change::Busy(seen) => {
                Err(in_use(key, seen.and_then(|seen| seen.record.holder(now, true))))
            }
        }
    }
}

#[cfg(test)]
mod tests;
