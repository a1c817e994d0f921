//! The arithmetic of a lease: pure, and the same for every backend.
//!
//! ```text
//!  sent          renew_at                     warn_at   deadline   sent + ttl
//!   │───────────────┼────────────────────────────┼─────────┼──────────┼────► lease clock
//!   │◄── ttl / 3 ──►│                            │◄ notice►│◄ safety ►│
//!   the request     renew; after a failure       the job   lost here, the store may
//!   leaves          sooner, until the deadline   is told   whatever   grant it to
//!                                                          comes      somebody else
//! ```
//!
//! The store starts its ttl when the request arrives, which is after it was sent: its expiry is later than our deadline unless the
//! two clocks' *rates* differ by more than the safety margin, 1 % of the ttl, plus 2 ms for the millisecond grain of a store's
//! expiry. That is Redlock's rule ("Distributed Locks with Redis", redis.io). What it cannot cover is a pause between a check and
//! a write: only a fence compared by the resource does.

use std::time::Duration;

use super::backend::Validity;
use super::options::Timing;
use crate::clock::LeaseInstant;

/// The instants of one lease. [`LeaseInstant::NEVER`] where a process-bound lease has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// When to renew (or, for a process-bound lease, to verify).
    pub renew_at: LeaseInstant,
    /// When the job is told to stop.
    pub warn_at: LeaseInstant,
    /// When the lease is over here.
    pub deadline: LeaseInstant,
}

impl Term {
    /// The term of a lease of this validity.
    #[must_use]
    pub fn of(validity: Validity, timing: &Timing, now: LeaseInstant) -> Self {
        match validity {
            Validity::ProcessBound => Self {
                renew_at: now + timing.verify_every,
                warn_at: LeaseInstant::NEVER,
                deadline: LeaseInstant::NEVER,
            },
            Validity::Until { since, ttl } => {
                let deadline = (since + ttl).minus(safety(ttl));
                // A store may grant less than was asked for: every part of the term shrinks alike.
                let share = |part: Duration| {
                    part.mul_f64((ttl.as_secs_f64() / timing.ttl.as_secs_f64()).min(1.0))
                };
                Self {
                    renew_at: since + share(timing.renew_every),
                    warn_at: deadline.minus(share(timing.notice)),
                    deadline,
                }
            }
        }
    }
}

/// What is cut from the end of a lease of `ttl`: 1 % for clocks that run at different rates, and 2 ms for a store's grain.
#[must_use]
pub fn safety(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lock::LockOptions;

    fn at(ms: u64) -> LeaseInstant {
        LeaseInstant::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn the_deadline_counts_from_before_the_request_was_sent() {
        let timing = LockOptions::default().ttl(Duration::from_secs(10)).timing().unwrap();
        let validity = Validity::Until { since: at(1_000), ttl: Duration::from_secs(10) };
        // The answer came two seconds later; that changes nothing.
        let term = Term::of(validity, &timing, at(3_000));
        assert_eq!(term.deadline, at(1_000 + 10_000 - 100 - 2));
        assert_eq!(term.warn_at, at(1_000 + 10_000 - 102 - 1_000));
        assert_eq!(term.renew_at.saturating_since(at(1_000)).as_millis(), 3_333);
    }

    #[test]
    fn a_process_bound_lease_has_no_deadline_and_is_verified() {
        let timing = LockOptions::default().timing().unwrap();
        let term = Term::of(Validity::ProcessBound, &timing, at(500));
        assert_eq!((term.deadline, term.warn_at), (LeaseInstant::NEVER, LeaseInstant::NEVER));
        assert_eq!(term.renew_at, at(500) + timing.verify_every);
    }

    proptest! {
        #[test]
        fn renewal_comes_before_warning_before_deadline_before_expiry(sent in 0u64..1 << 40, ttl_ms in 100u64..1 << 30) {
            let ttl = Duration::from_millis(ttl_ms);
            let timing = LockOptions::default().ttl(ttl).timing().unwrap();
            let term = Term::of(Validity::Until { since: at(sent), ttl }, &timing, at(sent));
            prop_assert!(at(sent) < term.renew_at && term.renew_at < term.warn_at);
            prop_assert!(term.warn_at < term.deadline && term.deadline < at(sent) + ttl);
        }

        #[test]
        fn a_shorter_grant_keeps_the_order(ttl_ms in 1_000u64..100_000, share in 1u64..100) {
            let ttl = Duration::from_millis(ttl_ms);
            let timing = LockOptions::default().ttl(ttl).timing().unwrap();
            let granted = (ttl * share as u32 / 100).max(Duration::from_millis(100));
            let term = Term::of(Validity::Until { since: at(0), ttl: granted }, &timing, at(0));
            prop_assert!(term.renew_at < term.warn_at && term.warn_at < term.deadline);
        }
    }
}
