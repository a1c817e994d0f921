//! One field of a cron pattern: what it is called, what it may hold, and its plain items.

use super::super::TriggerError;
use super::super::error::quoted;

/// What one field of a pattern may hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) min: u32,
    /// The greatest number that may be written. In day-of-week that is 7, a second Sunday.
    pub(super) max: u32,
    /// The names of `min`, `min + 1` and so on.
    names: &'static [&'static str],
}

pub(super) static SECOND: Field = Field { name: "second", min: 0, max: 59, names: &[] };
pub(super) static MINUTE: Field = Field { name: "minute", min: 0, max: 59, names: &[] };
pub(super) static HOUR: Field = Field { name: "hour", min: 0, max: 23, names: &[] };
pub(super) static DAY_OF_MONTH: Field = Field { name: "day-of-month", min: 1, max: 31, names: &[] };
pub(super) static MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
pub(super) static DAY_OF_WEEK: Field = Field {
    name: "day-of-week",
    min: 0,
    max: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
};

/// A part of a pattern, which knows its place and its field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) pattern: &'a str,
    pub(super) start: usize,
    pub(super) text: &'a str,
    pub(super) field: &'static Field,
}

impl<'a> Token<'a> {
    /// An error at this token. `problem` follows the name of the field.
    pub(super) fn error(&self, problem: &str) -> TriggerError {
        let (name, span) = (self.field.name, self.start..self.start + self.text.len());
        let problem = format!("cron pattern: {name} {} {problem}", quoted(self.text));
        TriggerError::in_pattern(problem, Some(name), self.pattern, span)
    }

    /// Splits at the first `mark`.
    pub(super) fn split_at_first(&self, mark: u8) -> Option<(Self, Self)> {
        let at = self.text.bytes().position(|byte| byte == mark)?;
        let (before, after) = (&self.text[..at], &self.text[at + 1..]);
        Some((
            Self { text: before, ..*self },
            Self { text: after, start: self.start + at + 1, ..*self },
        ))
    }

    /// The token without the letter `suffix`, in either case, at its end.
    pub(super) fn strip_suffix(&self, suffix: u8) -> Option<Self> {
        let (last, _) = self.text.as_bytes().split_last()?;
        // The letter is ASCII, so that what is left ends on a character boundary.
        last.eq_ignore_ascii_case(&suffix)
            .then(|| Self { text: &self.text[..self.text.len() - 1], ..*self })
    }

    pub(super) fn is(&self, text: &str) -> bool {
        self.text.eq_ignore_ascii_case(text)
    }

    /// Reads a plain item: `*`, a value or a range, with or without a step. Returns its bits.
    pub(super) fn values(&self) -> Result<u64, TriggerError> {
        let field = self.field;
        let (range, step) = match self.split_at_first(b'/') {
            Some((range, step)) => (range, Some(step.step_width()?)),
            None => (*self, None),
        };
        let (first, last) = match range.split_at_first(b'-') {
            _ if range.text == "*" => (field.min, field.last()),
            Some((first, last)) => (first.value()?, last.value()?),
            None => {
                let first = range.value()?;
                (first, if step.is_some() { field.last() } else { first })
            }
        };
        Ok(field.stepped(first, last, step.unwrap_or(1)))
    }

    /// Reads a number or a name.
    pub(super) fn value(&self) -> Result<u32, TriggerError> {
        let Field { min, max, names, .. } = self.field;
        if let Some(number) = self.number() {
            if (*min..=*max).contains(&number) {
                return Ok(number);
            }
            return Err(
                self.error(&format!("is not in {min}-{max}: choose a number from that range"))
            );
        }
        let named = names.iter().zip(*min..).find(|(name, _)| self.is(name));
        named.map(|(_, number)| number).ok_or_else(|| self.error(&self.what_it_takes()))
    }

    fn what_it_takes(&self) -> String {
        let Field { min, max, names, .. } = self.field;
        let names = match names {
            [first, .., last] => format!(" or {first}-{last}"),
            _ => String::new(),
        };
        match self.text {
            "" => format!("lacks a value: write a number {min}-{max}{names}"),
            "?" => "may only stand alone in a day field: write `*`".to_owned(),
            _ => format!("is not a value: write a number {min}-{max}{names}"),
        }
    }

    fn step_width(&self) -> Result<u32, TriggerError> {
        let longest = self.field.last() - self.field.min + 1;
        self.number().filter(|step| (1..=longest).contains(step)).ok_or_else(|| {
            self.error(&format!(
                "is not a step in 1-{longest}: a step cannot reach over the field's end"
            ))
        })
    }

    /// Reads decimal digits; a number too great for any field is `u32::MAX`.
    pub(super) fn number(&self) -> Option<u32> {
        let digit = |byte: u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
        let appended = |number: u32, digit| number.saturating_mul(10).saturating_add(digit);
        let mut digits = self.text.bytes();
        let first = digit(digits.next()?)?;
        digits.try_fold(first, |number, byte| Some(appended(number, digit(byte)?)))
    }
}

impl Field {
    /// The greatest value; unlike `max` it counts Sunday once.
    pub(super) fn last(&self) -> u32 {
        if self.max == 7 { 6 } else { self.max }
    }

    /// Every `step`-th value from `first` to `last`, around the end of the field if need be.
    fn stepped(&self, first: u32, last: u32, step: u32) -> u64 {
        let values = self.last() - self.min + 1;
        // Sunday as 7 ends a range as it stands, and begins one as 0.
        let first = if first > self.last() && first != last { self.min } else { first };
        let last = if last < first { last + values } else { last };
        (first..=last)
            .step_by(step as usize)
            .map(|value| if value > self.last() { value - values } else { value })
            .fold(0, |mask, value| mask | 1 << value)
    }
}
