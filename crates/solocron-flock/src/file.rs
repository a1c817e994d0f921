//! Lock files: opened, locked, and compared with the path again.
//!
//! ```text
//!   open
//!    │
//!   flock ──EWOULDBLOCK──► busy
//!    │
//!   (dev, ino) of the path still that of the descriptor? ──no──► it was replaced under us: from the start
//!    │ yes
//!   locked                                                            release: write, LOCK_UN, close; the file stays for ever
//! ```
//!
//! Why the file stays: deleting it on release gave two holders in about 1 % of the acquisitions of an experiment, in every order of
//! unlink and unlock but one. Why `LOCK_UN` before `close`: a child between `fork` and `exec` holds a copy of the descriptor, and
//! closing ours alone leaves the lock taken until the child is through (up to 0.5 % of releases).

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use solocron::lock::files::{Opened, at, refused};
use solocron::{BackendError, Kind};

/// What an attempt to lock a file gives.
#[derive(Debug)]
pub(crate) enum Attempt {
    Locked(Opened),
    /// Somebody has it. The descriptor is for reading what it holds.
    Busy(File),
    /// It was replaced between opening and locking: open it again.
    Replaced,
}

/// How often a file may be replaced under us before that is the error.
pub(crate) const TRIES: u32 = 64;

/// What to say when [`TRIES`] are used up.
pub(crate) fn replaced(path: &Path) -> BackendError {
    let why = format!(
        "lock file {} is replaced again and again: find out who deletes or renames it",
        path.display()
    );
    BackendError::new(Kind::Unavailable, why)
}

/// Locks a file, which stood at `path` when it was opened, or says that it is taken. Never waits.
pub(crate) fn lock(opened: Opened, path: &Path) -> Result<Attempt, BackendError> {
    if !try_lock(&opened.file).map_err(|error| refused("lock", path, &error))? {
        return Ok(Attempt::Busy(opened.file));
    }
    let now = at(path).map_err(|error| refused("look at lock file", path, &error))?;
    if now == Some(opened.inode) {
        return Ok(Attempt::Locked(opened));
    }
    unlock(&opened.file);
    Ok(Attempt::Replaced)
}

/// Whether a living process holds the lock of `file`. Takes it for an instant where nobody does, together with others who look.
pub(crate) fn is_locked(file: &File) -> io::Result<bool> {
    loop {
        match file.try_lock_shared() {
            Ok(()) => {
                unlock(file);
                return Ok(false);
            }
            Err(TryLockError::WouldBlock) => return Ok(true),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// `LOCK_UN`. The close that follows would do it as well, but for copies of the descriptor in children that are being started.
pub(crate) fn unlock(file: &File) {
    if let Err(error) = file.unlock() {
        tracing::debug!(%error, "LOCK_UN failed; closing the file frees the lock");
    }
}
