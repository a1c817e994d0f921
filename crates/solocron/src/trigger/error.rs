//! Why a trigger could not be built.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;

/// Why a trigger could not be built.
///
/// There is one thing to do about it, to mend the value, so there are no kinds to match on. The
/// message says what was wrong, with which value, and what to write instead; for a cron pattern
/// it points at the place:
///
/// ```text
/// cron pattern: hour `25` is not in 0-23: choose a number from that range
///   | 0 25 * * *
///   |   ^^
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TriggerError {
    problem: Cow<'static, str>,
    place: Option<Box<Place>>,
    source: Option<jiff::Error>,
}

/// Where in a cron pattern.
#[derive(Debug, Clone)]
struct Place {
    field: Option<&'static str>,
    pattern: Box<str>,
    span: Range<usize>,
}

impl TriggerError {
    /// An error without a place in a text.
    pub(super) fn new(problem: impl Into<Cow<'static, str>>) -> Self {
        Self { problem: problem.into(), place: None, source: None }
    }

    /// An error at `span`, a range of bytes of `pattern` on character boundaries.
    pub(super) fn in_pattern(
        problem: impl Into<Cow<'static, str>>,
        field: Option<&'static str>,
        pattern: &str,
        span: Range<usize>,
    ) -> Self {
        let place = Place { field, pattern: pattern.into(), span };
        Self { place: Some(Box::new(place)), ..Self::new(problem) }
    }

    /// Adds what caused the error.
    pub(super) fn caused_by(self, source: jiff::Error) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Returns the name of the cron field at fault, such as `day-of-month`.
    ///
    /// `None` if the error is not about one field of a cron pattern.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        self.place.as_ref().and_then(|place| place.field)
    }

    /// Returns where in the cron pattern the fault is, in bytes of the text given to
    /// [`Cron::parse`](super::Cron::parse).
    ///
    /// `None` if the error is not about a cron pattern, or if the pattern was refused unread
    /// because of its length.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        self.place.as_ref().map(|place| place.span.clone())
    }
}

impl fmt::Display for TriggerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        self.place.as_ref().map_or(Ok(()), |place| place.fmt(f))
    }
}

impl StdError for TriggerError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Bytes shown on either side of the fault; a pattern may be a kilobyte long.
        const AROUND: usize = 40;
        let text = &*self.pattern;
        let from = boundary(text, self.span.start.saturating_sub(AROUND));
        let mark = boundary(text, self.span.end.min(self.span.start + 2 * AROUND));
        let to = boundary(text, mark + AROUND);

        let (head, tail) =
            (if from > 0 { "…" } else { "" }, if to < text.len() { "…" } else { "" });
        write!(f, "\n  | {head}{}{tail}\n  | ", printable(&text[from..to]))?;
        let before = head.chars().count() + text[from..self.span.start].chars().count();
        // A fault at the end of the text has no characters of its own.
        let marked = text[self.span.start..mark].chars().count().max(1);
        write!(f, "{:before$}{}", "", "^".repeat(marked))
    }
}

/// The last character boundary of `text` up to `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Quotes somebody's text in a message: at most 40 characters of it, on one line.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 40;
    let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
    let more = if end < text.len() { "…" } else { "" };
    format!("`{}{more}`", printable(&text[..end]))
}

/// One printable character for each character, so that carets stay below what they mark.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
