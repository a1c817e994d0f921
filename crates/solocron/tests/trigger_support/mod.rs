//! Random cron patterns that know, in the plainest way, what they match.

use std::fmt;

use jiff::ToSpan as _;
use jiff::civil::DateTime;
use proptest::prelude::*;

/// Which patterns are generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// All that we read.
    Ours,
    /// What croner reads with the same meaning.
    Croners,
}

/// One item of a list.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Star,
    Every(u32),
    Value(u32),
    Range(u32, u32),
    Stepped(u32, u32, u32),
    From(u32, u32),
    /// Days before the last day of the month.
    BeforeLast(u32),
    NearestWeekday(u32),
    LastWeekday,
    Nth(u32, u32),
    Last(u32),
}

/// A field: its items and the least and greatest of its values.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    items: Vec<Item>,
    min: u32,
    max: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) second: Option<Field>,
    pub(crate) minute: Field,
    pub(crate) hour: Field,
    pub(crate) day_of_month: Field,
    pub(crate) month: Field,
    pub(crate) day_of_week: Field,
}

impl Field {
    fn is_free(&self) -> bool {
        matches!(self.items[0], Item::Star | Item::Every(_))
    }

    /// Counts up from `first` to `last`, around the end if need be, and asks for every `step`-th.
    fn counts(&self, first: u32, last: u32, step: u32, value: u32) -> bool {
        let (mut at, mut count) = (first, 0);
        loop {
            if at == value && count % step == 0 {
                return true;
            }
            if at == last {
                return false;
            }
            at = if at == self.max { self.min } else { at + 1 };
            count += 1;
        }
    }

    fn has(&self, value: u32) -> bool {
        self.items.iter().any(|item| match *item {
            Item::Star => true,
            Item::Every(step) => self.counts(self.min, self.max, step, value),
            Item::Value(one) => one == value,
            Item::Range(first, last) => self.counts(first, last, 1, value),
            Item::Stepped(first, last, step) => self.counts(first, last, step, value),
            Item::From(first, step) => self.counts(first, self.max, step, value),
            _ => false,
        })
    }

    fn has_day(&self, local: DateTime) -> bool {
        let (day, weekday) = (local.day() as u32, local.weekday().to_sunday_zero_offset() as u32);
        let length = local.days_in_month() as u32;
        let of_the_month = if self.max == 31 { day } else { weekday };
        let is_workday = |day: u32| {
            let date = local.date().with().day(day as i8).build().unwrap();
            !matches!(date.weekday().to_sunday_zero_offset(), 0 | 6)
        };
        // The least distance wins; of two the later one cannot tie with an earlier workday.
        let nearest = |wanted: u32| {
            (1..=length).filter(|day| is_workday(*day)).min_by_key(|day| day.abs_diff(wanted))
        };
        self.has(of_the_month)
            || self.items.iter().any(|item| match *item {
                Item::BeforeLast(n) => day + n == length,
                Item::NearestWeekday(wanted) => wanted <= length && nearest(wanted) == Some(day),
                Item::LastWeekday => nearest(length) == Some(day),
                Item::Nth(wanted, nth) => weekday == wanted && (day - 1) / 7 + 1 == nth,
                Item::Last(wanted) => {
                    weekday == wanted
                        && local.date().saturating_add(7.days()).month() != local.month()
                }
                _ => false,
            })
    }

    fn values(&self) -> usize {
        (self.min..=self.max).filter(|value| self.has(*value)).count()
    }

    fn has_step(&self) -> bool {
        self.items
            .iter()
            .any(|item| matches!(item, Item::Every(_) | Item::Stepped(..) | Item::From(..)))
    }
}

impl Pattern {
    pub(crate) fn matches(&self, local: DateTime) -> bool {
        self.second.as_ref().map_or(local.second() == 0, |second| second.has(local.second() as u32))
            && self.minute.has(local.minute() as u32)
            && self.hour.has(local.hour() as u32)
            && self.month.has(local.month() as u32)
            && self.has_day(local)
    }

    fn has_day(&self, local: DateTime) -> bool {
        let days = (self.day_of_month.has_day(local), self.day_of_week.has_day(local));
        let either = !self.day_of_month.is_free() && !self.day_of_week.is_free();
        if either { days.0 || days.1 } else { days.0 && days.1 }
    }

    pub(crate) fn follows_elapsed_time(&self) -> bool {
        self.minute.is_free() || self.hour.is_free()
    }

    /// What croner calls a fixed-time job.
    pub(crate) fn is_one_time_of_day(&self) -> bool {
        let fields = [Some(&self.minute), Some(&self.hour), self.second.as_ref()];
        fields.into_iter().flatten().all(|field| {
            field.values() == 1 && !field.has_step() && !matches!(field.items[0], Item::Star)
        })
    }
}

/// A pattern that may turn out to match no date.
pub(crate) fn pattern(dialect: Dialect) -> impl Strategy<Value = Pattern> {
    let days =
        (days_of_month(dialect), days_of_week(dialect)).prop_map(move |(mut month, week)| {
            let is_star = |field: &Field| matches!(field.items[0], Item::Star);
            let differs =
                !is_star(&month) && !is_star(&week) && (month.is_free() || week.is_free());
            if dialect == Dialect::Croners && differs {
                month.items = vec![Item::Star];
            }
            (month, week)
        });
    let second = prop::option::weighted(0.3, plain(dialect, 0, 59));
    (second, plain(dialect, 0, 59), plain(dialect, 0, 23), days, plain(dialect, 1, 12)).prop_map(
        |(second, minute, hour, (day_of_month, day_of_week), month)| Pattern {
            second,
            minute,
            hour,
            day_of_month,
            month,
            day_of_week,
        },
    )
}

fn plain(dialect: Dialect, min: u32, max: u32) -> impl Strategy<Value = Field> {
    let item = item(dialect, min, max);
    prop_oneof![
        3 => Just(vec![Item::Star]),
        2 => (1..=max - min + 1).prop_map(|step| vec![Item::Every(step)]),
        5 => prop::collection::vec(item, 1..4),
    ]
    .prop_map(move |items| Field { items, min, max })
}

fn item(dialect: Dialect, min: u32, max: u32) -> BoxedStrategy<Item> {
    let value = min..=max;
    let range = (value.clone(), value.clone());
    let upward = range.clone().prop_map(|(a, b)| (a.min(b), a.max(b)));
    let range = if dialect == Dialect::Ours { range.boxed() } else { upward.boxed() };
    let steps = 1..=(max - min).min(20);
    let most = prop_oneof![
        4 => value.clone().prop_map(Item::Value),
        2 => range.clone().prop_map(|(first, last)| Item::Range(first, last)),
        1 => (range, steps.clone()).prop_map(|((first, last), step)| Item::Stepped(first, last, step)),
    ];
    let from = (value, steps).prop_map(|(first, step)| Item::From(first, step));
    if dialect == Dialect::Ours { prop_oneof![6 => most, 1 => from].boxed() } else { most.boxed() }
}

fn days_of_month(dialect: Dialect) -> impl Strategy<Value = Field> {
    let last = if dialect == Dialect::Ours { 30_u32 } else { 0 };
    let special = prop_oneof![
        (0..=last).prop_map(Item::BeforeLast),
        (1..=31_u32).prop_map(Item::NearestWeekday),
        Just(Item::LastWeekday),
    ];
    let special = special.prop_map(|item| Field { items: vec![item], min: 1, max: 31 });
    prop_oneof![3 => star(1, 31), 3 => plain(dialect, 1, 31), 1 => special]
}

fn days_of_week(dialect: Dialect) -> impl Strategy<Value = Field> {
    let special = prop_oneof![
        (0..=6_u32, 1..=5_u32).prop_map(|(weekday, nth)| Item::Nth(weekday, nth)),
        (0..=6_u32).prop_map(Item::Last),
    ];
    let special = special.prop_map(|item| Field { items: vec![item], min: 0, max: 6 });
    prop_oneof![3 => star(0, 6), 3 => plain(dialect, 0, 6), 1 => special]
}

fn star(min: u32, max: u32) -> impl Strategy<Value = Field> {
    Just(Field { items: vec![Item::Star], min, max })
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Star => write!(f, "*"),
            Self::Every(step) => write!(f, "*/{step}"),
            Self::Value(value) => write!(f, "{value}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Stepped(first, last, step) => write!(f, "{first}-{last}/{step}"),
            Self::From(first, step) => write!(f, "{first}/{step}"),
            Self::BeforeLast(0) => write!(f, "L"),
            Self::BeforeLast(n) => write!(f, "L-{n}"),
            Self::NearestWeekday(day) => write!(f, "{day}W"),
            Self::LastWeekday => write!(f, "LW"),
            Self::Nth(weekday, nth) => write!(f, "{weekday}#{nth}"),
            Self::Last(weekday) => write!(f, "{weekday}L"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, item) in self.items.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(second) = &self.second {
            write!(f, "{second} ")?;
        }
        let Self { minute, hour, day_of_month, month, day_of_week, second: _ } = self;
        write!(f, "{minute} {hour} {day_of_month} {month} {day_of_week}")
    }
}
