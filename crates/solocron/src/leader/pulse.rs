//! Whether the one that a leadership is held for still moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// Beats for as long as its owner takes its turns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Looks in a row that must find no beat. After a pause of the whole process one of them does, whatever its length.
    const LOOKS: u32 = 4;

    /// Between two looks for the first beat.
    const AGAIN: Duration = Duration::from_secs(1);

    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns once it has not beaten for `limit`, and for no longer than a quarter more: the beats until then.
    pub(super) async fn stopped(&self, clock: &dyn Clock, limit: Duration) -> u64 {
        let (mut last, mut still) = (self.beats(), 0);
        while still < Self::LOOKS {
            clock.sleep(limit / Self::LOOKS).await;
            let before = std::mem::replace(&mut last, self.beats());
            still = if last == before { still + 1 } else { 0 };
        }
        last
    }

    /// Returns once it beats again, after so many beats.
    pub(super) async fn beats_again(&self, clock: &dyn Clock, after: u64) {
        while self.beats() == after {
            clock.sleep(Self::AGAIN).await;
        }
    }
}
