//! What a winner owns in this process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use solocron::LeaseInstant;
use solocron::lock::{LockKey, Lost, Nonce, Released};
use tokio::sync::watch;

use crate::session::Session;

/// A lease of an [`EtcdBackend`](crate::EtcdBackend).
///
/// Dropping it does nothing: its lock is free when its ttl is over, as if its process had died.
#[derive(Debug, Clone)]
pub struct EtcdLease(pub(crate) Arc<Lease>);

impl EtcdLease {
    /// The lock.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.0.key
    }
}

/// One grant.
///
/// ```text
///   Living ── given back, acknowledged ──────────────────────────────────────────────► GivenBack
///     └────── not renewed in time, key deleted by somebody, session over, revoked ───► Lost ── given back late ──► GivenBack
/// ```
pub(crate) struct Lease {
    pub(crate) key: LockKey,
    pub(crate) lock_key: Vec<u8>,
    pub(crate) nonce: Nonce,
    /// The create revision of the lock key.
    pub(crate) fence: i64,
    /// Whether a tick was claimed with it.
    pub(crate) claimed: bool,
    pub(crate) ttl: Duration,
    pub(crate) session: Arc<Session>,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Living {
        /// Not renewed by then, the lock is given up.
        until: LeaseInstant,
        /// A release was sent, so the key may go.
        going: bool,
    },
    GivenBack(Released),
    Lost(Lost),
}

impl Lease {
    #[expect(clippy::too_many_arguments, reason = "one place makes leases, from one grant")]
    pub(crate) fn new(
        key: LockKey,
        lock_key: Vec<u8>,
        nonce: Nonce,
        fence: i64,
        claimed: bool,
        ttl: Duration,
        until: LeaseInstant,
        session: Arc<Session>,
    ) -> Arc<Self> {
        let state = watch::Sender::new(State::Living { until, going: false });
        Arc::new(Self { key, lock_key, nonce, fence, claimed, ttl, session, state })
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// When it ends if it is not renewed; `None` where it is over.
    pub(crate) fn until(&self) -> Option<LeaseInstant> {
        match self.state() {
            State::Living { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Extends it, if it is living. It never ends earlier than it would have.
    pub(crate) fn extend(&self, to: LeaseInstant, now: LeaseInstant) -> bool {
        let mut lives = false;
        self.state.send_if_modified(|state| {
            if let State::Living { until, .. } = state
                && now < *until
            {
                *until = to.max(*until);
                lives = true;
            }
            false // nobody waits for this
        });
        lives
    }

    /// From now on the deletion of its key is no loss. `true`: it had been said before.
    pub(crate) fn going(&self) -> bool {
        let mut before = false;
        self.state.send_if_modified(|state| {
            if let State::Living { going, .. } = state {
                before = std::mem::replace(going, true);
            }
            false
        });
        before
    }

    /// It is given back; answers with what is now answered for ever.
    pub(crate) fn given_back(&self, answer: Released) -> Released {
        let mut stands = answer;
        self.state.send_if_modified(|state| match state {
            State::GivenBack(before) => {
                stands = *before;
                false
            }
            _ => {
                *state = State::GivenBack(answer);
                true
            }
        });
        stands
    }

    /// It is over although nobody gave it back. `deleted`: its key is gone, which is no loss while it is being given back. Says
    /// whether it was living.
    pub(crate) fn lose(&self, why: Lost, deleted: bool) -> bool {
        self.state.send_if_modified(|state| match state {
            State::Living { going, .. } if !(deleted && *going) => {
                *state = State::Lost(why);
                true
            }
            _ => false,
        })
    }

    /// Returns when it is lost; never, where it is given back.
    pub(crate) async fn lost(&self) -> Lost {
        let mut state = self.state.subscribe();
        loop {
            if let State::Lost(why) = *state.borrow_and_update() {
                return why;
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.key)
            .field("nonce", &self.nonce)
            .field("fence", &self.fence)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
