//! What a witness writes down: one event, one line.

use std::collections::BTreeMap;

/// The `node` of a [`What::Fault`] that hits everybody: the backend, the network, the host.
pub const EVERYBODY: &str = "*";

/// The kind of a [`What::Fault`] that ends the process of its node, however that was done. Nothing
/// heals it but a new [`What::Boot`].
pub const KILL: &str = "kill";

/// The kind of a [`What::Fault`] in which the node does nothing at all until it is healed: a
/// stopped process, a paused machine.
pub const STOP: &str = "stop";

/// One thing that happened, when, and who saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC` in nanoseconds, or the time of a simulation on any origin.
    pub t: u64,
    /// Who writes: a node of the fleet, or the harness.
    pub node: String,
    /// The writer's process id; in a simulation, any number that differs between two lives of one
    /// node.
    pub pid: u32,
    /// What happened.
    pub what: What,
}

impl Event {
    /// An event of this process, now.
    #[cfg(unix)]
    #[must_use]
    pub fn now(node: impl Into<String>, what: What) -> Self {
        Self { t: monotonic_ns(), node: node.into(), pid: std::process::id(), what }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: comparable between the processes of one host, and no clock
/// step moves it.
///
/// # Panics
///
/// Where the system has no such clock.
#[cfg(unix)]
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("every unix has CLOCK_MONOTONIC");
    u64::try_from(std::time::Duration::from(now).as_nanos())
        .expect("a host is up for less than 584 years")
}

/// The win of one tick of one job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// The job's id.
    pub job: String,
    /// The tick, in Unix milliseconds.
    pub tick: i64,
    /// The fence that came with the win.
    pub fence: u64,
}

impl Claim {
    /// The win of `tick` (Unix milliseconds) of `job` under `fence`.
    pub fn new(job: impl Into<String>, tick: i64, fence: u64) -> Self {
        Self { job: job.into(), tick, fence }
    }
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The first line, and only the first: what the rest is judged by.
    Meta(Meta),
    /// The node is up and takes part from now on.
    Boot,
    /// The node was told to end; it claims nothing from now on.
    Stop,
    /// The node's shutdown has returned; it leaves nothing behind.
    Bye,
    /// The node won a tick.
    Grant {
        /// What it won.
        claim: Claim,
        /// Nanoseconds on the clock of [`Event::t`], read before the first request was sent.
        asked: u64,
        /// The same clock, read after the answer had come.
        answered: u64,
    },
    /// The job's code was entered.
    Start {
        /// The claim it runs under.
        claim: Claim,
        /// 1 for the first time this tick is tried, then 2, 3 and so on.
        attempt: u32,
    },
    /// The job did something that others can see.
    Effect {
        /// The claim it runs under.
        claim: Claim,
        /// Counts the effects of one run.
        n: u64,
    },
    /// The job's code was left. Written *before* the claim is given back, as the job itself does.
    Over {
        /// The claim it ran under.
        claim: Claim,
        /// How it was left.
        outcome: Outcome,
    },
    /// A win was given back before the job's code was entered.
    Undo {
        /// What was given back.
        claim: Claim,
    },
    /// The library said that nobody claimed this tick in time, or that a later one ran in its
    /// place.
    Missed {
        /// The job's id.
        job: String,
        /// The tick, in Unix milliseconds.
        tick: i64,
    },
    /// The library said that it passed over this tick on purpose.
    Skipped {
        /// The job's id.
        job: String,
        /// The tick, in Unix milliseconds.
        tick: i64,
        /// The reason it gave.
        why: String,
    },
    /// The library said that this tick was claimed, and never finished.
    Abandoned {
        /// The job's id.
        job: String,
        /// The tick, in Unix milliseconds.
        tick: i64,
    },
    /// The harness is about to do harm. Written *before* it is done.
    Fault {
        /// What is done: [`KILL`], [`STOP`], or any other name.
        kind: String,
        /// To which node, or to [`EVERYBODY`].
        node: String,
    },
    /// The harm is over. Written *after* it was undone.
    Heal {
        /// The same kind as the fault's.
        kind: String,
        /// The same node as the fault's.
        node: String,
    },
    /// After the last [`What::Bye`], something of the fleet was still there.
    Leak {
        /// A key, a file, a process.
        what: String,
    },
}

impl What {
    /// The claim this event speaks of, if it speaks of one.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Grant { claim, .. }
            | Self::Start { claim, .. }
            | Self::Effect { claim, .. }
            | Self::Over { claim, .. }
            | Self::Undo { claim } => Some(claim),
            _ => None,
        }
    }
}

/// How a job's code was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By returning.
    End,
    /// Because it was told that its lease is lost.
    Lost,
    /// By a panic.
    Panic,
}

/// What a history is judged by, as its first line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Wall clock at this event's `t`, in Unix milliseconds. It ties ticks to `t`: whatever a
    /// node's own clock says, or is made to say, later on does not matter.
    pub wall_ms: i64,
    /// For how long after it was due a tick may be claimed, in milliseconds.
    pub grace_ms: u64,
    /// How long a fleet may need to work again after a boot or a heal, and to start what it
    /// claimed, in milliseconds.
    pub settle_ms: u64,
    /// When the jobs are due, by a reckoning that is not the library's own.
    pub jobs: BTreeMap<String, Schedule>,
}

/// When a job is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At every multiple of this many milliseconds since the Unix epoch, from the first line to the
    /// last.
    Every {
        /// Greater than zero.
        period_ms: u64,
    },
    /// At these ticks, in Unix milliseconds.
    At(Vec<i64>),
}
