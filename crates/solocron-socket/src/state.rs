//! What is remembered of a key: in a file of the state directory, or, without one, in this process.
//!
//! ```text
//!   <state_dir>/<namespace>@<slug of the key>.state      two checksummed slots, written in turn, never deleted
//!
//!   load ──► flock ── in use ──► held through another address: nothing is read or written
//!             └─ mine ──► the record, until it is let go: unlock first, then the address is freed
//! ```
//!
//! The socket sees to it that one process of those that meet on it has the key in hand. What it cannot see is another way to the same
//! file: a port here and an abstract name there, or another network namespace that shares the directory. The `flock(2)` does.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use solocron::jiff::Timestamp;
use solocron::lock::files::slots::{self, Content, Of};
use solocron::lock::files::{self, Inode, Known, Opened, Rights, Seen, directory, refused};
use solocron::lock::{Epoch, Holder, KeyRecord, LockKey};
use solocron::{BackendError, Invalid, Kind};

/// A state directory.
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: PathBuf,
    namespace: String,
    rights: Rights,
    known: Known,
}

/// A record in hand.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) record: KeyRecord,
    file: Option<Written>,
}

/// Which directory this is, whatever its name and whoever asks: what all processes of a namespace must agree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

/// The file of a record in hand, locked until this is dropped.
#[derive(Debug)]
struct Written {
    /// In a forked child the lock is the parent's, and stays.
    pid: u32,
    path: PathBuf,
    file: File,
    inode: Inode,
    seq: u64,
}

impl StateDir {
    pub(crate) fn open(dir: &Path, namespace: String) -> Result<Self, Invalid> {
        let (dir, rights) = directory::prepare("state directory", dir, false, false)?;
        Ok(Self { dir, namespace, rights, known: Known::default() })
    }

    /// Which one it is now.
    pub(crate) fn id(&self) -> Result<DirId, BackendError> {
        let found = std::fs::symlink_metadata(&self.dir)
            .map_err(|error| refused("look at", &self.dir, &error))?;
        Ok(DirId { dev: found.dev(), ino: found.ino() })
    }

    /// The file of a key.
    pub(crate) fn path(&self, key: &LockKey) -> PathBuf {
        // No namespace has an '@'.
        self.dir.join(format!("{}@{}.state", self.namespace, key.slug()))
    }

    /// The record, with the key in hand. A key that was never written has a file only if it is to be made. `None`: somebody else has
    /// its file in hand.
    pub(crate) fn load(
        &self,
        key: &LockKey,
        create: bool,
        now: Timestamp,
    ) -> Result<Option<Kept>, BackendError> {
        /// How often a file may be replaced between opening and locking it.
        const TRIES: u32 = 64;
        let path = self.path(key);
        for _ in 0..TRIES {
            let Some(Opened { file, inode }) = files::open(&path, self.rights, create)? else {
                return Ok(Some(Kept::in_memory(KeyRecord::new(key.clone()))));
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(refused("lock", &path, &error)),
            }
            let pid = std::process::id();
            let mut written = Written { pid, path: path.clone(), file, inode, seq: 0 };
            if !written.in_place()? {
                continue;
            }
            let (record, seq) = files::load(&path, &written.file, key, now, false)?;
            written.seq = seq;
            return Ok(Some(Kept { record, file: Some(written) }));
        }
        let why = format!(
            "record file {} is replaced again and again: find out who deletes or renames it",
            path.display()
        );
        Err(BackendError::new(Kind::Unavailable, why))
    }

    /// What the file says, without the key in hand.
    pub(crate) fn peek(
        &self,
        key: &LockKey,
        now: Timestamp,
    ) -> Result<Option<(Seen, Inode)>, BackendError> {
        let path = self.path(key);
        let Some(opened) = files::open(&path, self.rights, false)? else { return Ok(None) };
        let seen = files::peek(&path, &opened.file, key, now, false)?;
        Ok(seen.map(|seen| (seen, opened.inode)))
    }

    /// A job was enrolled.
    pub(crate) fn enrolled(&self, key: &LockKey) {
        let path = self.path(key);
        if let Ok(Some(inode)) = files::at(&path) {
            self.known.add(path, inode);
        }
    }

    pub(crate) fn epoch(&self) -> Result<Epoch, BackendError> {
        self.known.epoch(&self.dir).map_err(|error| refused("look at", &self.dir, &error))
    }

    /// The holders that are on record, living or not.
    pub(crate) fn holders(&self, now: Timestamp) -> Result<Vec<Holder>, BackendError> {
        let refuse = |error: std::io::Error| refused("read", &self.dir, &error);
        let mut holders = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(refuse)? {
            let path = entry.map_err(refuse)?.path();
            if path.extension().is_none_or(|extension| extension != "state") {
                continue;
            }
            let Ok(Some(opened)) = files::open(&path, self.rights, false) else { continue };
            if let Ok(Ok(Content::Record { record, .. })) = slots::read(&opened.file, Of::Any)
                && self.path(record.key()) == path
            {
                holders.extend(record.holder(now, true));
            }
        }
        Ok(holders)
    }
}

impl Kept {
    /// A record that this process alone remembers.
    pub(crate) fn in_memory(record: KeyRecord) -> Self {
        Self { record, file: None }
    }

    /// Whether it is remembered by this process alone.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.file.is_none()
    }

    /// Writes the record as it stands.
    pub(crate) fn save(&mut self) -> Result<(), BackendError> {
        let Self { record, file: Some(written) } = self else { return Ok(()) };
        let Written { path, file, seq, .. } = written;
        if *seq == 0 {
            slots::allocate(file).map_err(|error| refused("allocate", path, &error))?;
        }
        let stamp = slots::write(file, record, *seq, 0, false)
            .map_err(|error| refused("write", path, &error).effect_unknown())?;
        *seq = stamp.seq;
        Ok(())
    }

    /// Changes the record, and writes it where `change` says so. On an error nothing has changed here.
    pub(crate) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut KeyRecord) -> (T, bool),
    ) -> Result<T, BackendError> {
        let mut record = self.record.clone();
        let (answer, changed) = change(&mut record);
        if changed {
            let before = std::mem::replace(&mut self.record, record);
            if let Err(error) = self.save() {
                self.record = before;
                return Err(error);
            }
        }
        Ok(answer)
    }

    /// Whether the file, if there is one, still stands at its path.
    pub(crate) fn in_place(&self) -> Result<bool, BackendError> {
        self.file.as_ref().map_or(Ok(true), Written::in_place)
    }

    /// Lets go of the file, before the address is freed: whoever takes that next must find it free.
    pub(crate) fn let_go(&mut self) {
        self.file = None;
    }
}

impl Written {
    fn in_place(&self) -> Result<bool, BackendError> {
        let Self { path, inode, .. } = self;
        let found = files::at(path).map_err(|error| refused("look at", path, &error))?;
        Ok(found == Some(*inode))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // Not by closing alone: a forked child may have a copy of the descriptor.
        if self.pid == std::process::id()
            && let Err(error) = self.file.unlock()
        {
            tracing::debug!(%error, "a record file could not be unlocked; closing it does");
        }
    }
}
