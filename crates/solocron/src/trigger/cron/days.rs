//! Which days of a month match the two day fields.

use jiff::civil::Weekday;

/// The two day fields of a pattern.
///
/// A set of days of the month has day `d` in bit `d`; a set of weekdays has Sunday in bit 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    pub(super) of_month: OfMonth,
    pub(super) of_week: OfWeek,
    /// Both fields are restricted: a day that matches either is due.
    pub(super) either: bool,
}

/// The day-of-month field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OfMonth {
    pub(super) days: u32,
    /// Bit n: n days before the last day, `L-n`.
    pub(super) before_last: u32,
    /// Bit d: the weekday nearest to day d, `dW`.
    pub(super) nearest_weekday: u32,
    /// The last weekday, `LW`.
    pub(super) last_weekday: bool,
}

/// The day-of-week field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OfWeek {
    pub(super) weekdays: u8,
    /// Element k - 1: the k-th such weekdays of the month, `d#k`.
    pub(super) nth: [u8; 5],
    /// The last such weekdays of the month, `dL`.
    pub(super) last: u8,
}

/// What decides which day of a month is which.
#[derive(Debug, Clone, Copy)]
pub(super) struct MonthShape {
    /// 28 to 31.
    pub(super) days: u32,
    /// The weekday of day 1, Sunday being 0.
    pub(super) first: u32,
}

impl MonthShape {
    pub(super) fn new(days: i8, first: Weekday) -> Self {
        Self {
            days: u32::from(days.unsigned_abs()),
            first: u32::from(first.to_sunday_zero_offset().unsigned_abs()),
        }
    }

    /// All days of the month.
    fn all(self) -> u32 {
        ((1_u64 << (self.days + 1)) - 2) as u32
    }

    /// All days that fall on those weekdays.
    fn on(self, weekdays: u8) -> u32 {
        const EACH_WEEK: u64 = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28;
        let weekdays = u64::from(weekdays & 0x7f);
        let week = (weekdays >> self.first | weekdays << (7 - self.first)) & 0x7f;
        // Bit 0 of `week` is day 1, hence the shift.
        ((week * EACH_WEEK) << 1) as u32 & self.all()
    }

    /// The day from Monday to Friday nearest to `day` in the same month, as a set.
    fn weekday_nearest_to(self, day: u32) -> u32 {
        let day = match (self.first + day - 1) % 7 {
            6 if day == 1 => 3,
            6 => day - 1,
            0 if day == self.days => day - 2,
            0 => day + 1,
            _ => day,
        };
        1 << day
    }
}

impl Days {
    /// The days of a month of that shape that match.
    pub(super) fn in_month(&self, month: MonthShape) -> u32 {
        let (of_month, of_week) = (self.of_month.in_month(month), self.of_week.in_month(month));
        if self.either { of_month | of_week } else { of_month & of_week }
    }

    /// Whether any date in one of `months` (bit 1 is January) matches.
    ///
    /// Every shape of a month occurs at least every 40 years.
    pub(super) fn match_in_any_of(&self, months: u16) -> bool {
        let lengths = |month| match month {
            2 => 28..=29,
            4 | 6 | 9 | 11 => 30..=30,
            _ => 31..=31,
        };
        (1..=12_u32)
            .filter(|month| months >> month & 1 == 1)
            .flat_map(lengths)
            .flat_map(|days| (0..7).map(move |first| MonthShape { days, first }))
            .any(|shape| self.in_month(shape) != 0)
    }
}

impl OfMonth {
    fn in_month(&self, month: MonthShape) -> u32 {
        let mut days = self.days & month.all();
        if self.before_last != 0 {
            for n in bits(self.before_last).filter(|n| *n < month.days) {
                days |= 1 << (month.days - n);
            }
        }
        // A day that the month does not have has no nearest weekday.
        for day in bits(self.nearest_weekday & month.all()) {
            days |= month.weekday_nearest_to(day);
        }
        if self.last_weekday {
            days |= month.weekday_nearest_to(month.days);
        }
        days
    }
}

impl OfWeek {
    fn in_month(&self, month: MonthShape) -> u32 {
        let mut days = month.on(self.weekdays);
        for (weekdays, before) in self.nth.into_iter().zip([0, 7, 14, 21, 28]) {
            if weekdays != 0 {
                days |= month.on(weekdays) & (0x7f << 1 << before) as u32;
            }
        }
        if self.last != 0 {
            days |= month.on(self.last) & (0x7f_u64 << (month.days - 6)) as u32;
        }
        days
    }
}

/// The numbers of the set bits, ascending.
fn bits(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 28 shapes, each with the weekday of every day.
    fn shapes() -> impl Iterator<Item = (MonthShape, Vec<(u32, u32)>)> {
        (28..=31).flat_map(|days| (0..7).map(move |first| MonthShape { days, first })).map(
            |shape| {
                let days = (1..=shape.days).map(|day| (day, (shape.first + day - 1) % 7)).collect();
                (shape, days)
            },
        )
    }

    #[test]
    fn weekdays_fall_on_their_days_in_every_month() {
        for (shape, days) in shapes() {
            for weekdays in 0..0x80_u8 {
                let expected = days.iter().filter(|(_, weekday)| weekdays >> weekday & 1 == 1);
                assert_eq!(shape.on(weekdays), expected.map(|(day, _)| 1 << day).sum::<u32>());
            }
        }
    }

    #[test]
    fn the_nth_and_the_last_weekday_are_counted_in_the_month() {
        for (shape, days) in shapes() {
            for weekday in 0..7 {
                let on: Vec<u32> =
                    days.iter().filter(|day| day.1 == weekday).map(|day| day.0).collect();
                for k in 0..5 {
                    let mut nth = OfWeek::default();
                    nth.nth[k] = 1 << weekday;
                    assert_eq!(nth.in_month(shape), on.get(k).map_or(0, |day| 1 << day));
                }
                let last = OfWeek { last: 1 << weekday, ..OfWeek::default() };
                assert_eq!(last.in_month(shape), 1 << on.last().unwrap());
            }
        }
    }

    #[test]
    fn the_nearest_weekday_stays_in_the_month() {
        for (shape, days) in shapes() {
            for &(day, _) in &days {
                let nearest =
                    OfMonth { nearest_weekday: 1 << day, ..OfMonth::default() }.in_month(shape);
                let distance = |other: u32| other.abs_diff(day);
                let least =
                    days.iter().filter(|d| (1..=5).contains(&d.1)).map(|d| distance(d.0)).min();
                assert_eq!(nearest.count_ones(), 1);
                let found = days[nearest.trailing_zeros() as usize - 1];
                assert!((1..=5).contains(&found.1));
                assert_eq!(Some(distance(found.0)), least);
            }
        }
    }

    #[test]
    fn days_before_the_last_are_counted_from_the_end() {
        let third_last = OfMonth { before_last: 1 << 2, ..OfMonth::default() };
        for (shape, _) in shapes() {
            assert_eq!(third_last.in_month(shape), 1 << (shape.days - 2));
        }
        let first_of_31 = OfMonth { before_last: 1 << 30, ..OfMonth::default() };
        assert_eq!(first_of_31.in_month(MonthShape { days: 31, first: 0 }), 1 << 1);
        assert_eq!(first_of_31.in_month(MonthShape { days: 30, first: 0 }), 0);
    }
}
