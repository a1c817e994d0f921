//! The two keys of a lock as they were last seen, and a memory of them.
//!
//! A transaction is judged from what was seen last and compares that it is still so. Where it is, one round trip was enough; where
//! not, the answer brings what is, and the second try is exact.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use solocron::lock::{KeyRecord, LockKey, RecordError};
use solocron::{BackendError, Kind};

use crate::keys::Tag;
use crate::wire::Both;

/// The keys of one lock, as of one revision.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) revision: i64,
    /// The modification revision of the state key; 0: absent.
    pub(crate) state: i64,
    pub(crate) lock: Option<Lock>,
    /// With the holder that the lock key names.
    pub(crate) record: KeyRecord,
}

/// A lock key.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    pub(crate) created: i64,
    pub(crate) lease: i64,
    pub(crate) tag: Tag,
}

impl Seen {
    /// A key that was never used: the guess where nothing is known.
    pub(crate) fn nothing(key: &LockKey) -> Self {
        Self { revision: 0, state: 0, lock: None, record: KeyRecord::new(key.clone()) }
    }

    pub(crate) fn of(key: &LockKey, both: Both) -> Result<Self, BackendError> {
        let Both { revision, lock, state } = both;
        let lock = lock.map(|kept| {
            let tag = Tag::from_bytes(&kept.value).map_err(|line| foreign_lock(key, line))?;
            if tag.key != *key {
                return Err(unreadable(key, &RecordError::Key(tag.key)));
            }
            Ok(Lock { created: kept.created, lease: kept.lease, tag })
        });
        let lock = lock.transpose()?;
        let (state, mut record) = match state {
            Some(kept) => {
                let record = KeyRecord::from_bytes(key, &kept.value);
                (kept.modified, record.map_err(|error| unreadable(key, &error))?)
            }
            None => (0, KeyRecord::new(key.clone())),
        };
        set_holder(&mut record, lock.as_ref());
        Ok(Self { revision, state, lock, record })
    }

    /// The create revision of the lock key; 0: absent.
    pub(crate) fn created(&self) -> i64 {
        self.lock.as_ref().map_or(0, |lock| lock.created)
    }

    /// What is there after a transaction of ours.
    pub(crate) fn after(
        mut record: KeyRecord,
        revision: i64,
        state: i64,
        lock: Option<Lock>,
    ) -> Self {
        set_holder(&mut record, lock.as_ref());
        Self { revision, state, lock, record }
    }
}

fn set_holder(record: &mut KeyRecord, lock: Option<&Lock>) {
    let holder = lock.map(|lock| (lock.tag.holder(), lock.tag.attempt));
    record.set_holder(holder.as_ref().map(|(holder, attempt)| (holder, *attempt)));
}

fn unreadable(key: &LockKey, error: &RecordError) -> BackendError {
    let kind = match error {
        RecordError::Version(_) => Kind::Misconfigured,
        _ => Kind::Corrupt,
    };
    BackendError::new(kind, format!("the etcd keys of {key}: {error}"))
}

fn foreign_lock(key: &LockKey, line: &str) -> BackendError {
    let why = format!(
        "the lock key of {key} was not written by this release of solocron (its {line}): use one release for the whole fleet, and keep the prefix to solocron"
    );
    BackendError::new(Kind::Corrupt, why)
}

/// What was seen last of each lock that this process uses, by its lock key.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    seen: HashMap<Vec<u8>, Arc<Seen>>,
    /// How often the cluster had forgotten something when these were seen.
    losses: u64,
}

impl Memory {
    /// More keys than one process has jobs. What is forgotten costs a round trip.
    const MOST: usize = 10_000;

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, lock_key: &[u8], losses: u64) -> Option<Arc<Seen>> {
        let remembered = self.remembered();
        if remembered.losses != losses {
            return None;
        }
        remembered.seen.get(lock_key).cloned()
    }

    pub(crate) fn put(&self, lock_key: &[u8], seen: &Arc<Seen>, losses: u64) {
        let mut remembered = self.remembered();
        if remembered.losses != losses || remembered.seen.len() >= Self::MOST {
            remembered.seen.clear();
            remembered.losses = losses;
        }
        match remembered.seen.get_mut(lock_key) {
            // Answers may overtake each other.
            Some(known) if known.revision > seen.revision => {}
            Some(known) => *known = Arc::clone(seen),
            None => drop(remembered.seen.insert(lock_key.to_vec(), Arc::clone(seen))),
        }
    }

    /// The lock key is gone. Its state key may have changed with it; if so, the next transaction will tell.
    pub(crate) fn freed(&self, lock_key: &[u8], revision: i64) {
        let mut remembered = self.remembered();
        let Some(seen) = remembered.seen.get_mut(lock_key) else { return };
        if seen.revision < revision && seen.lock.is_some() {
            let Seen { record, state, .. } = &**seen;
            *seen = Arc::new(Seen::after(record.clone(), revision, *state, None));
        }
    }
}
