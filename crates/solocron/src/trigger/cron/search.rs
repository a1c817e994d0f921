//! Wall-clock times that match a pattern, found field by field with bit masks.
//!
//! Both directions run the same code: a [`Direction`] only says which set bit is the next one, and
//! with which bit a field begins.

use jiff::civil::{Date, DateTime};

use super::days::{Days, MonthShape};

/// How many years a search looks ahead or back.
///
/// Leap days are up to 8 years apart (1896 to 1904), and up to 40 if they must fall on a given
/// weekday as well; twice that, so that one of them may fall victim to a clock change.
pub(super) const HORIZON_YEARS: i16 = 80;

/// A cron pattern: the set of wall-clock times that match, without a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Bit n is second n; likewise below.
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u32,
    /// Bits 1 to 12.
    pub(super) months: u16,
    pub(super) days: Days,
    /// Minute or hour begin with `*`.
    pub(super) follows_elapsed_time: bool,
}

/// A direction of search.
pub(super) trait Direction {
    /// Whether time grows in this direction.
    const FORWARD: bool;

    /// The bit of `mask` that comes first behind `at`, which is at most 63.
    fn beyond(mask: u64, at: u32) -> Option<u32>;

    /// The bit of `mask`, which is not empty, that comes first.
    fn first(mask: u64) -> u32;

    /// The bit of `mask` that comes first at or behind `at`.
    fn from(mask: u64, at: u32) -> Option<u32> {
        if mask >> at & 1 == 1 { Some(at) } else { Self::beyond(mask, at) }
    }
}

/// Towards later times.
pub(super) enum Forward {}

/// Towards earlier times.
pub(super) enum Backward {}

impl Direction for Forward {
    const FORWARD: bool = true;

    fn beyond(mask: u64, at: u32) -> Option<u32> {
        let rest = mask & (!1 << at);
        (rest != 0).then(|| rest.trailing_zeros())
    }

    fn first(mask: u64) -> u32 {
        mask.trailing_zeros()
    }
}

impl Direction for Backward {
    const FORWARD: bool = false;

    fn beyond(mask: u64, at: u32) -> Option<u32> {
        let rest = mask & ((1 << at) - 1);
        (rest != 0).then(|| 63 - rest.leading_zeros())
    }

    fn first(mask: u64) -> u32 {
        63 - mask.leading_zeros()
    }
}

/// An hour, a minute and a second.
type TimeOfDay = (u32, u32, u32);

impl Pattern {
    /// Finds the first match at or behind `from`, within [`HORIZON_YEARS`].
    pub(super) fn find<D: Direction>(&self, from: DateTime) -> Option<DateTime> {
        let months = u64::from(self.months);
        let (mut year, mut month) = (from.year(), number(from.month()));
        let mut day = number(from.day());
        let mut days = self.days_in(year, month)?;

        if days >> day & 1 == 1
            && let Some(time) = self.time_from::<D>(from)
        {
            return at(year, month, day, time);
        }
        while D::beyond(days, day).is_none() {
            month = match D::beyond(months, month) {
                Some(month) => month,
                None => {
                    year += if D::FORWARD { 1 } else { -1 };
                    D::first(months)
                }
            };
            if (year - from.year()).abs() > HORIZON_YEARS {
                return None;
            }
            days = self.days_in(year, month)?;
            day = if D::FORWARD { 0 } else { 63 };
        }
        day = D::beyond(days, day)?;
        at(year, month, day, self.first_time::<D>())
    }

    /// The days of that month that match; `None` outside the years of jiff.
    fn days_in(&self, year: i16, month: u32) -> Option<u64> {
        if self.months >> month & 1 == 0 {
            return Some(0);
        }
        let first = Date::new(year, month as i8, 1).ok()?;
        let shape = MonthShape::new(first.days_in_month(), first.weekday());
        Some(u64::from(self.days.in_month(shape)))
    }

    /// The first matching time of day at or behind that of `from`.
    fn time_from<D: Direction>(&self, from: DateTime) -> Option<TimeOfDay> {
        let (hour, minute) = (number(from.hour()), number(from.minute()));
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = D::from(self.seconds, number(from.second()))
            {
                return Some((hour, minute, second));
            }
            if let Some(minute) = D::beyond(self.minutes, minute) {
                return Some((hour, minute, D::first(self.seconds)));
            }
        }
        let hour = D::beyond(u64::from(self.hours), hour)?;
        Some((hour, D::first(self.minutes), D::first(self.seconds)))
    }

    fn first_time<D: Direction>(&self) -> TimeOfDay {
        (D::first(u64::from(self.hours)), D::first(self.minutes), D::first(self.seconds))
    }

    /// A text that is equal for patterns that match alike.
    pub(super) fn canonical(&self) -> String {
        let Self { seconds, minutes, hours, months, days, follows_elapsed_time: _ } = self;
        let Days { of_month, of_week, either } = days;
        format!(
            "second={seconds:x} minute={minutes:x} hour={hours:x} month={months:x} \
             day={:x},{:x},{:x},{} weekday={:x},{:x?},{:x} either={either}",
            of_month.days,
            of_month.before_last,
            of_month.nearest_weekday,
            of_month.last_weekday,
            of_week.weekdays,
            of_week.nth,
            of_week.last,
        )
    }
}

/// A field of a date or time of jiff; none is negative but the year.
fn number(field: i8) -> u32 {
    u32::from(field.unsigned_abs())
}

fn at(year: i16, month: u32, day: u32, (hour, minute, second): TimeOfDay) -> Option<DateTime> {
    DateTime::new(year, month as i8, day as i8, hour as i8, minute as i8, second as i8, 0).ok()
}
