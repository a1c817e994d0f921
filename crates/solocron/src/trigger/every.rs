//! At a fixed interval.

use std::time::Duration;

use jiff::Timestamp;

use super::{Trigger, TriggerError, fingerprint};

/// The longest interval: a hundred years of 365.25 days, in milliseconds.
const LONGEST_MS: i64 = 36_525 * 86_400_000;

/// A trigger that is due each time an interval has passed.
///
/// The ticks are the multiples of the interval since the Unix epoch, 1970-01-01T00:00:00Z, not
/// since a process started: that is how all replicas, and the next release, agree on them. An
/// interval that divides a day therefore starts anew at midnight UTC. A clock change of a time
/// zone does not matter; for "at half past two in Berlin" use [`Cron`](super::Cron).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use solocron::trigger::{Every, Trigger};
///
/// let every = Every::new(Duration::from_secs(3600))?.offset(Duration::from_secs(300))?;
/// let tick = every.next_after("2026-01-01T10:20:30Z".parse()?);
/// assert_eq!(tick, Some("2026-01-01T11:05:00Z".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Every {
    interval_ms: i64,
    /// In `0..interval_ms`.
    offset_ms: i64,
}

impl Every {
    /// Creates a trigger that is due at each multiple of `interval` since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if `interval` is zero, not a whole number of milliseconds, or longer than
    /// a hundred years.
    pub fn new(interval: Duration) -> Result<Self, TriggerError> {
        let refused = |why: &str| Err(TriggerError::new(format!("interval {interval:?} {why}")));
        if interval.is_zero() {
            return refused("never passes: choose at least 1ms");
        }
        if !is_whole_ms(interval) {
            return refused(
                "is not a whole number of milliseconds, a finer trigger is refused: round it",
            );
        }
        match i64::try_from(interval.as_millis()) {
            Ok(interval_ms @ ..=LONGEST_MS) => Ok(Self { interval_ms, offset_ms: 0 }),
            _ => refused("is longer than 100 years: use `At` for instants that rare"),
        }
    }

    /// Moves all ticks later by `offset`, to spread jobs of one interval.
    ///
    /// An offset longer than the interval counts modulo the interval: ticks have no first one.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if `offset` is not a whole number of milliseconds.
    pub fn offset(self, offset: Duration) -> Result<Self, TriggerError> {
        if !is_whole_ms(offset) {
            return Err(TriggerError::new(format!(
                "offset {offset:?} is not a whole number of milliseconds: round it"
            )));
        }
        let phase = offset.as_millis() % u128::from(self.interval_ms.unsigned_abs());
        Ok(Self { offset_ms: phase as i64, ..self })
    }

    /// The number of the last tick at or before `at`, counted from the epoch.
    fn number(&self, at: Timestamp) -> i64 {
        // Rounds down, before the epoch too: a tick is reached when all of its millisecond is.
        let ms = at.as_nanosecond().div_euclid(1_000_000) as i64;
        (ms - self.offset_ms).div_euclid(self.interval_ms)
    }

    /// The tick of that number, if a timestamp can hold it.
    fn tick(&self, number: i64) -> Option<Timestamp> {
        let ms = number.checked_mul(self.interval_ms)?.checked_add(self.offset_ms)?;
        // `Timestamp::from_millisecond` refuses the last second that a timestamp can hold.
        Timestamp::new(ms.div_euclid(1_000), ms.rem_euclid(1_000) as i32 * 1_000_000).ok()
    }
}

impl Trigger for Every {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.tick(self.number(after) + 1)
    }

    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.tick(self.number(at))
    }

    fn fingerprint(&self) -> u64 {
        let Self { interval_ms, offset_ms } = self;
        fingerprint::of(&format!("every/1 interval_ms={interval_ms} offset_ms={offset_ms}"))
    }
}

fn is_whole_ms(duration: Duration) -> bool {
    duration.subsec_nanos().is_multiple_of(1_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn ticks_are_anchored_to_the_epoch() {
        let every = Every::new(Duration::from_secs(7)).unwrap();
        assert_eq!(every.next_after(Timestamp::UNIX_EPOCH), Some(at("1970-01-01T00:00:07Z")));
        assert_eq!(every.last_at_or_before(Timestamp::UNIX_EPOCH), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(
            every.next_after(at("1969-12-31T23:59:52.9Z")),
            Some(at("1969-12-31T23:59:53Z"))
        );
        assert_eq!(
            every.last_at_or_before(at("1969-12-31T23:59:52.9999Z")),
            Some(at("1969-12-31T23:59:46Z"))
        );
    }

    #[test]
    fn an_offset_counts_modulo_the_interval() {
        let every = Every::new(Duration::from_secs(60)).unwrap();
        let (short, long) = (Duration::from_secs(5), Duration::from_secs(605));
        assert_eq!(every.offset(short).unwrap(), every.offset(long).unwrap());
        assert_ne!(every.offset(short).unwrap().fingerprint(), every.fingerprint());
    }

    #[test]
    fn an_interval_that_cannot_be_kept_is_refused_with_its_value() {
        for (interval, word) in [
            (Duration::ZERO, "0ns never passes"),
            (Duration::from_micros(1500), "1.5ms is not a whole number"),
            (Duration::from_nanos(1), "a finer trigger is refused"),
            (Duration::from_secs(4_000_000_000), "longer than 100 years"),
            (Duration::from_secs(u64::MAX), "longer than 100 years"),
        ] {
            let message = Every::new(interval).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        let every = Every::new(Duration::from_millis(1)).unwrap();
        assert!(every.offset(Duration::from_micros(1)).is_err());
    }

    #[test]
    fn the_ends_of_time_are_an_end_and_no_panic() {
        for interval in [1, 1_000, 86_400_000, LONGEST_MS as u64] {
            let every = Every::new(Duration::from_millis(interval)).unwrap();
            let every = every.offset(Duration::from_millis(interval - 1)).unwrap();
            assert_eq!(every.next_after(Timestamp::MAX), None);
            assert!(every.last_at_or_before(Timestamp::MAX).is_some());
            assert!(every.next_after(Timestamp::MIN).is_some());
            assert!(
                every.last_at_or_before(Timestamp::MIN).is_none_or(|tick| tick == Timestamp::MIN)
            );
        }
    }

    #[test]
    fn the_fingerprint_never_changes() {
        let every = Every::new(Duration::from_secs(60)).unwrap();
        assert_eq!(every.fingerprint(), 2_269_890_534_884_627_731);
    }

    proptest! {
        #[test]
        fn the_last_tick_is_the_inverse_of_the_next_one(
            interval in 1..10_000_000_000_i64.min(LONGEST_MS),
            offset in 0..10_000_000_000_u64,
            ns in -100_000_000_000_000_000_000_i128..100_000_000_000_000_000_000,
        ) {
            let every = Every::new(Duration::from_millis(interval as u64)).unwrap();
            let every = every.offset(Duration::from_millis(offset)).unwrap();
            let t = Timestamp::from_nanosecond(ns).unwrap();
            let (last, next) = (every.last_at_or_before(t).unwrap(), every.next_after(t).unwrap());
            prop_assert!(last <= t && t < next);
            prop_assert_eq!(next.as_millisecond() - last.as_millisecond(), interval);
            prop_assert_eq!(every.next_after(last), Some(next));
            prop_assert_eq!(every.last_at_or_before(next), Some(next));
        }
    }
}
