//! What the winner of a key owns: the socket that listens, and the record that nobody else can change meanwhile.
//!
//! ```text
//!   held ── release, revoke: write the record, let go of it, close the socket, end the waiters' connections ──► over
//!    └───── drop: let go of the record, close the socket, end the connections; the record goes on naming a holder that nobody has to ask about
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use solocron::BackendError;
use solocron::jiff::Timestamp;
use solocron::lock::{KeyRecord, LockKey, Lost, Nonce, Released, Renewal, Validity};

use crate::addr::Address;
use crate::banner::Banner;
use crate::door::Door;
use crate::home::Home;
use crate::state::Kept;

/// A lease of the [`SocketBackend`](crate::SocketBackend). Dropping it frees the lock.
#[derive(Debug, Clone)]
pub struct SocketLease(pub(crate) Arc<Lease>);

/// One acquisition.
pub(crate) struct Lease {
    pub(crate) key: LockKey,
    pub(crate) nonce: Nonce,
    pub(crate) at: Address,
    /// What others are told.
    pub(crate) banner: Banner,
    home: Arc<Home>,
    entry: u64,
    door: Arc<Door>,
    state: Mutex<State>,
}

#[expect(clippy::large_enum_variant, reason = "one per lease, and a lease is mostly held")]
enum State {
    Held(Kept),
    Over { answer: Released, why: Lost },
}

impl Lease {
    /// The lease of a lock that was just won. What the record says is not written yet: [`save`](Self::save).
    pub(crate) fn new(
        home: &Arc<Home>,
        at: &Address,
        nonce: Nonce,
        banner: Banner,
        door: &Arc<Door>,
        kept: Kept,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            key: kept.record.key().clone(),
            nonce,
            at: at.clone(),
            banner,
            home: Arc::clone(home),
            entry: home.enter(at.clone(), Weak::clone(this)),
            door: Arc::clone(door),
            state: Mutex::new(State::Held(kept)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change in here is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the record as it stands.
    pub(crate) fn save(&self) -> Result<(), BackendError> {
        match &mut *self.state() {
            State::Held(kept) => kept.save(),
            State::Over { .. } => Ok(()),
        }
    }

    /// Looks at the record. `None`: the lease is over.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&KeyRecord) -> T) -> Option<T> {
        match &*self.state() {
            State::Held(kept) => Some(look(&kept.record)),
            State::Over { .. } => None,
        }
    }

    /// Changes the record, and writes it where `change` says so. `None`: the lease is over.
    pub(crate) fn edit<T>(
        &self,
        change: impl FnOnce(&mut KeyRecord) -> (T, bool),
    ) -> Option<Result<T, BackendError>> {
        match &mut *self.state() {
            State::Held(kept) => Some(kept.change(change)),
            State::Over { .. } => None,
        }
    }

    /// Ends the lease: `end` says what becomes of the record. A second call answers as the first; but whoever releases what an
    /// operator freed was no owner any more, and `None` says that.
    pub(crate) fn finish(
        &self,
        why: Lost,
        end: impl FnOnce(&mut KeyRecord) -> Released,
    ) -> Result<Option<Released>, BackendError> {
        if !self.home.is_mine() {
            return Ok(Some(Released::NotOwner { mark: None }));
        }
        let mut state = self.state();
        let kept = match &mut *state {
            State::Held(kept) => kept,
            State::Over { why: Lost::ForceReleased, .. } => return Ok(None),
            State::Over { answer, .. } => return Ok(Some(*answer)),
        };
        let mut answer = kept.change(|record| (end(record), true))?;
        if !kept.in_place().unwrap_or(false) {
            // Settled in a file that nobody reads any more.
            answer = Released::NotOwner { mark: kept.record.last().map(|last| last.mark) };
        }
        self.remember(kept);
        kept.let_go();
        *state = State::Over { answer, why };
        self.door.close();
        drop(state);
        self.home.leave(&self.at, self.entry);
        Ok(Some(answer))
    }

    /// Before the lock is given up: whoever takes it next in this process reads it.
    fn remember(&self, kept: &Kept) {
        if kept.is_in_memory() {
            self.home.remember(
                &self.at,
                &self.banner.namespace,
                kept.record.clone(),
                Timestamp::now(),
            );
        }
    }

    /// Whether the lease still holds.
    pub(crate) fn verify(&self) -> Result<Renewal, BackendError> {
        if !self.home.is_mine() {
            return Ok(Renewal::NotOwner(Lost::Forked));
        }
        Ok(match &*self.state() {
            State::Over { why, .. } => Renewal::NotOwner(*why),
            State::Held(kept) if kept.in_place()? => Renewal::Extended(Validity::ProcessBound),
            State::Held(_) => Renewal::NotOwner(Lost::FileReplaced),
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // In a forked child nothing is done: shutdown(2) would free the lock of the parent.
        if !self.home.is_mine() {
            return;
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Held(kept) = state {
            if kept.is_in_memory() {
                self.home.remember(
                    &self.at,
                    &self.banner.namespace,
                    kept.record.clone(),
                    Timestamp::now(),
                );
            }
            kept.let_go();
            self.door.close();
            self.home.leave(&self.at, self.entry);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.key)
            .field("nonce", &self.nonce)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
