//! What this process knows of one lease that it holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::backend::Lost;
use super::driver::AnyLease;
use super::options::Timing;
use super::validity::Term;
use super::{Fence, LockKey, Nonce};
use crate::clock::LeaseInstant;
use crate::ending::Ending;

/// One held lease: shared by its guard, the keeping loop and the reaper.
///
/// ```text
///   living ──── told (ttl/10 before the deadline), NotOwner, pushed loss, max_runtime ───► lost ──► given back
///      └─────────────────────────── release, drop ─────────────────────────────────────────────────►──┘
/// ```
///
/// Most leases are given back before anybody has asked for news of them, so what tells it is made when somebody does.
pub(crate) struct Held {
    pub(crate) key: LockKey,
    pub(crate) nonce: Nonce,
    pub(crate) fence: Fence,
    pub(crate) lease: AnyLease,
    /// The request was sent more than once: late copies of it may exist, so the nonce is refused when the lease is given back.
    pub(crate) resent: bool,
    pub(crate) timing: Timing,
    /// Its number at the keeping loop.
    pub(crate) id: u64,
    /// From before its first renewal.
    pub(crate) first_term: Term,
    /// The process that won it.
    pub(crate) pid: u32,
    deadline: AtomicU64,
    /// By being lost. Rung also when it is given back.
    end: Ending<Lost>,
    given_back: AtomicBool,
}

/// What a lease is made of.
pub(crate) struct Won {
    pub(crate) key: LockKey,
    pub(crate) nonce: Nonce,
    pub(crate) fence: Fence,
    pub(crate) lease: AnyLease,
    pub(crate) timing: Timing,
    pub(crate) term: Term,
    pub(crate) resent: bool,
    pub(crate) pid: u32,
}

impl Held {
    pub(crate) fn new(won: Won, id: u64) -> Self {
        let Won { key, nonce, fence, lease, timing, term, resent, pid } = won;
        Self {
            key,
            nonce,
            fence,
            lease,
            resent,
            timing,
            id,
            pid,
            first_term: term,
            deadline: AtomicU64::new(term.deadline.nanos()),
            end: Ending::default(),
            given_back: AtomicBool::new(false),
        }
    }

    /// Only a success moves the deadline.
    pub(crate) fn extend(&self, deadline: LeaseInstant) {
        self.deadline.store(deadline.nanos(), Ordering::Release);
    }

    /// The lease is over; tells everybody, once.
    pub(crate) fn lose(&self, why: Lost) {
        if self.end.end(why) {
            tracing::debug!(key = %self.key, fence = %self.fence, %why, "lease lost");
        }
    }

    /// Its guard is gone, or about to go.
    pub(crate) fn give_up(&self) {
        self.given_back.store(true, Ordering::SeqCst);
        self.end.ring();
    }

    pub(crate) fn is_given_back(&self) -> bool {
        self.given_back.load(Ordering::SeqCst)
    }

    /// A token that is cancelled when it is lost.
    pub(crate) fn token(&self) -> CancellationToken {
        self.end.token()
    }

    /// Returns once it is lost.
    pub(crate) async fn lost(&self) -> Lost {
        if self.forked() {
            return Lost::Forked;
        }
        self.end.ended().await
    }

    /// Returns once it is lost or given back.
    pub(crate) async fn over(&self) {
        if !self.forked() {
            let over = || (self.is_given_back() || self.why_lost().is_some()).then_some(());
            self.end.until(over).await;
        }
    }

    pub(crate) fn why_lost(&self) -> Option<Lost> {
        self.end.why()
    }

    /// Compares at the moment of use, and so also covers a keeper that was stopped together with everything else.
    pub(crate) fn check(&self, now: LeaseInstant) -> Result<Fence, Lost> {
        if self.forked() {
            return Err(Lost::Forked);
        }
        if now.nanos() >= self.deadline.load(Ordering::Acquire) {
            self.lose(Lost::Expired);
        }
        self.why_lost().map_or(Ok(self.fence), Err)
    }

    pub(crate) fn deadline(&self) -> LeaseInstant {
        LeaseInstant::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    /// Whether this is a forked child of the process that won the lease.
    pub(crate) fn forked(&self) -> bool {
        std::process::id() != self.pid
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("key", &self.key)
            .field("fence", &self.fence)
            .field("lost", &self.why_lost())
            .finish_non_exhaustive()
    }
}
