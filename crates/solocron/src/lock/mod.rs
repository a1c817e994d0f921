//! Locks with a memory.
//!
//! Two questions are often answered with one lock, and that is where double and lost runs come from:
//!
//! 1. *Is an instance of this job running now?* A **lease** answers it: renewed while the holder lives, gone when it is.
//! 2. *Who runs this tick?* A **mark** answers it: the last tick that was claimed, kept beside the lease, for ever.
//!
//! [`Locks::try_lock`] and [`Locks::lock`] ask the first question, [`Locks::claim`] asks both in one atomic step.
//!
//! Users hold [`Locks`] and a [`LockGuard`]; authors of a backend implement [`LockBackend`].

mod any;
mod attempt;
pub(crate) mod backend;
mod capabilities;
mod driver;
mod fence;
#[cfg(unix)]
pub mod files;
pub(crate) mod guard;
mod held;
mod keep;
mod keeper;
mod key;
mod locks;
mod memory;
mod options;
mod record;
pub(crate) mod release;
pub(crate) mod rule;
mod validity;

pub use self::any::{AnyBackend, AnyLease};
pub use self::backend::{
    Claim, ClaimState, Delivery, Enrolled, Enrolment, Epoch, Grant, Holder, LockBackend, Lost,
    MarkAfter, Note, Released, Renewal, Reply, Request, Schedule, Validity, Watch,
};
pub use self::capabilities::{Capabilities, Fencing, Scope, TtlRange};
pub use self::fence::{Fence, Mark};
pub use self::guard::{ClaimGuard, LockGuard};
pub use self::keeper::{Keeper, Work};
pub use self::key::{LockKey, NodeId, Nonce};
pub use self::locks::{ClaimReply, Locks, LocksBuilder, TryLock};
pub use self::memory::{MemoryBackend, MemoryLease};
pub use self::options::{LockOptions, Timing};
pub use self::record::{Granted, KeyRecord, RecordError, Verdict};
#[cfg(feature = "rules")]
pub use self::rule::Rule;
pub use self::validity::{Term, safety};
