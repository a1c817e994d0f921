//! Which node tries.

/// Which node of a fleet tries to run what is due.
///
/// Whoever tries, a tick is run by the one that claims it, where the backend keeps marks: safety does not rest on this choice.
///
/// ```
/// use solocron::lock::{Locks, MemoryBackend};
/// use solocron::{Context, Coordination, Job, Scheduler};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let scheduler = Scheduler::builder(Locks::new(MemoryBackend::new())?)
///     .coordination(Coordination::leader("billing"))
///     .job(Job::new("invoices", "@hourly", async |ctx: Context| println!("by one leader, fence {}", ctx.fence())))
///     .build()?;
/// # scheduler.stopper().stop();
/// scheduler.run_until(std::future::pending::<()>()).await?;
/// # Ok::<(), solocron::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Coordination {
    /// Every node, at each tick: one of them claims it. At rest it costs nothing, after a crash there is nobody to elect. Needs a
    /// backend that keeps marks. The default.
    #[default]
    PerTick,
    /// The elected node of this group; the others only wait for its lock. Works on any backend. After a crash nothing runs until
    /// the leader's lease has ended; a clean stop hands over at once, or, on a backend without marks, when its last run has ended.
    ///
    /// Where the backend keeps marks the leader claims each tick, and a take-over finds what was missed. Where it keeps none, a
    /// tick is *started by one leader*: a take-over starts after its own beginning, what was due in between is not run, and a
    /// leader that was paused may run beside its successor, told apart by the [fence](crate::Context::fence).
    ///
    /// A leader whose runtime is blocked for longer than its lease's ttl, and for 10 s at least, hands over, and campaigns again when
    /// it moves.
    ///
    /// The nodes of a group should have the same jobs: only the leader's are run.
    Leader(String),
}

impl Coordination {
    /// [`Coordination::Leader`] of the group of this name.
    pub fn leader(group: impl Into<String>) -> Self {
        Self::Leader(group.into())
    }
}
