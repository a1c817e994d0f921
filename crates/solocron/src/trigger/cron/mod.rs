//! When the wall clock of a time zone matches a cron pattern.
//!
//! ```text
//! text ──parse──▶ Pattern (bit masks) ──search──▶ wall-clock times
//!                                                       │ dst: time zone, gaps, folds
//!                                                       ▼
//!                                                     instants
//! ```

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::error::quoted;
use super::{Trigger, TriggerError, fingerprint};

mod days;
mod dst;
mod field;
mod parse;
mod search;

pub use dst::{DstFold, DstGap};

/// A trigger that is due when the wall clock of a time zone matches a cron pattern.
///
/// A pattern has five fields, or six with the seconds first:
///
/// ```text
/// ┌──────────── second, 0-59 (may be left out: then 0)
/// │ ┌────────── minute, 0-59
/// │ │  ┌─────── hour, 0-23
/// │ │  │  ┌──── day-of-month, 1-31
/// │ │  │  │ ┌── month, 1-12 or JAN-DEC
/// │ │  │  │ │ ┌ day-of-week, 0-7 or SUN-SAT (0 and 7 are Sunday)
/// 0 30 2  * * MON-FRI
/// ```
///
/// | item | matches |
/// |---|---|
/// | `*` | every value |
/// | `?` | the same, in the two day fields |
/// | `5`, `MON` | one value |
/// | `9-17`, `22-2`, `FRI-MON` | a range; it may wrap around |
/// | `*/5`, `9-17/2`, `5/15` | every n-th value; `5/15` starts at 5 and ends with the field |
/// | `1,15,20-25` | any of the items |
/// | `L`, `L-3`, `15W`, `LW` | in day-of-month: the last day, three days before it, the weekday (Monday to Friday) nearest to the 15th in the same month, the last weekday |
/// | `MON#2`, `5L` | in day-of-week: the second Monday, the last Friday of the month |
///
/// `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight` and `@hourly` stand for a
/// whole pattern.
///
/// If both day fields are restricted, a day that matches **either** is due; if one begins with `*`
/// or is `?`, a day must match both. A pattern that no date can ever match is refused.
///
/// # Clock changes
///
/// A pattern whose minute or hour begins with `*` follows elapsed time: it is due in both passes of
/// a repeated hour, and nothing is made up for an hour that is left out. Any other pattern means
/// times of day: a time that is left out is due at the first instant after the gap, once, and a
/// time that is repeated is due at its first occurrence. [`gap`](Self::gap) and
/// [`fold`](Self::fold) choose otherwise.
///
/// # Horizon
///
/// A search ends 80 years away. The rarest patterns, such as a 29 February on a Sunday, recur
/// within 40 years, so that only [`DstGap::Skip`] and [`DstFold`] can make a search run that far;
/// it then takes up to a tenth of a millisecond.
///
/// # Examples
///
/// ```
/// use solocron::trigger::{Cron, Trigger};
///
/// let cron = Cron::parse("*/5 9-17 * * MON-FRI")?.time_zone("Europe/Berlin")?;
/// let friday_evening = "2026-01-02T17:00:00Z".parse()?;
/// assert_eq!(cron.next_after(friday_evening), Some("2026-01-05T08:00:00Z".parse()?));
///
/// let error = Cron::parse("*/5 9-25 * * *").unwrap_err();
/// assert_eq!((error.field(), error.span()), (Some("hour"), Some(6..8)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Cron {
    text: Box<str>,
    pattern: search::Pattern,
    zone: TimeZone,
    gap: Option<DstGap>,
    fold: Option<DstFold>,
    fingerprint: fingerprint::Kept,
}

impl Cron {
    /// Parses a cron pattern, to be read in UTC.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if the text is longer than 1 KiB (it is then not read at all), if a field
    /// is malformed, or if no date can ever match. The error points at the place.
    pub fn parse(pattern: &str) -> Result<Self, TriggerError> {
        let parsed = parse::pattern(pattern)?;
        let text = pattern.trim().into();
        let (zone, fingerprint) = (TimeZone::UTC, fingerprint::Kept::default());
        Ok(Self { text, pattern: parsed, zone, gap: None, fold: None, fingerprint })
    }

    /// Reads the pattern in the time zone of that IANA name, such as `Europe/Berlin`.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if the time zone database of the host has no such name, or if there is no
    /// database.
    pub fn time_zone(self, iana_name: &str) -> Result<Self, TriggerError> {
        let zone = TimeZone::get(iana_name).map_err(|source| {
            TriggerError::new(format!(
                "time zone {} is not in this host's time zone database: use an IANA name such as \
                 `Europe/Berlin`, and check that tzdata is installed",
                quoted(iana_name)
            ))
            .caused_by(source)
        })?;
        Ok(self.zone(zone))
    }

    /// Reads the pattern in `zone`.
    ///
    /// Prefer [`time_zone`](Self::time_zone): a fleet agrees on a name, while
    /// [`TimeZone::system`] may differ from host to host.
    #[must_use]
    pub fn zone(self, zone: TimeZone) -> Self {
        Self { zone, fingerprint: fingerprint::Kept::default(), ..self }
    }

    /// Chooses what becomes of a time that a clock change leaves out.
    ///
    /// If this is not called, [`DstGap::RunAfter`] holds for times of day and [`DstGap::Skip`] for
    /// a pattern whose minute or hour begins with `*`. Once it is called it holds for either.
    #[must_use]
    pub fn gap(self, gap: DstGap) -> Self {
        Self { gap: Some(gap), fingerprint: fingerprint::Kept::default(), ..self }
    }

    /// Chooses what becomes of a time that a clock change repeats.
    ///
    /// If this is not called, [`DstFold::First`] holds for times of day and [`DstFold::Both`] for
    /// a pattern whose minute or hour begins with `*`. Once it is called it holds for either.
    #[must_use]
    pub fn fold(self, fold: DstFold) -> Self {
        Self { fold: Some(fold), fingerprint: fingerprint::Kept::default(), ..self }
    }

    /// Returns the pattern as it was written, without spaces around it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether one can stand for the other in all that can be asked of it, its texts and its fingerprint too.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.key() == other.key() && self.zone == other.zone
    }

    /// What is equal for those that are [alike](Self::is_like). The zone's name counts: jiff takes two names of one zone for equal,
    /// and a fingerprint does not.
    pub(crate) fn key(&self) -> impl Hash + Eq + use<'_> {
        (&*self.text, self.zone.iana_name(), self.gap, self.fold)
    }

    fn timeline(&self) -> dst::Timeline<'_> {
        let (gap, fold) = if self.pattern.follows_elapsed_time {
            (DstGap::Skip, DstFold::Both)
        } else {
            (DstGap::RunAfter, DstFold::First)
        };
        dst::Timeline {
            pattern: &self.pattern,
            zone: &self.zone,
            gap: self.gap.unwrap_or(gap),
            fold: self.fold.unwrap_or(fold),
        }
    }
}

impl Trigger for Cron {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.timeline().next_after(after)
    }

    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.timeline().last_at_or_before(at)
    }

    /// As [`Trigger::fingerprint`]; two spellings of one pattern have the same.
    ///
    /// A zone counts by its IANA name, so that two names of one zone differ. One without a name
    /// counts by its offset or by its clock changes from 2000 to 2040.
    fn fingerprint(&self) -> u64 {
        self.fingerprint.get_or_init(|| {
            let dst::Timeline { pattern, zone, gap, fold } = self.timeline();
            let zone = dst::zone_identity(zone);
            fingerprint::of(&format!(
                "cron/1 {} gap={gap:?} fold={fold:?} zone={zone}",
                pattern.canonical()
            ))
        })
    }
}

impl FromStr for Cron {
    type Err = TriggerError;

    fn from_str(pattern: &str) -> Result<Self, TriggerError> {
        Self::parse(pattern)
    }
}

/// The pattern and, unless it is UTC, the time zone: `30 2 * * * (Europe/Berlin)`.
impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.zone == TimeZone::UTC {
            return Ok(());
        }
        match (self.zone.iana_name(), self.zone.to_fixed_offset()) {
            (Some(name), _) => write!(f, " ({name})"),
            (None, Ok(offset)) => write!(f, " ({offset})"),
            (None, Err(_)) => f.write_str(" (zone without a name)"),
        }
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, zone, gap, fold, pattern: _, fingerprint: _ } = self;
        let mut debug = f.debug_struct("Cron");
        debug.field("pattern", text).field("zone", zone);
        // The masks say nothing that the text does not.
        debug.field("gap", gap).field("fold", fold).finish_non_exhaustive()
    }
}
