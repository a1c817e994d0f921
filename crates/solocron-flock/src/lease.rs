//! What the winner of a key owns: the locked descriptor, and the record that nobody else can change meanwhile.
//!
//! ```text
//!   held ── release, revoke: write the record, LOCK_UN, close, ring ──► over
//!    └───── drop: LOCK_UN, close, ring; the record goes on naming a holder that nobody has to ask about
//! ```

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use solocron::lock::files::{Inode, Opened, at, refused, slots};
use solocron::lock::{KeyRecord, LockKey, Lost, Nonce, Released, Renewal, Validity};
use solocron::{BackendError, Kind};

use crate::file;
use crate::home::Home;

/// A lease of the [`FlockBackend`](crate::FlockBackend). Dropping it frees the lock.
#[derive(Debug, Clone)]
pub struct FlockLease(pub(crate) Arc<Lease>);

/// One acquisition.
pub(crate) struct Lease {
    pub(crate) key: LockKey,
    pub(crate) nonce: Nonce,
    path: PathBuf,
    inode: Inode,
    home: Arc<Home>,
    hash: u128,
    entry: u64,
    synced: bool,
    state: Mutex<State>,
}

#[expect(clippy::large_enum_variant, reason = "one per lease, and a lease is mostly held")]
enum State {
    Held(Held),
    Over { answer: Released, why: Lost },
}

struct Held {
    file: File,
    record: KeyRecord,
    seq: u64,
}

/// A file whose lock was just won, and what it holds.
pub(crate) struct Won {
    pub(crate) opened: Opened,
    pub(crate) record: KeyRecord,
    pub(crate) seq: u64,
}

impl Lease {
    /// The lease of a lock that was just won. What the record says is not written yet: [`save`](Self::save).
    pub(crate) fn new(
        home: &Arc<Home>,
        path: PathBuf,
        nonce: Nonce,
        synced: bool,
        won: Won,
    ) -> Arc<Self> {
        let Won { opened: Opened { file, inode }, record, seq } = won;
        let key = record.key().clone();
        let hash = key.hash128();
        Arc::new_cyclic(|this| Self {
            key,
            nonce,
            path,
            inode,
            home: Arc::clone(home),
            hash,
            entry: home.enter(hash, Weak::clone(this)),
            synced,
            state: Mutex::new(State::Held(Held { file, record, seq })),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change in here is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the record as it stands.
    pub(crate) fn save(&self) -> Result<(), BackendError> {
        self.edit(|_| ((), true)).unwrap_or(Ok(()))
    }

    /// Waits until what was written is on the disk.
    pub(crate) fn sync(&self) -> Result<(), BackendError> {
        let copy = match &*self.state() {
            State::Held(held) => held.file.try_clone(),
            State::Over { .. } => return Ok(()),
        };
        copy.and_then(|file| file.sync_data())
            .map_err(|error| refused("sync lock file", &self.path, &error).effect_unknown())
    }

    /// Looks at the record. `None`: the lease is over.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&KeyRecord) -> T) -> Option<T> {
        match &*self.state() {
            State::Held(held) => Some(look(&held.record)),
            State::Over { .. } => None,
        }
    }

    /// Changes the record, and writes it where `change` says so. `None`: the lease is over.
    pub(crate) fn edit<T>(
        &self,
        change: impl FnOnce(&mut KeyRecord) -> (T, bool),
    ) -> Option<Result<T, BackendError>> {
        let mut state = self.state();
        let State::Held(held) = &mut *state else { return None };
        Some(self.change(held, true, change))
    }

    /// Ends the lease: `end` says what becomes of the record. A second call answers as the first; but whoever releases what an
    /// operator freed was no owner any more, and `None` says that.
    pub(crate) fn finish(
        &self,
        why: Lost,
        end: impl FnOnce(&mut KeyRecord) -> Released,
    ) -> Result<Option<Released>, BackendError> {
        if !self.home.is_mine() {
            return Ok(Some(Released::NotOwner { mark: None }));
        }
        let mut state = self.state();
        let held = match &mut *state {
            State::Held(held) => held,
            State::Over { why: Lost::ForceReleased, .. } => return Ok(None),
            State::Over { answer, .. } => return Ok(Some(*answer)),
        };
        let mut answer = self.change(held, false, |record| (end(record), true))?;
        if !self.in_place().unwrap_or(false) {
            // Settled in a file that nobody reads any more.
            answer = Released::NotOwner { mark: held.record.last().map(|last| last.mark) };
        }
        file::unlock(&held.file);
        *state = State::Over { answer, why }; // closes the file
        drop(state);
        self.home.leave(self.hash, self.entry);
        Ok(Some(answer))
    }

    /// On an error nothing has changed here; what the file holds is settled by the next write, which goes to the same slot.
    fn change<T>(
        &self,
        held: &mut Held,
        holding: bool,
        change: impl FnOnce(&mut KeyRecord) -> (T, bool),
    ) -> Result<T, BackendError> {
        let mut record = held.record.clone();
        let (answer, changed) = change(&mut record);
        if changed {
            let bell = if holding { self.home.bell() } else { 0 };
            let stamp = slots::write(&held.file, &record, held.seq, bell, self.synced)
                .map_err(|error| refused("write lock file", &self.path, &error).effect_unknown())?;
            held.seq = stamp.seq;
            held.record = record;
        }
        Ok(answer)
    }

    /// Whether the locked file still stands at its path.
    fn in_place(&self) -> io::Result<bool> {
        Ok(at(&self.path)? == Some(self.inode))
    }

    /// The locked descriptor, as a child that is being forked has it.
    #[cfg(test)]
    pub(crate) fn copy(&self) -> Option<File> {
        match &*self.state() {
            State::Held(held) => held.file.try_clone().ok(),
            State::Over { .. } => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        match &*self.state() {
            State::Held(held) => Some(held.file.as_raw_fd()),
            State::Over { .. } => None,
        }
    }

    /// Whether the lease still holds.
    pub(crate) fn verify(&self) -> Result<Renewal, BackendError> {
        if !self.home.is_mine() {
            return Ok(Renewal::NotOwner(Lost::Forked));
        }
        if let State::Over { why, .. } = &*self.state() {
            return Ok(Renewal::NotOwner(*why));
        }
        let in_place =
            self.in_place().map_err(|error| refused("look at lock file", &self.path, &error))?;
        Ok(if in_place {
            Renewal::Extended(Validity::ProcessBound)
        } else {
            Renewal::NotOwner(Lost::FileReplaced)
        })
    }

    /// Moves the locked descriptor above that of a waiter's connection.
    ///
    /// A dying process closes its highest descriptors first (seen on Linux 6.x). The waiter is told by the end of its connection, and
    /// shall find the lock free then.
    pub(crate) fn raise_above(&self, waiter: RawFd) {
        /// A process with more holes than this among its descriptors is left as it is: its waiters try twice.
        const MOST: usize = 256;
        let mut state = self.state();
        let State::Held(held) = &mut *state else { return };
        // A copy gets the lowest free number; the ones that come out too low fill the gaps until it is found.
        let mut gaps = Vec::new();
        while held.file.as_raw_fd() < waiter && gaps.len() < MOST {
            match held.file.try_clone() {
                Ok(copy) if copy.as_raw_fd() > waiter => held.file = copy,
                Ok(copy) => gaps.push(copy),
                Err(_) => return,
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // In a forked child the file is closed and nothing else is done: LOCK_UN would free the lock of the parent.
        if !self.home.is_mine() {
            return;
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Held(held) = state {
            file::unlock(&held.file);
            *state =
                State::Over { answer: Released::NotOwner { mark: None }, why: Lost::TakenOver };
            self.home.leave(self.hash, self.entry);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.key)
            .field("nonce", &self.nonce)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A lock that another process holds cannot be freed from here.
pub(crate) fn not_ours(key: &LockKey, node: &solocron::lock::NodeId) -> BackendError {
    let why = format!(
        "lock {key} is held by the process {node}, and only the kernel can free it: end that process"
    );
    BackendError::new(Kind::Unsupported, why)
}
