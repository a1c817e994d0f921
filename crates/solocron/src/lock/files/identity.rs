//! Which file it is, without asking for its times.
//!
//! A file whose time of modification was asked for gets a finer one at its next write (Linux 6.13 and later), which makes the kernel
//! write its inode as well. stat(2) and fstat(2) ask for all times; statx(2) only for what is wanted, and that halves what a write
//! costs after it: `docs/design/0010-file-and-etcd-costs.md`.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Which file this is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    dev: u64,
    ino: u64,
}

/// What is asked of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) inode: Inode,
    pub(super) uid: u32,
    /// A plain file.
    pub(super) plain: bool,
}

impl From<Metadata> for Identity {
    fn from(found: Metadata) -> Self {
        let inode = Inode { dev: found.dev(), ino: found.ino() };
        Self { inode, uid: found.uid(), plain: found.file_type().is_file() }
    }
}

/// That of an open file.
pub(super) fn of(file: &File) -> io::Result<Identity> {
    #[cfg(target_os = "linux")]
    if let Some(found) = statx::of(file) {
        return found;
    }
    file.metadata().map(Identity::from)
}

/// That of what stands at `path`, which may be a link.
pub(super) fn at(path: &Path) -> io::Result<Identity> {
    #[cfg(target_os = "linux")]
    if let Some(found) = statx::at(path) {
        return found;
    }
    std::fs::symlink_metadata(path).map(Identity::from)
}

#[cfg(target_os = "linux")]
mod statx {
    use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, makedev};
    use rustix::io::Errno;

    use super::*;

    fn wanted() -> StatxFlags {
        StatxFlags::TYPE | StatxFlags::UID | StatxFlags::INO
    }

    /// `None`: this kernel, or whoever filters its calls, does not have it.
    pub(super) fn of(file: &File) -> Option<io::Result<Identity>> {
        known(rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted()))
    }

    pub(super) fn at(path: &Path) -> Option<io::Result<Identity>> {
        known(rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted()))
    }

    fn known(found: Result<Statx, Errno>) -> Option<io::Result<Identity>> {
        let found = match found {
            Ok(found) => found,
            Err(Errno::NOSYS) => return None,
            Err(error) => return Some(Err(error.into())),
        };
        if found.stx_mask & wanted().bits() != wanted().bits() {
            return None;
        }
        let dev = makedev(found.stx_dev_major, found.stx_dev_minor);
        let plain = FileType::from_raw_mode(found.stx_mode.into()).is_file();
        let inode = Inode { dev, ino: found.stx_ino };
        Some(Ok(Identity { inode, uid: found.stx_uid, plain }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_however_it_is_asked() {
        let path = std::env::current_exe().expect("this program");
        let file = File::open(&path).expect("it can be read");
        let asked = file.metadata().map(Identity::from).expect("it is there");
        assert!(asked.plain);
        assert_eq!(of(&file).expect("it is there"), asked);
        assert_eq!(at(&path).expect("it is there"), asked);
        let dir = at(path.parent().expect("a directory")).expect("it is there");
        assert!(!dir.plain && dir.inode != asked.inode);
        let missing = at(Path::new("/no/such/file")).expect_err("it is not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
