//! How long a campaign waits, and when it says that something is wrong: pure.

use std::time::Duration;

use crate::clock::LeaseInstant;
use crate::error::BackendError;
use crate::lock::Lost;

/// What one elector remembers of its last attempts.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Failures in a row.
    failures: u32,
    /// This trouble was told of.
    told: bool,
    /// When trouble was told of last.
    told_at: Option<LeaseInstant>,
    /// Attempts in a row that found the lock taken, where nobody pushes.
    polls: u32,
    /// Terms in a row that were lost before they had lasted for a ttl.
    brief: u32,
}

impl Pace {
    /// After stepping down: a pushed waiter needs milliseconds, one that polls [`LONGEST_POLL`](Self::LONGEST_POLL) and a request.
    pub(super) const HOLD_OFF: Duration = Duration::from_secs(1);

    /// A pushed wake-up can be lost with its connection, so no wait is endless.
    const LONGEST: Duration = Duration::from_secs(5);
    const LONGEST_POLL: Duration = Duration::from_millis(250);

    /// Trouble is told of no more often.
    const BETWEEN_NEWS: Duration = Duration::from_secs(5);

    /// Somebody has the lock, for `remaining` if that is known: the longest wait before the next attempt.
    pub(super) fn busy(&mut self, remaining: Option<Duration>, pushes: bool) -> Duration {
        (self.failures, self.told) = (0, false);
        // A store's expiry has a grain of a millisecond.
        let ends = remaining.map_or(Self::LONGEST, |left| left + Duration::from_millis(1));
        let wait = ends.min(Self::LONGEST);
        if pushes {
            self.polls = 0;
            return wait;
        }
        self.polls = (self.polls + 1).min(16);
        wait.min(doubled(Duration::from_millis(5), self.polls - 1, Self::LONGEST_POLL))
    }

    /// Nobody knows who has it: how long to wait, and whether that is news. A store that fails now and then is none each time: nobody
    /// may be reading.
    pub(super) fn failed(&mut self, error: &BackendError, now: LeaseInstant) -> (Duration, bool) {
        let mendable = error.kind().is_transient();
        let lately =
            self.told_at.is_some_and(|told_at| now.saturating_since(told_at) < Self::BETWEEN_NEWS);
        let news = !(lately || (self.told && mendable));
        if news {
            (self.told, self.told_at) = (true, Some(now));
        }
        self.failures = (self.failures + 1).min(16);
        let wait = if mendable {
            let backoff = doubled(Duration::from_millis(50), self.failures - 1, Self::LONGEST);
            let told = error.retry_after();
            told.map_or(backoff, |after| after.clamp(Duration::from_millis(1), Self::LONGEST))
        } else {
            Self::LONGEST * 2 // only a person can mend that
        };
        (wait, news)
    }

    /// The lock is mine.
    pub(super) fn won(&mut self) {
        (self.failures, self.polls, self.told) = (0, 0, false);
    }

    /// A term is over that `lasted` that long: the pause before the next campaign.
    pub(super) fn lost(&mut self, why: Lost, lasted: Duration, ttl: Duration) -> Duration {
        if why == Lost::MaxRuntime {
            self.brief = 0;
            return Self::HOLD_OFF; // it was ended on purpose: somebody else's turn
        }
        if lasted >= ttl {
            self.brief = 0;
            return Duration::ZERO;
        }
        self.brief = (self.brief + 1).min(16);
        match self.brief {
            1 => Duration::ZERO,
            terms => doubled(Duration::from_millis(50), terms - 2, Self::LONGEST),
        }
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const TTL: Duration = Duration::from_secs(15);

    fn at(ms: u64) -> LeaseInstant {
        LeaseInstant::from_origin(MS(ms))
    }

    #[test]
    fn a_failing_store_is_asked_less_and_less_and_told_of_once() {
        let (mut pace, error) = (Pace::default(), BackendError::new(Kind::Unavailable, "down"));
        let told: Vec<_> = (0..10).map(|n| pace.failed(&error, at(n * 10_000))).collect();
        assert_eq!(told[0], (MS(50), true));
        assert_eq!(told[1], (MS(100), false));
        assert_eq!(told[9], (Pace::LONGEST, false));
        assert!(told.is_sorted_by_key(|(wait, _)| *wait));
        pace.busy(None, true);
        assert_eq!(
            pace.failed(&error, at(200_000)),
            (MS(50), true),
            "an answer in between begins anew"
        );
    }

    #[test]
    fn a_store_that_fails_now_and_then_is_told_of_once_in_five_seconds() {
        let (mut pace, error) = (Pace::default(), BackendError::new(Kind::Unavailable, "down"));
        let mut told = Vec::new();
        for n in 0..200 {
            pace.busy(None, true);
            if pace.failed(&error, at(n * 100)).1 {
                told.push(n * 100);
            }
        }
        assert_eq!(told, [0, 5_000, 10_000, 15_000]);
        // One that begins too early to be told, and lasts, is told later.
        pace.busy(None, true);
        assert!(!pace.failed(&error, at(19_950)).1);
        assert!(pace.failed(&error, at(20_000)).1 && !pace.failed(&error, at(30_000)).1);
    }

    #[test]
    fn a_store_that_knows_when_is_asked_then() {
        let mut pace = Pace::default();
        let recovering = BackendError::new(Kind::Recovering, "grace").after(MS(700));
        assert_eq!(pace.failed(&recovering, at(0)).0, MS(700));
    }

    #[test]
    fn what_a_person_must_mend_is_asked_seldom_and_told_each_time() {
        let (mut pace, error) = (Pace::default(), BackendError::new(Kind::Denied, "password"));
        for n in 0..3 {
            assert_eq!(pace.failed(&error, at(n * 10_000)), (Pace::LONGEST * 2, true));
        }
    }

    #[test]
    fn a_held_lock_is_asked_for_when_its_lease_ends_and_no_wait_is_endless() {
        let mut pace = Pace::default();
        assert_eq!(pace.busy(Some(MS(300)), true), MS(301));
        assert_eq!(pace.busy(None, true), Pace::LONGEST);
        assert_eq!(pace.busy(Some(Duration::MAX / 2), true), Pace::LONGEST);
    }

    #[test]
    fn without_a_push_the_lock_is_polled_and_the_hold_off_outlasts_a_poll() {
        let mut pace = Pace::default();
        let polls: Vec<_> = (0..20).map(|_| pace.busy(None, false)).collect();
        assert_eq!(polls[0], MS(5));
        assert_eq!(polls[19], Pace::LONGEST_POLL);
        assert!(Pace::HOLD_OFF >= Pace::LONGEST_POLL * 3);
    }

    #[test]
    fn terms_that_are_lost_at_once_are_paced_and_a_good_one_forgives() {
        let mut pace = Pace::default();
        let pauses: Vec<_> = (0..12).map(|_| pace.lost(Lost::TakenOver, MS(10), TTL)).collect();
        assert_eq!(pauses[..3], [Duration::ZERO, MS(50), MS(100)]);
        assert_eq!(pauses[11], Pace::LONGEST);
        assert_eq!(pace.lost(Lost::Expired, TTL, TTL), Duration::ZERO);
        assert_eq!(pace.lost(Lost::Expired, MS(10), TTL), Duration::ZERO);
        assert_eq!(pace.lost(Lost::MaxRuntime, MS(10), TTL), Pace::HOLD_OFF);
    }
}
