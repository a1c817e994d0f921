//! Clocks on virtual time.

use std::cell::Cell;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use solocron::{Clock, LeaseInstant};
use tokio::time::Instant;

/// The wall clock when a simulation begins, in Unix milliseconds.
pub(super) const WALL_MS: i64 = 1_790_000_000_000;

/// The clocks of one machine: wall time that is wrong by a constant, and lease time with an origin of its own.
#[derive(Debug)]
pub(super) struct SimClock {
    skew_ms: i64,
    origin: Duration,
}

impl SimClock {
    pub(super) fn new(skew_ms: i64, origin: Duration) -> Self {
        Self { skew_ms, origin }
    }
}

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Virtual time begins now.
pub(super) fn begin() {
    BEGUN.set(Some(Instant::now()));
}

/// Virtual time since it began.
pub(super) fn elapsed() -> Duration {
    let now = Instant::now();
    now - BEGUN.get().unwrap_or(now)
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let ms = WALL_MS + elapsed().as_millis() as i64 + self.skew_ms;
        Timestamp::from_millisecond(ms).expect("an hour in this century")
    }

    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_origin(self.origin + elapsed())
    }

    async fn sleep_until(&self, deadline: LeaseInstant) {
        let left = deadline.saturating_since(self.lease_now());
        if !left.is_zero() {
            // Nobody waits for longer than the simulation lasts.
            tokio::time::sleep(left.min(super::LASTS * 10)).await;
        }
    }
}
