//! Reading and changing the two keys of a lock, in one step.
//!
//! ```text
//!   what was seen last ──► decide ──► transaction: both keys are still so ──► done
//!        ▲                   │             └ no, but this ──┐
//!        └───────────────────┼──────────────────────────────┘
//!                            └ nothing to write, and what was seen is old ──► read, decide again
//! ```
//!
//! A record that remembers no tick and has no note is only there to refuse nonces. It is put on a lease of its own and ends with it,
//! when no request of theirs can be on its way any more: else each name that was ever revoked would leave a key for ever.

use std::sync::Arc;

use solocron::jiff::Timestamp;
use solocron::lock::{KeyRecord, LockKey, MarkAfter, Nonce, Note, Released};
use solocron::{BackendError, Clock, Kind, SystemClock};

use crate::home::{Home, Names};
use crate::ledger::DOUBTED_FOR;
use crate::seen::{Lock, Seen};
use crate::wire::{Fault, Guarded, Outcome, Write};

/// What becomes of the lock key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKeyIs {
    /// Of no interest.
    Any,
    /// As it was seen.
    Same,
    /// Deleted, being as it was seen.
    Deleted,
}

/// How often a transaction is tried that meets another one. Whoever fails has seen what the other did.
const TRIES: u32 = 32;

impl Home {
    /// What is there now.
    pub(crate) async fn read(
        &self,
        key: &LockKey,
        names: &Names,
    ) -> Result<Arc<Seen>, BackendError> {
        let keys = [(names.lock.clone(), names.state.clone())];
        let both = self.wire.read(&keys).await?.pop();
        let both = both.ok_or_else(|| {
            BackendError::new(Kind::Corrupt, format!("etcd left out the keys of {key}"))
        })?;
        self.see(names, Seen::of(key, both)?)
    }

    pub(crate) fn see(&self, names: &Names, seen: Seen) -> Result<Arc<Seen>, BackendError> {
        let seen = Arc::new(seen);
        self.memory.put(&names.lock, &seen, self.wire.memory().1);
        Ok(seen)
    }

    pub(crate) fn remembered(&self, names: &Names) -> Option<Arc<Seen>> {
        self.memory.get(&names.lock, self.wire.memory().1)
    }

    /// Changes the record of a lock as `change` says, and its lock key. `known`: what was seen, and whether that is news.
    pub(crate) async fn change<T>(
        &self,
        key: &LockKey,
        names: &Names,
        known: Option<Arc<Seen>>,
        mut change: impl FnMut(&mut KeyRecord, Option<&Lock>) -> Result<(T, LockKeyIs), BackendError>,
    ) -> Result<T, BackendError> {
        let (mut seen, mut fresh) = match known {
            Some(seen) => (seen, false),
            None => (self.read(key, names).await?, true),
        };
        for _ in 0..TRIES {
            let mut record = seen.record.clone();
            let (answer, lock_key) = change(&mut record, seen.lock.as_ref())?;
            let mut writes = Vec::new();
            let mut passing = 0;
            if record != seen.record {
                if record.last().is_none() && *record.note() == Note::default() {
                    passing = self.passing().await?;
                }
                writes.push(Write::PutState { value: record.to_bytes(), lease: passing });
            }
            if lock_key == LockKeyIs::Deleted {
                writes.push(Write::DeleteLock);
            }
            if writes.is_empty() {
                if fresh {
                    return Ok(answer);
                }
                (seen, fresh) = (self.read(key, names).await?, true);
                continue;
            }
            let guarded = Guarded {
                lock: &names.lock,
                state: &names.state,
                lock_is: (lock_key != LockKeyIs::Any).then(|| seen.created()),
                state_is: Some(seen.state),
            };
            let changed = match self.wire.commit(&guarded, &writes).await {
                Err(fault) if fault.no_lease && passing != 0 => {
                    self.passed(passing).await;
                    continue;
                }
                changed => changed?,
            };
            match changed {
                Outcome::Done(revision) => {
                    let state = if record == seen.record { seen.state } else { revision };
                    let lock = match lock_key {
                        LockKeyIs::Deleted => None,
                        // What is not compared may have changed; then the next transaction will tell.
                        _ => seen.lock.clone(),
                    };
                    self.see(names, Seen::after(record, revision, state, lock))?;
                    return Ok(answer);
                }
                Outcome::Otherwise(both) => {
                    (seen, fresh) = (self.see(names, Seen::of(key, both)?)?, true);
                }
            }
        }
        Err(contended(key))
    }

    /// The lease for records that pass. Shared by those of some minutes.
    async fn passing(&self) -> Result<i64, BackendError> {
        let mut known = self.passing.lock().await;
        let now = SystemClock.lease_now();
        if let Some((id, until)) = *known
            && now + DOUBTED_FOR <= until
        {
            return Ok(id);
        }
        let granted =
            self.wire.grant_lease(DOUBTED_FOR * 2).await.map_err(Fault::without_effect)?;
        *known = Some((granted.id, now + granted.ttl));
        Ok(granted.id)
    }

    /// That lease is not there any more: the next record makes another.
    async fn passed(&self, lease: i64) {
        let mut known = self.passing.lock().await;
        if known.is_some_and(|(id, _)| id == lease) {
            *known = None;
        }
    }

    /// Gives back whatever `nonce` may hold, wherever it came from, and refuses it from now on.
    ///
    /// The record is written in any case, so that no transaction that was judged before can be carried out any more.
    pub(crate) async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        after: MarkAfter,
    ) -> Result<Released, BackendError> {
        let names = self.names(key);
        // Where this process holds it, the deletion of its key is a loss, whoever hears of it first: the answer may be lost.
        let known = self.remembered(&names);
        let released = self
            .change(key, &names, known, |record, lock| {
                let released = record.revoke(nonce, after, Timestamp::now());
                Ok((released, deleted_if_of(lock, nonce)))
            })
            .await?;
        if let Some(lease) = self.ledger.lease(nonce) {
            lease.lose(solocron::lock::Lost::ForceReleased, false);
        }
        self.ledger.revoked(nonce);
        Ok(released)
    }
}

/// The lock key of `nonce` is deleted; anybody else's stays.
pub(crate) fn deleted_if_of(lock: Option<&Lock>, nonce: Nonce) -> LockKeyIs {
    match lock {
        Some(lock) if lock.tag.nonce == nonce => LockKeyIs::Deleted,
        _ => LockKeyIs::Same,
    }
}

pub(crate) fn contended(key: &LockKey) -> BackendError {
    let why = format!(
        "the etcd keys of {key} changed {TRIES} times while they were being changed: try again"
    );
    BackendError::new(Kind::Unavailable, why)
}
