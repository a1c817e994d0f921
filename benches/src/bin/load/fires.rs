//! Fires as they start: which tick of which job, how late, and whether it was the first time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use solocron_benches::Samples;
use tokio::sync::Notify;

use crate::process::{cpu, since_epoch};

/// The fires of some jobs at some ticks.
#[derive(Clone)]
pub(crate) struct Fires(Arc<Inner>);

struct Inner {
    first: Duration,
    period: Duration,
    jobs: usize,
    /// How late each tick of each job began, in microseconds.
    late: Vec<AtomicU32>,
    ran: AtomicU64,
    twice: AtomicU64,
    all_ran: Notify,
}

/// Of a fire that was not yet.
const NOT_YET: u32 = u32::MAX;

impl Fires {
    /// `ticks` of each of `jobs`: at `first` since the epoch, and after each `period`.
    pub(crate) fn new(jobs: usize, first: Duration, period: Duration, ticks: usize) -> Self {
        let late = (0..jobs * ticks).map(|_| AtomicU32::new(NOT_YET)).collect();
        let (ran, twice, all_ran) = (AtomicU64::new(0), AtomicU64::new(0), Notify::new());
        Self(Arc::new(Inner { first, period, jobs, late, ran, twice, all_ran }))
    }

    pub(crate) fn first(&self) -> Duration {
        self.0.first
    }

    pub(crate) fn period(&self) -> Duration {
        self.0.period
    }

    pub(crate) fn jobs(&self) -> usize {
        self.0.jobs
    }

    /// All of them.
    pub(crate) fn due(&self) -> u64 {
        self.0.late.len() as u64
    }

    /// Whether each job is due only once.
    pub(crate) fn is_once(&self) -> bool {
        self.0.late.len() == self.0.jobs
    }

    /// The last tick.
    pub(crate) fn last(&self) -> Duration {
        let ticks = self.0.late.len() / self.0.jobs;
        self.0.first + self.0.period * u32::try_from(ticks - 1).unwrap_or(0)
    }

    /// The run of that tick of that job begins. Ticks before the first and after the last do not count.
    pub(crate) fn fired(&self, job: usize, tick: Duration) {
        let Inner { first, period, jobs, late, ran, twice, all_ran } = &*self.0;
        let now = since_epoch();
        let Some(since) = tick.checked_sub(*first) else { return };
        let at = usize::try_from(since.as_nanos() / period.as_nanos()).unwrap_or(usize::MAX);
        let Some(slot) = at.checked_mul(*jobs).and_then(|row| late.get(row + job)) else { return };
        let micros = now.saturating_sub(tick).as_micros();
        let micros = u32::try_from(micros).unwrap_or(NOT_YET).min(NOT_YET - 1);
        if slot.swap(micros, Ordering::Relaxed) != NOT_YET {
            twice.fetch_add(1, Ordering::Relaxed);
        } else if ran.fetch_add(1, Ordering::Relaxed) + 1 == late.len() as u64 {
            all_ran.notify_one();
        }
    }

    /// As [`fired`](Self::fired), of a subject that does not say for which tick: the last one that was due. One that is later than a
    /// period is then taken for the next.
    pub(crate) fn fired_untold(&self, job: usize) {
        let Inner { first, period, .. } = &*self.0;
        let since = since_epoch().saturating_sub(*first);
        let whole = since.as_nanos() / period.as_nanos();
        self.fired(job, *first + *period * u32::try_from(whole).unwrap_or(u32::MAX));
    }

    /// Waits for all fires, or until long after the last was due; then says what happened. `told`: the subject says which tick it runs.
    pub(crate) async fn watch(&self, told: bool) -> Value {
        const EARLIER: Duration = Duration::from_millis(200);
        /// How long after the last tick a fire still counts as run, late as it is.
        const PATIENCE: Duration = Duration::from_secs(15);
        let ready = since_epoch() + EARLIER < self.first();
        tokio::time::sleep(self.first().saturating_sub(since_epoch() + EARLIER)).await;
        let before = cpu();
        let patience = self.last().saturating_sub(since_epoch()) + PATIENCE;
        // Whether it ended or not is seen from the count.
        let _ = tokio::time::timeout(patience, self.0.all_ran.notified()).await;
        // What a run leaves to do when it ends is part of its cost.
        tokio::time::sleep(EARLIER).await;
        let cpu = cpu() - before;
        let late = self.0.late.iter().map(|late| late.load(Ordering::Relaxed));
        let late = late.filter(|late| *late != NOT_YET).map(|late| f64::from(late) / 1000.0);
        let late: Samples = late.collect();
        let ran = self.0.ran.load(Ordering::Relaxed);
        let twice = self.0.twice.load(Ordering::Relaxed);
        json!({
            "due": self.due(), "ran": ran, "twice": if told { twice } else { 0 }, "ready": ready,
            "p50_ms": late.quantile(0.5), "p99_ms": late.quantile(0.99), "max_ms": late.quantile(1.0),
            "cpu_us_per_fire": cpu.as_secs_f64() * 1e6 / ran.max(1) as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires() -> Fires {
        Fires::new(2, Duration::from_secs(100), Duration::from_secs(1), 3)
    }

    #[tokio::test]
    async fn each_tick_of_each_job_counts_once_and_others_not_at_all() {
        let fires = fires();
        for tick in 99..105 {
            fires.fired(0, Duration::from_secs(tick));
            fires.fired(1, Duration::from_secs(tick));
        }
        let figures = fires.watch(true).await;
        assert_eq!((&figures["due"], &figures["ran"]), (&json!(6), &json!(6)));
        assert_eq!(figures["twice"], 0);
        assert_eq!(figures["ready"], false, "it was told of its ticks after they were due");
    }

    #[tokio::test]
    async fn a_fire_that_happens_twice_is_seen() {
        let fires = fires();
        (0..2).for_each(|_| fires.fired(1, Duration::from_secs(101)));
        assert_eq!(fires.0.twice.load(Ordering::Relaxed), 1);
        assert_eq!(fires.0.ran.load(Ordering::Relaxed), 1);
    }
}
