//! Lock files: opened with distrust, locked, and compared with the path again.
//!
//! ```text
//!   open ──ENOENT──► create (O_EXCL) ──EEXIST──► open again          never O_TRUNC, never through a link, never waiting
//!    │ plain file, ours
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

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use solocron::{BackendError, Kind};

use crate::error::refused;

/// Which file this is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode {
    dev: u64,
    ino: u64,
}

/// Who may own lock files, and who may open them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rights {
    pub(crate) uid: u32,
    /// Several users share the directory through its group.
    pub(crate) shared: bool,
}

impl Rights {
    fn mode(self) -> u32 {
        if self.shared { 0o660 } else { 0o600 }
    }

    /// The mode of a directory within the lock directory.
    pub(crate) fn directory_mode(self) -> u32 {
        if self.shared { 0o770 } else { 0o700 }
    }
}

/// An open lock file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) inode: Inode,
}

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

impl Opened {
    /// Locks the file, which stood at `path` when it was opened, or says that it is taken. Never waits.
    pub(crate) fn lock(self, path: &Path) -> Result<Attempt, BackendError> {
        if !try_lock(&self.file).map_err(|error| refused("lock", path, &error))? {
            return Ok(Attempt::Busy(self.file));
        }
        let now = at(path).map_err(|error| refused("look at lock file", path, &error))?;
        if now == Some(self.inode) {
            return Ok(Attempt::Locked(self));
        }
        unlock(&self.file);
        Ok(Attempt::Replaced)
    }
}

/// Opens the lock file at `path`. `None`: there is none, and none was to be made.
pub(crate) fn open(
    path: &Path,
    rights: Rights,
    create: bool,
) -> Result<Option<Opened>, BackendError> {
    let file = loop {
        match options(rights).open(path) {
            Ok(file) => break file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused("open lock file", path, &error)),
        }
        // Two steps and not O_CREAT alone: on another user's file in a sticky directory that is refused even to root.
        match options(rights).create_new(true).open(path) {
            Ok(file) => {
                // Whatever the umask says.
                file.set_permissions(Permissions::from_mode(rights.mode()))
                    .map_err(|error| refused("set the mode of lock file", path, &error))?;
                break file;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refused("create lock file", path, &error)),
        }
    };
    let found = file.metadata().map_err(|error| refused("look at lock file", path, &error))?;
    if !found.file_type().is_file() {
        let why = format!("lock file {} is not a plain file: remove it", path.display());
        return Err(BackendError::new(Kind::Misconfigured, why));
    }
    if !rights.shared && found.uid() != rights.uid && found.uid() != 0 {
        let why = format!(
            "lock file {} belongs to user {}, this process runs as user {}: run every process of this lock directory as one \
             user, or give them a shared directory",
            path.display(),
            found.uid(),
            rights.uid
        );
        return Err(BackendError::new(Kind::Denied, why));
    }
    Ok(Some(Opened { file, inode: Inode { dev: found.dev(), ino: found.ino() } }))
}

fn options(rights: Rights) -> OpenOptions {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(rights.mode()).custom_flags(flags.bits());
    options
}

/// Which file stands at `path` now.
pub(crate) fn at(path: &Path) -> io::Result<Option<Inode>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(Inode { dev: found.dev(), ino: found.ino() })),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
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
