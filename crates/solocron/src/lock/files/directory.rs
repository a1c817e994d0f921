//! Which directories are trusted with records.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::open::Rights;
use crate::error::Invalid;
use nix::unistd::{AccessFlags, access, geteuid};

/// Network and user-space file systems, by the `f_type` of `statfs(2)`: a lock there is emulated, kept to one host, or forgotten
/// with a connection. From `linux/magic.h` and the sources of the file systems that are not in it.
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
const NETWORK: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x1983_0326, "BeeGFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "kAFS"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0x786f_4256, "VirtualBox shared folder"),
    (0xbacb_acbc, "VMware shared folder"),
];

/// The name of a file system that is refused.
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
fn network(f_type: u64) -> Option<&'static str> {
    // The kernel's field is a long: on 32 bits the larger ones come out negative.
    let f_type = f_type & 0xffff_ffff;
    NETWORK.iter().find(|(magic, _)| *magic == f_type).map(|(_, name)| *name)
}

/// Checks `dir`, makes it where it is missing, and answers with its absolute path.
///
/// # Errors
///
/// [`Invalid`], about the argument `what`, where the directory cannot be trusted with locks. Nothing has changed then.
pub fn prepare(
    what: &'static str,
    dir: &Path,
    allow_network: bool,
    shared: bool,
) -> Result<(PathBuf, Rights), Invalid> {
    let invalid = |why: String| Invalid::new(what, dir.display(), why);
    let rights = Rights { uid: geteuid().as_raw(), shared };
    // Absolute, so that a later chdir cannot move it; without a trailing slash, which would follow a link.
    let path: PathBuf = std::path::absolute(dir)
        .map_err(|error| invalid(error.to_string()))?
        .components()
        .collect();
    let found = match std::fs::symlink_metadata(&path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(invalid(format!("{error}: name a directory that this process can reach")));
        }
    };
    match found {
        Some(found) => {
            trusted(&found, rights).map_err(&invalid)?;
            let writable = access(&path, AccessFlags::W_OK | AccessFlags::X_OK);
            local_and_writable(&path, allow_network, writable).map_err(&invalid)?;
        }
        None => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            if !parent.is_dir() {
                let why = format!(
                    "its parent {} is no directory: make it first, or mount what belongs there",
                    parent.display()
                );
                return Err(invalid(why));
            }
            let writable = access(parent, AccessFlags::W_OK | AccessFlags::X_OK);
            local_and_writable(parent, allow_network, writable).map_err(&invalid)?;
            create(&path, rights).map_err(|error| invalid(format!("cannot make it: {error}")))?;
            // Somebody else may have been faster, with other ideas.
            let found =
                std::fs::symlink_metadata(&path).map_err(|error| invalid(error.to_string()))?;
            trusted(&found, rights).map_err(&invalid)?;
        }
    }
    Ok((path, rights))
}

fn create(path: &Path, rights: Rights) -> io::Result<()> {
    let mode = rights.directory_mode();
    match DirBuilder::new().mode(mode).create(path) {
        // Whatever the umask says.
        Ok(()) => std::fs::set_permissions(path, PermissionsExt::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn trusted(found: &Metadata, rights: Rights) -> Result<(), String> {
    let (kind, mode, owner) = (found.file_type(), found.mode(), found.uid());
    if kind.is_symlink() {
        return Err("it is a symbolic link, which whoever owns it can point elsewhere: name the directory itself".into());
    }
    if !kind.is_dir() {
        return Err("it is not a directory: name one".into());
    }
    if mode & 0o002 != 0 {
        return Err(format!(
            "everybody may write to it (mode {:04o}), and so hold or replace every lock: use a directory of your own, or chmod o-w",
            mode & 0o7777
        ));
    }
    if rights.shared {
        return Ok(());
    }
    if mode & 0o020 != 0 {
        return Err(format!(
            "its group may write to it (mode {:04o}): chmod g-w, or allow a shared directory",
            mode & 0o7777
        ));
    }
    if owner != rights.uid && owner != 0 {
        return Err(format!(
            "it belongs to user {owner}, this process runs as user {}: use a directory of your own, or allow a shared directory",
            rights.uid
        ));
    }
    Ok(())
}

/// `writable`: what `access(2)` said of it.
fn local_and_writable(
    path: &Path,
    allow_network: bool,
    writable: nix::Result<()>,
) -> Result<(), String> {
    match writable {
        Ok(()) => {}
        Err(nix::errno::Errno::EROFS) => {
            return Err("its file system is read-only: choose a writable one".into());
        }
        Err(error) => {
            return Err(format!(
                "{} cannot be written ({error}): let this process's user write there, or choose another directory",
                path.display()
            ));
        }
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if !allow_network {
        let found = nix::sys::statfs::statfs(path).map_err(|error| error.to_string())?;
        if let Some(name) = network(found.filesystem_type().0 as u64) {
            return Err(format!(
                "it lies on a network file system ({name}), where a lock can be held twice or be lost unnoticed: choose a local \
                 one, or a backend for many hosts"
            ));
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = allow_network;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        for (magic, name) in [
            (0x6969, "NFS"),
            (0xfe53_4d42, "SMB2"),
            (0xff53_4d42, "CIFS"),
            (0x6573_5546, "FUSE"),
            (0x0102_1997, "9P"),
            (0x00c3_6400, "Ceph"),
            (0x0bd0_0bd0, "Lustre"),
            (0x4750_4653, "GPFS"),
        ] {
            assert_eq!(network(magic), Some(name));
        }
        assert_eq!(network(0xff53_4d42_u32 as i32 as i64 as u64), Some("CIFS"), "sign-extended");
        // ext, xfs, btrfs, f2fs, zfs, tmpfs, overlay, bcachefs
        for local in [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0xf2f5_2010,
            0x2fc1_2fc1,
            0x0102_1994,
            0x794c_7630,
            0xca45_1a4e,
        ] {
            assert_eq!(network(local), None, "{local:#x}");
        }
    }

    #[test]
    fn a_read_only_file_system_is_named() {
        let why = local_and_writable(Path::new("/"), true, Err(nix::errno::Errno::EROFS));
        assert!(why.unwrap_err().contains("read-only"));
    }
}
