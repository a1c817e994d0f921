//! Record files: opened with distrust.
//!
//! ```text
//!   open ──ENOENT──► create (O_EXCL) ──EEXIST──► open again          never O_TRUNC, never through a link, never waiting
//!    │
//!   a plain file, ours
//! ```

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::error::refused;
use super::identity::{self, Identity, Inode};
use crate::error::{BackendError, Kind};

/// Who may own record files, and who may open them.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// This process's user.
    pub uid: u32,
    /// Several users share the directory through its group.
    pub shared: bool,
}

impl Rights {
    /// The mode of a file.
    #[must_use]
    pub fn mode(self) -> u32 {
        if self.shared { 0o660 } else { 0o600 }
    }

    /// The mode of a directory within the lock directory.
    #[must_use]
    pub fn directory_mode(self) -> u32 {
        if self.shared { 0o770 } else { 0o700 }
    }
}

/// An open record file.
#[derive(Debug)]
pub struct Opened {
    /// For reading and writing.
    pub file: File,
    /// Which one it is.
    pub inode: Inode,
}

/// Opens the record file at `path`. `None`: there is none, and none was to be made.
///
/// # Errors
///
/// Where the kernel refuses, or what stands there is not a plain file of this process's user or root.
pub fn open(path: &Path, rights: Rights, create: bool) -> Result<Option<Opened>, BackendError> {
    let file = loop {
        match options(rights).open(path) {
            Ok(file) => break file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused("open", path, &error)),
        }
        // Two steps and not O_CREAT alone: on another user's file in a sticky directory that is refused even to root.
        match options(rights).create_new(true).open(path) {
            Ok(file) => {
                // Whatever the umask says.
                file.set_permissions(Permissions::from_mode(rights.mode()))
                    .map_err(|error| refused("set the mode of", path, &error))?;
                break file;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refused("create", path, &error)),
        }
    };
    let Identity { inode, uid, plain } =
        identity::of(&file).map_err(|error| refused("look at", path, &error))?;
    if !plain {
        let why = format!("{} is not a plain file: remove it", path.display());
        return Err(BackendError::new(Kind::Misconfigured, why));
    }
    if !rights.shared && uid != rights.uid && uid != 0 {
        let why = format!(
            "{} belongs to user {uid}, this process runs as user {}: run every process of this directory as one \
             user, or give them a shared directory",
            path.display(),
            rights.uid
        );
        return Err(BackendError::new(Kind::Denied, why));
    }
    Ok(Some(Opened { file, inode }))
}

fn options(rights: Rights) -> OpenOptions {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(rights.mode()).custom_flags(flags.bits());
    options
}

/// Which file stands at `path` now.
///
/// # Errors
///
/// Where the kernel refuses to look.
pub fn at(path: &Path) -> io::Result<Option<Inode>> {
    match identity::at(path) {
        Ok(found) => Ok(Some(found.inode)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
