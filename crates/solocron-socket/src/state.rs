//! What is remembered of a key: in a file of the state directory, or, without one, in this process.
//!
//! Whoever has the key in hand reads and writes its file; the socket sees to it that this is one process. The file is the flock
//! backend's: two checksummed slots, written in turn, never deleted.

use std::fs::File;
use std::path::{Path, PathBuf};

use solocron::jiff::Timestamp;
use solocron::lock::files::slots::{self, Content, Of};
use solocron::lock::files::{self, Inode, Known, Opened, Rights, Seen, directory, refused};
use solocron::lock::{Epoch, Holder, KeyRecord, LockKey};
use solocron::{BackendError, Invalid};

/// A state directory.
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: PathBuf,
    rights: Rights,
    known: Known,
}

/// A record in hand.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) record: KeyRecord,
    file: Option<Written>,
}

/// The file of a record in hand.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    file: File,
    inode: Inode,
    seq: u64,
}

impl StateDir {
    pub(crate) fn open(dir: &Path) -> Result<Self, Invalid> {
        let (dir, rights) = directory::prepare("state directory", dir, false, false)?;
        Ok(Self { dir, rights, known: Known::default() })
    }

    /// The file of a key.
    pub(crate) fn path(&self, key: &LockKey) -> PathBuf {
        self.dir.join(format!("{}.state", key.slug()))
    }

    /// The record, with the key in hand. A key that was never written has a file only if it is to be made.
    pub(crate) fn load(
        &self,
        key: &LockKey,
        create: bool,
        now: Timestamp,
    ) -> Result<Kept, BackendError> {
        let path = self.path(key);
        let Some(Opened { file, inode }) = files::open(&path, self.rights, create)? else {
            return Ok(Kept::in_memory(KeyRecord::new(key.clone())));
        };
        let (record, seq) = files::load(&path, &file, key, now, false)?;
        Ok(Kept { record, file: Some(Written { path, file, inode, seq }) })
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
        let Some(Written { path, inode, .. }) = &self.file else { return Ok(true) };
        let found = files::at(path).map_err(|error| refused("look at", path, &error))?;
        Ok(found == Some(*inode))
    }
}
