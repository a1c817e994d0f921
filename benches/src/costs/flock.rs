//! Files: the fewest system calls that exclude another process, and what crates make of them.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use fs4::FileExt;
use solocron::lock::Locks;
use solocron_flock::FlockBackend;

use super::claims::{ClaimAndRelease, LockAndRelease};
use super::{Group, Role, Subject};

/// Timed together: one takes a few microseconds.
const CHUNK: u64 = 16;

pub(super) async fn groups() -> Vec<Group> {
    let dir = tempfile::tempdir().expect("a directory");
    let lock_dir = dir.path().join("locks");
    let backend = FlockBackend::open(lock_dir).expect("a lock directory");
    let locks = Locks::new(backend).expect("the defaults fit");
    let subjects = vec![
        Subject::plain("open + flock + unlock + close", Role::Floor, CHUNK, {
            let path = file(dir.path(), "floor");
            move || {
                let file = open(&path);
                file.try_lock().expect("nobody else is here");
                file.unlock().expect("it was locked");
            }
        }),
        Subject::new("try_lock + release", Role::Ours, CHUNK, LockAndRelease::new(&locks, "one"))
            .at_most(4.0),
        Subject::new(
            "claim + release",
            Role::Ours,
            CHUNK,
            ClaimAndRelease::new(&locks, "job", 32).await,
        )
        .at_most(4.0),
        Subject::plain("fd-lock, with open and close", Role::Rival, CHUNK, {
            let path = file(dir.path(), "fd-lock");
            move || {
                let mut lock = fd_lock::RwLock::new(open(&path));
                drop(lock.try_write().expect("nobody else is here"));
            }
        }),
        Subject::plain("fs4, with open and close", Role::Rival, CHUNK, {
            let path = file(dir.path(), "fs4");
            move || {
                let file = open(&path);
                FileExt::try_lock(&file).expect("nobody else is here");
                FileExt::unlock(&file).expect("it was locked");
            }
        }),
    ];
    vec![Group::new("flock", subjects, dir)]
}

fn file(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).expect("a file");
    path
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("the file is there")
}
