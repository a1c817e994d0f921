//! The two numbers that outlive every holder.

use std::fmt;

use jiff::Timestamp;

use crate::error::Invalid;

/// A fencing token: grows with every win of a key, so that a resource can refuse an older holder.
///
/// Give it to whatever you write to, and let *that* compare: `UPDATE … SET fence = $1 WHERE id = $2 AND fence <= $1`. No lock
/// service can stop a paused process from acting late; only the resource can.
///
/// Fits 53 bits until the year 2255, so that stores which count in doubles keep it exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fence(u64);

impl Fence {
    /// Before the first win of a key.
    pub const ZERO: Self = Self(0);

    /// A fence that was stored or sent.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number, for a resource to compare.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The fence of the next win: one more, or the store's clock in microseconds if that is more. A bare counter would fall
    /// back to 1 when a store loses its data; the clock does not.
    #[must_use]
    pub fn next(self, store_now: Timestamp) -> Self {
        Self(self.0.saturating_add(1).max(u64::try_from(store_now.as_microsecond()).unwrap_or(0)))
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The nominal time of a tick, as it is kept in a store: whole milliseconds since the Unix epoch, UTC.
///
/// Never "now", never a jittered time, never local wall-clock text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(i64);

impl Mark {
    /// The mark of a tick.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where the tick is not a whole millisecond: a finer trigger is refused.
    pub fn of(tick: Timestamp) -> Result<Self, Invalid> {
        if tick.subsec_nanosecond() % 1_000_000 != 0 {
            return Err(Invalid::new("tick", tick, "ticks are whole milliseconds: round it"));
        }
        Ok(Self(tick.as_millisecond()))
    }

    /// The last whole millisecond at or before `now`.
    #[must_use]
    pub fn floor(now: Timestamp) -> Self {
        Self(now.as_nanosecond().div_euclid(1_000_000) as i64)
    }

    /// A mark that was stored or sent. Milliseconds outside of what a [`Timestamp`] can say are cut to its range.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(Timestamp::MIN.as_millisecond(), Timestamp::MAX.as_millisecond()))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The tick.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        // Not from_millisecond: in jiff 0.2 that refuses the last 999 ms of the range.
        let (seconds, millis) = (self.0.div_euclid(1000), self.0.rem_euclid(1000));
        Timestamp::new(seconds, millis as i32 * 1_000_000)
            .expect("a mark is built within the range of timestamps")
    }
}

impl From<Mark> for Timestamp {
    fn from(mark: Mark) -> Self {
        mark.timestamp()
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.timestamp(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_grows_also_when_the_clock_steps_back_or_the_data_is_lost() {
        let now = Timestamp::from_microsecond(1_000_000).unwrap();
        let first = Fence::ZERO.next(now);
        let earlier = Timestamp::from_microsecond(5).unwrap();
        assert!(first.next(earlier) > first, "clock back");
        let later = Timestamp::from_microsecond(1_000_002).unwrap();
        assert!(Fence::ZERO.next(later) > first, "data lost, clock went on");
        assert_eq!(Fence::ZERO.next(Timestamp::MIN), Fence::new(1), "a clock before 1970");
    }

    #[test]
    fn a_tick_finer_than_a_millisecond_is_refused() {
        assert!(Mark::of(Timestamp::from_microsecond(1_001).unwrap()).is_err());
        assert_eq!(Mark::of(Timestamp::from_microsecond(2_000).unwrap()).unwrap().as_millis(), 2);
        assert_eq!(Mark::floor(Timestamp::from_microsecond(-1).unwrap()).as_millis(), -1);
        assert_eq!(Mark::floor(Timestamp::MIN).timestamp(), Timestamp::MIN);
        assert!(Mark::floor(Timestamp::MAX).timestamp() <= Timestamp::MAX);
        assert!(Mark::from_millis(i64::MAX).timestamp() <= Timestamp::MAX);
    }
}
