//! What a store answered, as far as the plan must know.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::BackendError;
use crate::lock::backend::{ClaimState, Schedule};
use crate::lock::{ClaimGuard, ClaimReply, Fence, Holder, Mark, NodeId, Reply};

/// [`ClaimReply`] without its guard.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Answer {
    /// The tick is mine.
    Won(Win),
    /// This or a later tick is claimed.
    Stale {
        /// The last claimed tick.
        mark: Mark,
        /// Whether its run has ended.
        done: bool,
        /// Whether that run lives: it holds the key.
        living: bool,
        /// When that lease ends, if it has an end.
        remaining: Option<Duration>,
        /// Who claimed it.
        owner: Option<NodeId>,
    },
    /// A run holds the key.
    Busy {
        /// The tick of that run, if known.
        tick: Option<Mark>,
        /// When its lease ends, if it has an end.
        remaining: Option<Duration>,
        /// Whose it is.
        owner: Option<NodeId>,
    },
    /// An earlier tick goes first.
    Behind {
        /// The last claimed tick.
        mark: Mark,
        /// Whether `mark` itself is to be claimed again.
        unfinished: bool,
    },
    /// The tick lies in the future of the store.
    Early {
        /// The store's clock.
        store_now: Timestamp,
    },
    /// Nobody knows.
    Failed(BackendError),
}

/// A tick that was won, without its guard.
#[derive(Debug, Clone)]
pub struct Win {
    /// Its fence.
    pub fence: Fence,
    /// The claim before it.
    pub previous: Option<ClaimState>,
    /// Which attempt of the tick.
    pub attempt: u32,
    /// The schedule on record.
    pub schedule: Option<Schedule>,
}

impl Win {
    /// What `guard` was won with; it does not keep what nobody else asks it for.
    pub(crate) fn of(guard: &mut ClaimGuard) -> Self {
        Self {
            fence: guard.lease.fence(),
            previous: guard.previous.take(),
            attempt: guard.attempt,
            schedule: guard.schedule,
        }
    }
}

impl Answer {
    /// What the plan must know of a reply.
    #[must_use]
    pub fn of(reply: &Result<ClaimReply, BackendError>) -> Self {
        match reply {
            Ok(ClaimReply::Won(guard)) => Self::Won(Win {
                fence: guard.lease.fence(),
                previous: guard.previous.clone(),
                attempt: guard.attempt,
                schedule: guard.schedule,
            }),
            Ok(ClaimReply::Stale { mark, done, owner }) => {
                Self::stale(*mark, *done, owner.as_deref())
            }
            Ok(ClaimReply::Busy(holder)) => Self::busy(holder.as_deref()),
            Ok(ClaimReply::Behind { mark, unfinished }) => {
                Self::Behind { mark: *mark, unfinished: *unfinished }
            }
            Ok(ClaimReply::Early { store_now }) => Self::Early { store_now: *store_now },
            Err(error) => Self::Failed(error.clone()),
        }
    }

    fn stale(mark: Mark, done: bool, owner: Option<&Holder>) -> Self {
        Self::Stale {
            mark,
            done,
            // Whoever has the key for something else does not run this tick.
            living: owner.is_some_and(|owner| owner.living && owner.tick == Some(mark)),
            remaining: owner.and_then(|owner| owner.remaining),
            owner: owner.map(|owner| owner.node.clone()),
        }
    }

    fn busy(holder: Option<&Holder>) -> Self {
        Self::Busy {
            tick: holder.and_then(|holder| holder.tick),
            remaining: holder.and_then(|holder| holder.remaining),
            owner: holder.map(|holder| holder.node.clone()),
        }
    }
}

/// What the plan must know of a driver's reply.
impl<L> From<&Reply<L>> for Answer {
    fn from(reply: &Reply<L>) -> Self {
        match reply {
            Reply::Won(grant) => Self::Won(Win {
                fence: grant.fence,
                previous: grant.previous.clone(),
                attempt: grant.attempt,
                schedule: grant.schedule,
            }),
            Reply::Stale { mark, done, owner } => Self::stale(*mark, *done, owner.as_deref()),
            Reply::Busy { holder } => Self::busy(holder.as_deref()),
            Reply::Behind { mark, unfinished } => {
                Self::Behind { mark: *mark, unfinished: *unfinished }
            }
            Reply::Early { store_now } => Self::Early { store_now: *store_now },
        }
    }
}
