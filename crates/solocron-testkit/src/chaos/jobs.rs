//! What the nodes run.

use std::ops::Range;
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::Delivery;

/// How often an unfinished tick of the at-least-once job is tried. More than there are faults in a row.
pub(super) const ATTEMPTS: u32 = 8;

/// A job of every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobSpec {
    pub(super) name: &'static str,
    /// Due at every multiple of this since the epoch.
    pub(super) period_ms: i64,
    /// How long a run takes.
    pub(super) run_ms: Range<u64>,
    /// Whether every tick shall be run, or the latest of those that are late.
    pub(super) all: bool,
    pub(super) delivery: Delivery,
}

/// The jobs, where leases live for `ttl`.
pub(super) fn jobs(ttl: Duration) -> Vec<JobSpec> {
    let long = ttl.as_millis() as u64 * 3 / 2;
    let job = |name, period_ms, run_ms, all| JobSpec {
        name,
        period_ms,
        run_ms,
        all,
        delivery: Delivery::AtMostOnce,
    };
    vec![
        // Ends at once: whoever keeps no mark runs it twice.
        job("brief", 200, 0..1, true),
        job(STEADY, 400, 50..200, true),
        JobSpec {
            delivery: Delivery::AtLeastOnce { max_attempts: ATTEMPTS },
            ..job("again", 500, 50..150, false)
        },
        // Lives by its renewals.
        job("long", (long as i64 * 3 / 100 + 1) * 100, long..long + 1, false),
    ]
}

/// The job whose holders are killed.
pub(super) const STEADY: &str = "steady";

/// How late a tick may be claimed, where leases live for `ttl`: a dead holder's lease, and some time to catch up.
pub(super) fn grace(ttl: Duration) -> Duration {
    ttl * 2 + Duration::from_secs(3)
}

impl JobSpec {
    pub(super) fn is_at_most_once(&self) -> bool {
        self.delivery == Delivery::AtMostOnce
    }

    /// The ticks after `after` up to `to`, in Unix milliseconds, by a reckoning that is not the library's.
    pub(super) fn ticks(&self, after: i64, to: i64) -> impl Iterator<Item = i64> + use<> {
        let period = self.period_ms;
        let first = after.div_euclid(period) + 1;
        (first..).map(move |n| n * period).take_while(move |tick| *tick <= to)
    }

    /// How long this run takes, the same on every node.
    pub(super) fn length(&self, tick: Timestamp) -> Duration {
        let mut dice = crate::Dice::new(tick.as_millisecond().unsigned_abs());
        let Range { start, end } = self.run_ms;
        Duration::from_millis(start + dice.below(end - start))
    }
}
