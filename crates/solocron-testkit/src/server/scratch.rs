//! Directories for the data of servers.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// An etcd member preallocates 64 MiB of log at once, and another 64 MiB when that is used up.
const ROOM: u64 = 512 * 1024 * 1024;

/// A directory that goes with this value. In memory where there is room: an etcd waits for its disk at every write, and what a
/// test wants to know is not how fast that is.
///
/// # Panics
///
/// If no directory can be made.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let room = statvfs(memory).map_or(0, |of| of.blocks_available() * of.fragment_size());
    let mut new = tempfile::Builder::new();
    new.prefix("solocron-");
    let made = if room >= ROOM { new.tempdir_in(memory).ok() } else { None };
    made.unwrap_or_else(|| new.tempdir().expect("a temporary directory can be made"))
}
