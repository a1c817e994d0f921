//! In this process's memory.

use std::hint::black_box;
use std::sync::Mutex;

use solocron::lock::{Locks, MemoryBackend};

use super::claims::{ClaimAndRelease, LockAndRelease};
use super::{Group, Role, Subject};

pub(super) async fn groups() -> Vec<Group> {
    let locks = Locks::new(MemoryBackend::new()).expect("the defaults fit");
    let mutex = Mutex::new(0_u64);
    let count = move || *black_box(&mutex).lock().expect("no poison") += 1;
    let claims = ClaimAndRelease::new(&locks, "job", 128).await;
    let subjects = vec![
        Subject::plain("a mutex", Role::Floor, 1_000, count),
        Subject::new("try_lock + release", Role::Ours, 64, LockAndRelease::new(&locks, "one")),
        Subject::new("claim + release", Role::Ours, 64, claims),
    ];
    vec![Group::new("memory", subjects, ())]
}
