//! What happens in a scheduler, told to whoever wants to know. Control flow never rides on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::BackendError;
use crate::lock::{Fence, LockKey, Lost, Mark, NodeId};

/// Something that happened to a job, or to the group of this scheduler.
#[derive(Debug, Clone)]
pub struct Event {
    /// The job; for what concerns the leadership, the lock of the group ([`LockKey::of_leader`]).
    pub job: LockKey,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum What {
    /// The job takes part in claiming; ticks after `mark` are its to claim.
    Enrolled {
        /// The last claimed tick.
        mark: Mark,
    },
    /// This node won the tick.
    Claimed {
        /// The tick.
        tick: Mark,
        /// Its fence.
        fence: Fence,
        /// Which attempt of it.
        attempt: u32,
    },
    /// Another node has the tick. Normal.
    Yielded {
        /// The tick.
        tick: Mark,
        /// To whom, if known.
        to: Option<NodeId>,
    },
    /// The tick was won and given back: its run never started.
    Undone {
        /// The tick.
        tick: Mark,
        /// Its fence.
        fence: Fence,
    },
    /// A run began.
    Started {
        /// The tick.
        tick: Mark,
        /// Its fence.
        fence: Fence,
        /// How late it began.
        lateness: Duration,
        /// How many earlier ticks it makes up for.
        missed: usize,
    },
    /// A run ended.
    Finished {
        /// The tick.
        tick: Mark,
        /// Its fence.
        fence: Fence,
        /// How.
        outcome: Outcome,
    },
    /// No node claimed the tick within its grace, as far as this node knows.
    Missed {
        /// The tick.
        tick: Mark,
        /// Why.
        why: MissedWhy,
    },
    /// The ticks after `after` up to `to` fell into a run of this job, and are not run.
    Overlapped {
        /// The run's tick.
        after: Mark,
        /// The last of them.
        to: Mark,
    },
    /// The tick was claimed and its run never ended: its node died, or lost the lease.
    Abandoned {
        /// The tick.
        tick: Mark,
        /// Whose it was, if known.
        owner: Option<NodeId>,
    },
    /// The store lost its memory; ticks up to `mark` are not claimed again.
    Forgot {
        /// Where the record begins now.
        mark: Mark,
    },
    /// The last claimed tick lies in the future of this node's clock: some node's clock is, or was, ahead.
    MarkAhead {
        /// That tick.
        mark: Mark,
        /// Whose it was, if known.
        owner: Option<NodeId>,
    },
    /// Another node has another schedule for this job.
    ScheduleDiffers,
    /// The backend failed; it is tried again.
    BackendFailed {
        /// How.
        error: BackendError,
    },
    /// This node leads its group: from here on it plans and runs.
    Elected {
        /// The fence of its term.
        fence: Fence,
    },
    /// This node does not lead any more, although it did not resign. Its runs are told to stop; it campaigns again.
    Deposed {
        /// The fence of the term that is over.
        fence: Fence,
        /// Why.
        why: Lost,
    },
    /// This node gave its leadership up, after its last run had ended.
    Resigned {
        /// The fence of the term that is over.
        fence: Fence,
    },
    /// Another node leads the group. Normal.
    Follows {
        /// Who.
        leader: NodeId,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It returned `()` or `Ok`.
    Ok,
    /// It returned an error, printed here.
    Failed(String),
    /// It panicked, with this message.
    Panicked(String),
    /// It was told to stop, and stopped or was stopped.
    Cancelled(Cancelled),
}

/// Why a run was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cancelled {
    /// The lease is lost: another node may run this job soon.
    LeaseLost(Lost),
    /// The leadership is lost: another node may lead soon.
    LeadershipLost(Lost),
    /// The scheduler is shutting down and the time to drain is over.
    Shutdown,
    /// The run took longer than the job's `max_runtime`.
    Timeout,
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseLost(why) => write!(f, "the lease is lost: {why}"),
            Self::LeadershipLost(why) => write!(f, "the leadership is lost: {why}"),
            Self::Shutdown => f.write_str("the scheduler is shutting down"),
            Self::Timeout => f.write_str("the run took longer than its max_runtime"),
        }
    }
}

impl std::error::Error for Cancelled {}

/// Why no node claimed a tick in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissedWhy {
    /// Nobody was there: the fleet was down, or this node was stopped.
    NobodyThere,
    /// A run of this job was under way all the time.
    Overlap,
    /// The backend did not answer all the time.
    Backend,
}

/// Hears of events, inline: it should count or send, not work. A panic in it is caught.
pub(crate) type Observer = Arc<dyn Fn(&Event) + Send + Sync>;
