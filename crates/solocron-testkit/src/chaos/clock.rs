//! A node's clock, which is wrong.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use solocron::jiff::{SignedDuration, Timestamp};
use solocron::{Clock, LeaseInstant, SystemClock};

/// The machine's clock, and how far from it this node's is.
#[derive(Debug)]
pub(super) struct Wrong(AtomicI64);

impl Wrong {
    pub(super) fn by_millis(skew: i64) -> Self {
        Self(AtomicI64::new(skew))
    }

    pub(super) fn set(&self, skew: i64) {
        self.0.store(skew, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn lease_now(&self) -> LeaseInstant {
        SystemClock.lease_now()
    }

    async fn sleep_until(&self, deadline: LeaseInstant) {
        SystemClock.sleep_until(deadline).await;
    }
}
