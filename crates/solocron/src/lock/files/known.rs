//! Whether a file of an enrolled job was deleted or replaced.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::identity::Inode;
use super::open::at;
use crate::lock::Epoch;

/// Coarser than the clock of any local file system.
const GRAIN: Duration = Duration::from_millis(50);

/// The files of enrolled jobs, and how often one of them was lost.
#[derive(Debug, Default)]
pub struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    files: HashMap<PathBuf, Inode>,
    /// The directory when the files were last looked at: device, inode, time of modification.
    seen: Option<(u64, u64, i64, i64)>,
    losses: u128,
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change in here is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job was enrolled in this file.
    pub fn add(&self, path: PathBuf, inode: Inode) {
        let mut state = self.state();
        if state.files.insert(path, inode).is_some_and(|before| before != inode) {
            state.losses += 1;
        }
    }

    /// Looks at the directory; at the files only if something was made, renamed or deleted there.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be looked at.
    pub fn epoch(&self, dir: &Path) -> io::Result<Epoch> {
        let found = std::fs::symlink_metadata(dir)?;
        let now = (found.dev(), found.ino(), found.mtime(), found.mtime_nsec());
        let mut state = self.state();
        let State { files, seen, losses } = &mut *state;
        if *seen != Some(now) {
            let count = files.len();
            files.retain(|path, inode| at(path).is_ok_and(|found| found == Some(*inode)));
            *losses += (count - files.len()) as u128;
            // Another change within the clock tick of this one would leave the same time behind.
            let settled = found
                .modified()
                .is_ok_and(|at| SystemTime::now().duration_since(at).unwrap_or_default() > GRAIN);
            *seen = settled.then_some(now);
        }
        Ok(Epoch(*losses))
    }
}
