//! What a job wants when things do not go as planned.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::Invalid;

/// What happens to ticks that nobody claimed in time, because the fleet was down, deploying, busy or cut off.
///
/// A tick that was claimed and whose run never ended is another matter: see [`Delivery`](crate::lock::Delivery).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Misfire {
    pub(crate) catch_up: CatchUp,
    pub(crate) grace: Option<Duration>,
}

/// Which of the missed ticks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CatchUp {
    /// The latest one; its run is told of the others. The default.
    Latest,
    /// Every one, the oldest first.
    All,
}

impl Default for Misfire {
    fn default() -> Self {
        Self::latest()
    }
}

impl Misfire {
    /// One run for all missed ticks: the latest, if it is not later than the grace.
    ///
    /// The grace defaults to half of the time to the next tick, at least 10 s and at most 1 h: a tick that is a little late is
    /// run, one that is almost the next one is not.
    #[must_use]
    pub const fn latest() -> Self {
        Self { catch_up: CatchUp::Latest, grace: None }
    }

    /// A run for every missed tick that is not older than `max_age`, the oldest first. An outage becomes no burst beyond that.
    #[must_use]
    pub const fn all(max_age: Duration) -> Self {
        Self { catch_up: CatchUp::All, grace: Some(max_age) }
    }

    /// How late a tick may be claimed. Larger: more is caught up after an outage. Smaller: a late run is skipped sooner.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        match self.grace {
            Some(grace) if grace.is_zero() => Err(Invalid::new(
                "misfire grace",
                "0s",
                "no tick can be claimed in no time: choose at least a second, or leave it out",
            )),
            _ => Ok(()),
        }
    }

    /// The grace of `tick`, which is followed by `next`.
    pub(crate) fn grace_of(&self, tick: Timestamp, next: Option<Timestamp>) -> Duration {
        const SHORTEST: Duration = Duration::from_secs(10);
        const LONGEST: Duration = Duration::from_secs(3600);
        self.grace.unwrap_or_else(|| {
            let period = next
                .and_then(|next| Duration::try_from(next.duration_since(tick)).ok())
                .unwrap_or(Duration::MAX);
            (period / 2).clamp(SHORTEST, LONGEST)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_grace_is_half_the_period_within_ten_seconds_and_an_hour() {
        let grace = |secs: i64| {
            Misfire::latest().grace_of(Timestamp::UNIX_EPOCH, Timestamp::from_second(secs).ok())
        };
        assert_eq!(grace(1), Duration::from_secs(10));
        assert_eq!(grace(600), Duration::from_secs(300));
        assert_eq!(grace(86_400), Duration::from_secs(3600));
        assert_eq!(
            Misfire::latest().grace_of(Timestamp::UNIX_EPOCH, None),
            Duration::from_secs(3600)
        );
    }
}
