//! What this process knows of one lease that it holds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::backend::Lost;
use super::driver::AnyLease;
use super::{Fence, LockKey, Nonce};
use crate::clock::LeaseInstant;

/// One held lease: shared by its guard, the keeping loop and the reaper.
///
/// ```text
///   living ──── told (ttl/10 before the deadline), NotOwner, pushed loss, max_runtime ───► lost ──► given back
///      └─────────────────────────── release, drop ─────────────────────────────────────────────────►──┘
/// ```
pub(crate) struct Held {
    pub(crate) key: LockKey,
    pub(crate) nonce: Nonce,
    pub(crate) fence: Fence,
    pub(crate) lease: AnyLease,
    /// The request was sent more than once: late copies of it may exist, so the nonce is refused when the lease is given back.
    pub(crate) resent: bool,
    /// Fires when the job must stop.
    pub(crate) over: CancellationToken,
    /// Fires when the guard is gone.
    pub(crate) given_back: CancellationToken,
    pid: u32,
    deadline: AtomicU64,
    lost: OnceLock<Lost>,
}

impl Held {
    pub(crate) fn new(
        key: LockKey,
        nonce: Nonce,
        fence: Fence,
        lease: AnyLease,
        deadline: LeaseInstant,
        resent: bool,
    ) -> Self {
        Self {
            key,
            nonce,
            fence,
            lease,
            resent,
            over: CancellationToken::new(),
            given_back: CancellationToken::new(),
            pid: std::process::id(),
            deadline: AtomicU64::new(deadline.nanos()),
            lost: OnceLock::new(),
        }
    }

    /// Only a success moves the deadline.
    pub(crate) fn extend(&self, deadline: LeaseInstant) {
        self.deadline.store(deadline.nanos(), Ordering::Release);
    }

    /// The lease is over; tells everybody, once.
    pub(crate) fn lose(&self, why: Lost) {
        if self.lost.set(why).is_ok() {
            tracing::debug!(key = %self.key, fence = %self.fence, %why, "lease lost");
        }
        self.over.cancel();
    }

    /// Returns once it is lost.
    pub(crate) async fn lost(&self) -> Lost {
        if self.forked() {
            return Lost::Forked;
        }
        self.over.cancelled().await;
        self.why_lost().unwrap_or(Lost::Expired)
    }

    pub(crate) fn why_lost(&self) -> Option<Lost> {
        self.lost.get().copied()
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
