//! What a history is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::History;
use super::event::Schedule;

/// What must hold in a history: when jobs are due, and how much the backend promises.
///
/// The due ticks come from the caller, never from the library under test.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(super) jobs: BTreeMap<String, Due>,
    pub(super) grace: Duration,
    pub(super) settle: Duration,
    pub(super) holder_ttl: Duration,
    pub(super) process_bound: bool,
    pub(super) shared_fences: bool,
    pub(super) unseen_wins: bool,
    pub(super) refused_effects: u64,
    pub(super) max_attempts: u32,
    pub(super) min_ran: f64,
    pub(super) min_faults: BTreeMap<String, u64>,
}

/// When one job is due: ticks in Unix milliseconds, and for how long each may be claimed.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) ticks: BTreeSet<i64>,
    pub(super) grace: Duration,
}

impl Rules {
    /// Rules without any due tick.
    ///
    /// A tick may be claimed for `grace` after it was due. `settle` is what a fleet may need to
    /// work again after a boot or a heal, and to start what it claimed: a due tick must be started
    /// within `grace + settle` if some node was healthy from `settle` before it to `grace` after
    /// it. Larger values forgive more.
    #[must_use]
    pub fn new(grace: Duration, settle: Duration) -> Self {
        Self {
            jobs: BTreeMap::new(),
            grace,
            settle,
            holder_ttl: Duration::ZERO,
            process_bound: false,
            shared_fences: false,
            unseen_wins: false,
            refused_effects: 1,
            max_attempts: u32::MAX,
            min_ran: 0.0,
            min_faults: BTreeMap::new(),
        }
    }

    /// The rules that the history's first line states. Periods are counted from the Unix epoch, up
    /// to the last event.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let meta = history.meta();
        let last = history.events().iter().map(|event| event.t).max().unwrap_or_default();
        let lasted_ms = last.saturating_sub(history.events()[0].t) / 1_000_000;
        let end_ms = meta.wall_ms.saturating_add_unsigned(lasted_ms);
        let rules =
            Self::new(Duration::from_millis(meta.grace_ms), Duration::from_millis(meta.settle_ms));
        meta.jobs.iter().fold(rules, |rules, (job, schedule)| match schedule {
            Schedule::At(ticks) => rules.due(job, ticks.iter().copied()),
            Schedule::Every { period_ms } => {
                let period = i64::try_from(*period_ms).unwrap_or(i64::MAX).max(1);
                let next = |tick: &i64| tick.checked_add(period);
                let first = meta
                    .wall_ms
                    .checked_sub(meta.wall_ms.rem_euclid(period))
                    .and_then(|tick| next(&tick));
                rules
                    .due(job, std::iter::successors(first, next).take_while(|tick| *tick <= end_ms))
            }
        })
    }

    /// Adds ticks at which `job` is due, in Unix milliseconds, each for the grace of these rules.
    #[must_use]
    pub fn due(self, job: impl Into<String>, ticks: impl IntoIterator<Item = i64>) -> Self {
        let grace = self.grace;
        self.due_within(job, grace, ticks)
    }

    /// Adds ticks at which `job` is due, in Unix milliseconds, and sets the grace of all its ticks.
    #[must_use]
    pub fn due_within(
        mut self,
        job: impl Into<String>,
        grace: Duration,
        ticks: impl IntoIterator<Item = i64>,
    ) -> Self {
        let due =
            self.jobs.entry(job.into()).or_insert_with(|| Due { ticks: BTreeSet::new(), grace });
        due.grace = grace;
        due.ticks.extend(ticks);
        self
    }

    /// How long the lock of a dead or silent holder may go on blocking others: the ttl on a store,
    /// nothing (the default) where the kernel frees it.
    #[must_use]
    pub fn holder_ttl(mut self, ttl: Duration) -> Self {
        self.holder_ttl = ttl;
        self
    }

    /// The backend's locks live exactly as long as the process: runs never overlap (I1s), and a
    /// stopped holder blocks for as long as it is stopped.
    #[must_use]
    pub fn process_bound(mut self) -> Self {
        self.process_bound = true;
        self
    }

    /// A fence belongs to a leadership, not to a claim: the runs of one process may share it.
    #[must_use]
    pub fn shared_fences(mut self) -> Self {
        self.shared_fences = true;
        self
    }

    /// The store may grant what no node ever hears of, because the answer is lost with the node or the network: an attempt may be
    /// missing before another one.
    #[must_use]
    pub fn unseen_wins(mut self) -> Self {
        self.unseen_wins = true;
        self
    }

    /// How many effects of one run a fencing resource may refuse before the run has to know; 1 by
    /// default.
    #[must_use]
    pub fn refused_effects(mut self, most: u64) -> Self {
        self.refused_effects = most;
        self
    }

    /// How often a tick may be tried: 1 for jobs that run at most once and are not retried.
    /// Unlimited by default.
    #[must_use]
    pub fn max_attempts(mut self, most: u32) -> Self {
        self.max_attempts = most;
        self
    }

    /// The history is void unless this share of the due ticks ran: 0.7 for 70 %.
    #[must_use]
    pub fn at_least_ran(mut self, share: f64) -> Self {
        self.min_ran = share;
        self
    }

    /// The history is void unless this kind of fault happened at least so often.
    #[must_use]
    pub fn at_least_faults(mut self, kind: impl Into<String>, times: u64) -> Self {
        self.min_faults.insert(kind.into(), times);
        self
    }
}
