//! At chosen instants.

use jiff::Timestamp;

use super::{Trigger, TriggerError, fingerprint};

/// A trigger that is due at one instant, or at a list of them.
///
/// # Examples
///
/// ```
/// use jiff::Timestamp;
/// use solocron::trigger::{At, Trigger};
///
/// let launch: Timestamp = "2026-03-01T09:00:00Z".parse()?;
/// let at = At::new(launch)?;
/// assert_eq!(at.next_after(Timestamp::UNIX_EPOCH), Some(launch));
/// assert_eq!(at.next_after(launch), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct At {
    /// Ascending, none twice, at least one.
    ticks: Box<[Timestamp]>,
}

impl At {
    /// Creates a trigger that is due once, at `instant`.
    ///
    /// An instant in the past is fine; what becomes of a tick that was missed is not decided here.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if `instant` is not a whole millisecond.
    pub fn new(instant: Timestamp) -> Result<Self, TriggerError> {
        Self::times([instant])
    }

    /// Creates a trigger that is due at each of `instants`, in any order; one given twice counts
    /// once.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if there is no instant, or if one is not a whole millisecond.
    pub fn times(instants: impl IntoIterator<Item = Timestamp>) -> Result<Self, TriggerError> {
        let mut ticks: Vec<_> = instants.into_iter().collect();
        if ticks.is_empty() {
            return Err(TriggerError::new("no instants given: a trigger needs at least one"));
        }
        if let Some(fine) = ticks.iter().find(|tick| tick.subsec_nanosecond() % 1_000_000 != 0) {
            return Err(TriggerError::new(format!(
                "instant {fine} is not a whole millisecond, a finer trigger is refused: round it"
            )));
        }
        ticks.sort_unstable();
        ticks.dedup();
        Ok(Self { ticks: ticks.into() })
    }
}

impl Trigger for At {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.ticks.get(self.ticks.partition_point(|tick| *tick <= after)).copied()
    }

    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.ticks[..self.ticks.partition_point(|tick| *tick <= at)].last().copied()
    }

    fn fingerprint(&self) -> u64 {
        let mut canonical = String::from("at/1");
        for tick in &self.ticks {
            canonical.push_str(&format!(" {}", tick.as_millisecond()));
        }
        fingerprint::of(&canonical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn ticks_come_in_order_whatever_the_order_given() {
        let times = At::times([at(30), at(10), at(20), at(10)]).unwrap();
        assert_eq!(times.next_after(at(9)), Some(at(10)));
        assert_eq!(times.next_after(at(10)), Some(at(20)));
        assert_eq!(times.next_after(at(30)), None);
        assert_eq!(times.last_at_or_before(at(9)), None);
        assert_eq!(times.last_at_or_before(at(29)), Some(at(20)));
        assert_eq!(times.last_at_or_before(Timestamp::MAX), Some(at(30)));
        assert_eq!(times.fingerprint(), At::times([at(10), at(20), at(30)]).unwrap().fingerprint());
    }

    #[test]
    fn a_finer_or_an_empty_list_is_refused() {
        let fine = Timestamp::from_microsecond(1_500).unwrap();
        let message = At::new(fine).unwrap_err().to_string();
        assert!(message.contains("1970-01-01T00:00:00.0015Z"), "{message}");
        assert!(At::times([]).is_err());
    }

    #[test]
    fn the_fingerprint_never_changes() {
        assert_eq!(At::new(at(1_000)).unwrap().fingerprint(), 10_437_999_424_121_311_068);
        assert_ne!(
            At::new(at(1_000)).unwrap().fingerprint(),
            At::new(at(1_001)).unwrap().fingerprint()
        );
    }
}
