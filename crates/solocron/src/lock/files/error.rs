//! What the kernel says of a file, as what a person can do about it.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::slots::Unreadable;
use crate::error::{BackendError, Kind};
use crate::lock::RecordError;

/// The kernel refused what we were `doing` with `path`. Nothing has changed.
#[must_use]
pub fn refused(doing: &str, path: &Path, source: &io::Error) -> BackendError {
    let (kind, advice) = advice(source);
    BackendError::new(kind, format!("failed to {doing} {}: {source}: {advice}", path.display()))
}

/// What stands in the file at `path` is not what we write.
#[must_use]
pub fn unreadable(path: &Path, why: &Unreadable) -> BackendError {
    let path = path.display();
    let (kind, why) = match why {
        Unreadable::Corrupt => (Kind::Corrupt, "it is corrupt in both of its slots".to_owned()),
        Unreadable::Version(found) => {
            let why = format!(
                "it has format {found}, which this release does not know: use one release on the whole host"
            );
            return BackendError::new(Kind::Misconfigured, format!("record file {path}: {why}"));
        }
        Unreadable::Record(error @ RecordError::Version(_)) => {
            return BackendError::new(Kind::Misconfigured, format!("record file {path}: {error}"));
        }
        Unreadable::Record(error) => (Kind::Corrupt, error.to_string()),
    };
    let why = format!(
        "record file {path}: {why}: see that no process uses this directory, keep a copy of the file, and remove it"
    );
    BackendError::new(kind, why)
}

fn advice(source: &io::Error) -> (Kind, &'static str) {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => (
            Kind::Denied,
            "run every process of this directory as one user, or give them a shared directory",
        ),
        Some(Errno::EROFS) => {
            (Kind::Misconfigured, "the file system is read-only: choose a writable directory")
        }
        Some(Errno::ELOOP) => {
            (Kind::Misconfigured, "it is a symbolic link: remove it, a lock file is a plain file")
        }
        Some(Errno::EISDIR | Errno::ENXIO | Errno::ENODEV) => {
            (Kind::Misconfigured, "it is not a plain file: remove it")
        }
        Some(Errno::ENOENT | Errno::ENOTDIR) => (
            Kind::Misconfigured,
            "the directory is gone: create it again, and find out who removes it",
        ),
        Some(Errno::ENAMETOOLONG) => {
            (Kind::Misconfigured, "choose a directory with a shorter path")
        }
        Some(Errno::ENOSYS | Errno::EOPNOTSUPP) => (
            Kind::Misconfigured,
            "this file system has no flock(2): choose a directory on a local one",
        ),
        Some(Errno::ENOSPC | Errno::EDQUOT) => {
            (Kind::Unavailable, "free some space or inodes there")
        }
        Some(Errno::EMFILE | Errno::ENFILE) => {
            (Kind::Unavailable, "too many open files: raise the limit (ulimit -n)")
        }
        Some(Errno::ENOLCK) => (
            Kind::Unavailable,
            "the kernel has no lock to give: on NFS, see that its lock service runs",
        ),
        _ => (Kind::Unavailable, "see the kernel's log for this disk"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_the_path_and_what_to_do() {
        for (errno, kind, word) in [
            (Errno::EACCES, Kind::Denied, "as one user"),
            (Errno::EPERM, Kind::Denied, "as one user"),
            (Errno::EROFS, Kind::Misconfigured, "read-only"),
            (Errno::ELOOP, Kind::Misconfigured, "symbolic link"),
            (Errno::EISDIR, Kind::Misconfigured, "plain file"),
            (Errno::ENXIO, Kind::Misconfigured, "plain file"),
            (Errno::ENOENT, Kind::Misconfigured, "is gone"),
            (Errno::ENOTDIR, Kind::Misconfigured, "is gone"),
            (Errno::ENAMETOOLONG, Kind::Misconfigured, "shorter"),
            (Errno::ENOSYS, Kind::Misconfigured, "flock(2)"),
            (Errno::EOPNOTSUPP, Kind::Misconfigured, "flock(2)"),
            (Errno::ENOSPC, Kind::Unavailable, "space"),
            (Errno::EDQUOT, Kind::Unavailable, "space"),
            (Errno::EMFILE, Kind::Unavailable, "limit"),
            (Errno::ENFILE, Kind::Unavailable, "limit"),
            (Errno::ENOLCK, Kind::Unavailable, "lock service"),
            (Errno::EIO, Kind::Unavailable, "disk"),
        ] {
            let source = io::Error::from_raw_os_error(errno as i32);
            let error = refused("open lock file", Path::new("/run/app/nightly.lock"), &source);
            assert_eq!(error.kind(), kind, "{errno}");
            let text = error.to_string();
            assert!(text.contains(word) && text.contains("/run/app/nightly.lock"), "{text}");
        }
    }
}
