//! The session: one etcd lease for all locks of this process that were asked for with the same ttl.
//!
//! ```text
//!   grant(ttl + 1 s) ──► living ── beat: asked for by renewals and acquisitions, else every third of its life ──┐
//!                          │  ▲                                                                                 │
//!                          │  └─────────────────────────────────────────────────────────────────────────────────┘
//!                          ├─ no beat answered for its life     ──► over: every lock on it is lost, the lease is revoked
//!                          ├─ the server does not know it       ──► over
//!                          └─ no lock on it for a long time     ──► over: the next lock makes a new one
//! ```
//!
//! A session that is over is never revived: a new one has another lease id.
//!
//! The second that the lease lives longer than its locks: a lock that is won is good for its whole ttl from when it was asked for,
//! although the last beat was earlier. An acquisition within a second of a beat needs none of its own; any other sends one beside
//! its transaction. That second also lies between the moment a holder gives up and the moment etcd frees its keys.
//!
//! A lock that nobody renews (its run took too long, its lease was dropped) is given up when its own ttl is over, although the
//! session lives on with others: its key is deleted then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use solocron::lock::Lost;
use solocron::{BackendError, Kind, LeaseInstant};
use tokio::sync::{Notify, watch};

/// How much longer a session lives than its locks.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// One session lease.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: i64,
    /// What its locks are granted.
    pub(crate) ttl: Duration,
    /// What the server granted: more than was asked for, where its elections are slow.
    pub(crate) lives: Duration,
    vital: watch::Sender<Vital>,
    /// The latest beat that somebody waits for: nanoseconds of the lease clock.
    wanted: AtomicU64,
    pub(crate) wake: Notify,
    /// An audit failed.
    unseen: AtomicBool,
}

/// How a session is.
#[derive(Debug, Clone)]
pub(crate) struct Vital {
    /// When the last beat that was answered was sent.
    pub(crate) confirmed: LeaseInstant,
    pub(crate) over: Option<Lost>,
    failures: u64,
    trouble: Option<BackendError>,
}

impl Session {
    /// A session that was granted by a request of `sent`.
    pub(crate) fn new(id: i64, ttl: Duration, lives: Duration, sent: LeaseInstant) -> Self {
        let vital = Vital { confirmed: sent, over: None, failures: 0, trouble: None };
        Self {
            id,
            ttl,
            lives,
            vital: watch::Sender::new(vital),
            wanted: AtomicU64::new(0),
            wake: Notify::new(),
            unseen: AtomicBool::new(false),
        }
    }

    pub(crate) fn confirmed(&self) -> LeaseInstant {
        self.vital.borrow().confirmed
    }

    pub(crate) fn over(&self) -> Option<Lost> {
        self.vital.borrow().over
    }

    /// When it is over by this process's clock, whatever the server says later.
    pub(crate) fn deadline(&self) -> LeaseInstant {
        (self.confirmed() + self.lives).minus(solocron::lock::safety(self.lives))
    }

    /// Whether somebody waits for a beat.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > nanos(self.confirmed())
    }

    pub(crate) fn beat_answered(&self, sent: LeaseInstant) {
        self.vital.send_modify(|vital| vital.confirmed = vital.confirmed.max(sent));
    }

    pub(crate) fn beat_failed(&self, trouble: BackendError) {
        // Whoever waited is told; nobody waits any more.
        self.wanted.store(0, Ordering::Relaxed);
        self.vital.send_modify(|vital| {
            vital.failures += 1;
            vital.trouble = Some(trouble);
        });
    }

    /// The next beat looks at what this session keeps alive.
    pub(crate) fn look_again(&self) {
        self.unseen.store(true, Ordering::Relaxed);
    }

    /// Whether an audit failed since this was asked last.
    pub(crate) fn is_to_be_looked_at(&self) -> bool {
        self.unseen.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn end(&self, why: Lost) {
        self.vital.send_modify(|vital| vital.over = Some(vital.over.unwrap_or(why)));
        self.wake.notify_one();
    }

    /// Returns once a beat sent at `since` or later was answered, and says when that was sent. Waits for one if need be, which
    /// others may share.
    pub(crate) async fn alive_since(
        &self,
        since: LeaseInstant,
    ) -> Result<LeaseInstant, BackendError> {
        let mut vital = self.vital.subscribe();
        let failures = vital.borrow_and_update().failures;
        loop {
            {
                let vital = vital.borrow_and_update();
                if let Some(why) = vital.over {
                    return Err(is_over(why));
                }
                if vital.confirmed >= since {
                    return Ok(vital.confirmed);
                }
                if vital.failures > failures {
                    let trouble = vital.trouble.clone();
                    return Err(trouble.unwrap_or_else(|| is_over(Lost::Expired)));
                }
            }
            self.wanted.fetch_max(nanos(since), Ordering::Relaxed);
            self.wake.notify_one();
            if vital.changed().await.is_err() {
                return Err(is_over(Lost::Expired));
            }
        }
    }
}

/// The session is over before the request could make use of it.
pub(crate) fn is_over(why: Lost) -> BackendError {
    BackendError::new(Kind::Unavailable, format!("this process's session with etcd is over: {why}"))
}

fn nanos(at: LeaseInstant) -> u64 {
    u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX)
}
