//! Stopping a scheduler.

use tokio_util::sync::CancellationToken;

/// Stops a [`Scheduler`](crate::Scheduler). Clones stop the same one.
#[derive(Debug, Clone, Default)]
pub struct Stopper {
    soon: CancellationToken,
    now: CancellationToken,
}

impl Stopper {
    /// No new claims; runs may end until the drain time is over. Called a second time, it is immediate.
    pub fn stop(&self) {
        if self.soon.is_cancelled() {
            self.now.cancel();
        }
        self.soon.cancel();
    }

    pub(super) fn soon(&self) -> &CancellationToken {
        &self.soon
    }

    pub(super) fn now(&self) -> &CancellationToken {
        &self.now
    }
}
