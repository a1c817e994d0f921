//! From wall-clock times to instants: gaps, folds and what becomes of the times in them.
//!
//! A clock change ends one *period* of a constant offset from UTC and begins another. If the
//! clock goes forward, some wall-clock times exist in neither (a gap); if it goes back, some exist
//! in both (a fold).
//!
//! ```text
//!   gap:   ──01:59:59┃03:00:00──▶        fold:  ──01:00 … 01:59┃01:00 … 01:59──▶
//!            period  ┃ period                     first pass   ┃ second pass
//! ```
//!
//! The ticks are defined period by period: the matches in it, less those that the fold rule drops,
//! plus the first instant of the period if a match was left out right before it and the gap rule
//! wants it. Nearly every search is far from any clock change and needs no period: one conversion
//! each way, and a check that both ends are unambiguous. That is sound as long as clock changes are
//! further apart than they are long, which holds for the whole time zone database (they are days
//! apart, see the test `clock_changes_are_days_apart`).

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use super::search::{Backward, Direction, Forward, HORIZON_YEARS, Pattern};

/// What becomes of a time of day that does not exist because the clock goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DstGap {
    /// It is due at the first instant after the gap. Several times in one gap are due once.
    RunAfter,
    /// It is not due on that day.
    Skip,
}

/// What becomes of a time of day that occurs twice because the clock goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DstFold {
    /// It is due at its first occurrence.
    First,
    /// It is due at its second occurrence.
    Last,
    /// It is due at both.
    Both,
}

const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The ticks of a pattern in a time zone.
#[derive(Debug)]
pub(super) struct Timeline<'a> {
    pub(super) pattern: &'a Pattern,
    pub(super) zone: &'a TimeZone,
    pub(super) gap: DstGap,
    pub(super) fold: DstFold,
}

impl Timeline<'_> {
    pub(super) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        // Ticks are whole seconds, so that strictly after means: from the next second on.
        self.find::<Forward>(whole_second(after).checked_add(SECOND).ok()?)
    }

    pub(super) fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.find::<Backward>(whole_second(at))
    }

    /// The first tick at or behind `from`.
    fn find<D: Direction>(&self, from: Timestamp) -> Option<Timestamp> {
        if let Ok(offset) = self.zone.to_fixed_offset() {
            return offset.to_timestamp(self.pattern.find::<D>(offset.to_datetime(from))?).ok();
        }
        let horizon_s = i64::from(HORIZON_YEARS) * 366 * 86_400;
        let mut at = from;
        while (at.as_second() - from.as_second()).abs() <= horizon_s {
            let offset = self.zone.to_offset(at);
            let near_change = self.is_near_change::<D>(offset, at);
            let found = self.pattern.find::<D>(offset.to_datetime(at));
            if !near_change {
                let found = found?;
                let ambiguous = self.zone.to_ambiguous_timestamp(found).offset();
                let (before, after) = match ambiguous {
                    AmbiguousOffset::Unambiguous { offset } => (offset, offset),
                    AmbiguousOffset::Gap { before, after }
                    | AmbiguousOffset::Fold { before, after } => (before, after),
                };
                let first = if D::FORWARD { before.max(after) } else { before.min(after) };
                let first = first.to_timestamp(found).ok()?;
                // It always is, unless changes overlap, as only a made-up zone's do.
                let is_behind = if D::FORWARD { first >= at } else { first <= at };
                if is_behind && before == after {
                    return Some(first);
                }
                // Nothing matches up to the period in which `found` can be met first.
                at = if is_behind { first } else { at };
            }
            let period = Period::around(self.zone, at);
            if let Some(tick) = self.find_in::<D>(&period, at) {
                return Some(tick);
            }
            at = if D::FORWARD { period.end? } else { period.start?.checked_sub(SECOND).ok()? };
        }
        None
    }

    /// Whether a tick may lie behind `at` although its wall-clock time does not.
    ///
    /// That is so in a fold, and at the very end of a gap. The end is where only the second
    /// before is in the gap; as a fold begins one second later that way, looking one second back
    /// serves for both when searching forward.
    fn is_near_change<D: Direction>(&self, offset: Offset, at: Timestamp) -> bool {
        let probe = if D::FORWARD { at.saturating_sub(SECOND).unwrap_or(at) } else { at };
        let local = offset.to_datetime(probe);
        !matches!(
            self.zone.to_ambiguous_timestamp(local).offset(),
            AmbiguousOffset::Unambiguous { .. }
        )
    }

    /// The first tick of `period` at or behind `at`, which lies in it.
    fn find_in<D: Direction>(&self, period: &Period, at: Timestamp) -> Option<Timestamp> {
        let caught_up = period.start.filter(|_| self.catches_up(period));
        if D::FORWARD && caught_up == Some(at) {
            return caught_up;
        }
        let (first, last) = self.admitted(period);
        let local = period.offset.to_datetime(at);
        let from = if D::FORWARD { local.max(first) } else { local.min(last) };
        match self.pattern.find::<D>(from) {
            Some(found) if (first..=last).contains(&found) => {
                period.offset.to_timestamp(found).ok()
            }
            _ if D::FORWARD => None,
            _ => caught_up,
        }
    }

    /// The first and the last wall-clock time of `period` that the fold rule admits.
    fn admitted(&self, period: &Period) -> (DateTime, DateTime) {
        let (mut first, mut last) = (DateTime::MIN, DateTime::MAX);
        if let Some(start) = period.start {
            first = period.offset.to_datetime(start);
            if self.fold == DstFold::First && period.before > period.offset {
                first = period.before.to_datetime(start);
            }
        }
        if let Some(end) = period.end {
            last = period.offset.to_datetime(end);
            if self.fold == DstFold::Last && period.after < period.offset {
                last = period.after.to_datetime(end);
            }
            last = last.saturating_sub(SECOND);
        }
        (first, last)
    }

    /// Whether a match that was left out right before `period` is due at its start.
    fn catches_up(&self, period: &Period) -> bool {
        let Some(start) = period.start.filter(|_| self.gap == DstGap::RunAfter) else {
            return false;
        };
        let (from, to) = (period.before.to_datetime(start), period.offset.to_datetime(start));
        self.pattern.find::<Forward>(from).is_some_and(|left_out| left_out < to)
    }
}

/// A stretch of time in which the offset from UTC does not change.
#[derive(Debug)]
struct Period {
    offset: Offset,
    /// Its first instant, and the offset before that.
    start: Option<Timestamp>,
    before: Offset,
    /// The first instant behind it, and the offset from then on.
    end: Option<Timestamp>,
    after: Offset,
}

impl Period {
    fn around(zone: &TimeZone, at: Timestamp) -> Self {
        let offset = zone.to_offset(at);
        let start = zone
            .preceding(at.saturating_add(SECOND).unwrap_or(at))
            .next()
            .map(|change| change.timestamp());
        let end = zone.following(at).next();
        Self {
            offset,
            start,
            before: start
                .and_then(|start| start.checked_sub(SECOND).ok())
                .map_or(offset, |instant| zone.to_offset(instant)),
            after: end.as_ref().map_or(offset, |change| change.offset()),
            end: end.map(|change| change.timestamp()),
        }
    }
}

/// The last whole second at or before `instant`.
fn whole_second(instant: Timestamp) -> Timestamp {
    // jiff counts the fraction towards zero: before 1970 it is negative.
    let down = i64::from(instant.subsec_nanosecond() < 0);
    Timestamp::from_second(instant.as_second() - down).unwrap_or(Timestamp::MIN)
}

/// A text that tells time zones apart, the same on every host.
pub(super) fn zone_identity(zone: &TimeZone) -> String {
    if let Some(name) = zone.iana_name() {
        return name.to_owned();
    }
    if let Ok(offset) = zone.to_fixed_offset() {
        return format!("offset:{}", offset.seconds());
    }
    let [from, to] = [946_684_800, 2_208_988_800]
        .map(|second| Timestamp::from_second(second).expect("2000 and 2040 are in range"));
    let mut identity = format!("changes:{}", zone.to_offset(from).seconds());
    for change in zone.following(from).take_while(|change| change.timestamp() < to) {
        let (second, offset) = (change.timestamp().as_second(), change.offset().seconds());
        identity.push_str(&format!(";{second}:{offset}"));
    }
    identity
}
