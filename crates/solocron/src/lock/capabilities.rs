//! What a backend promises, as far as a test can decide it. The rest is documentation.

use std::time::Duration;

/// What a backend promises. The laws of the test kit assert every field both ways: claimed and failing is an error, working and
/// not claimed is one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Who shares the lock.
    pub scope: Scope,
    /// How far the fence can be trusted to grow.
    pub fencing: Fencing,
    /// Whether marks are kept: needed for claiming ticks.
    pub marks: bool,
    /// The lease times that can be asked for. `None`: a lease is bound to the process and ends when this machine's kernel says so.
    pub ttl: Option<TtlRange>,
    /// Whether a waiter is woken by a push ([`LockBackend::watch`](super::LockBackend::watch)).
    pub wakes: bool,
    /// Whether the loss of a lease is pushed ([`LockBackend::lost`](super::LockBackend::lost)), and not only found by renewing.
    pub tells_loss: bool,
    /// Whether the store has a clock: it refuses ticks from the future and says its time.
    pub store_clock: bool,
    /// Whether an operator can free a lock that another process holds.
    pub force_release: bool,
}

impl Capabilities {
    /// The least that a backend can promise within `scope`: exclusion, and nothing more. Set the fields it does better.
    #[must_use]
    pub const fn exclusion_only(scope: Scope) -> Self {
        Self {
            scope,
            fencing: Fencing::None,
            marks: false,
            ttl: None,
            wakes: false,
            tells_loss: false,
            store_clock: false,
            force_release: false,
        }
    }
}

/// Who shares a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// One process.
    Process,
    /// The processes of one host (more exactly: one file system instance, or one network namespace).
    Host,
    /// Every host that reaches the store.
    Fleet,
}

/// How far a fence can be trusted to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fencing {
    /// There is no usable fence.
    None,
    /// It grows with the clock; a clock that steps back can break it.
    Clock,
    /// It is stored and seeded by the clock; only data loss and a clock step back together can break it.
    Stored,
    /// It is a revision of a consensus store.
    Consensus,
}

/// The lease times a backend grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlRange {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// Lease times are rounded **up** to a multiple of this.
    pub step: Duration,
}
