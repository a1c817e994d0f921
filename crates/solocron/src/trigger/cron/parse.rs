//! From text to bit masks.

use super::super::TriggerError;
use super::super::error::quoted;
use super::days::{Days, OfMonth, OfWeek};
use super::field::{DAY_OF_MONTH, DAY_OF_WEEK, HOUR, MINUTE, MONTH, SECOND, Token};
use super::search::Pattern;

/// The longest pattern that is read, in bytes.
const LONGEST: usize = 1024;

/// What each nickname stands for.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Parses a whole pattern.
pub(super) fn pattern(text: &str) -> Result<Pattern, TriggerError> {
    // First of all, so that no other step ever sees a text of megabytes.
    if text.len() > LONGEST {
        return Err(TriggerError::new(format!(
            "cron pattern: {} bytes are too long: at most {LONGEST} are read",
            text.len()
        )));
    }
    match text.trim_ascii() {
        "" => Err(whole(text, "is empty: write five fields, or six with the seconds first")),
        nickname if nickname.starts_with('@') => fields(known(text, nickname)?),
        _ => fields(text),
    }
}

/// Looks up a nickname.
fn known(text: &str, nickname: &str) -> Result<&'static str, TriggerError> {
    let found = NICKNAMES.iter().find(|(name, _)| nickname.eq_ignore_ascii_case(name));
    found.map(|(_, pattern)| *pattern).ok_or_else(|| {
        let first = nickname.split_ascii_whitespace().next().unwrap_or_default();
        let why = match first.to_ascii_lowercase().as_str() {
            "@every" => "is not a cron pattern: use the trigger `Every` for an interval",
            "@reboot" => "names no instant: run the job when the process starts",
            _ => {
                "is not a nickname: choose one of @yearly, @annually, @monthly, @weekly, @daily, \
                 @midnight and @hourly"
            }
        };
        whole(text, why)
    })
}

/// Parses the fields of a pattern.
fn fields(text: &str) -> Result<Pattern, TriggerError> {
    let (second, rest) = split(text)?;
    let [minute, hour, day_of_month, month, day_of_week] = &rest;

    let months = plain(month)? as u16;
    let days = Days {
        of_month: of_month(day_of_month)?,
        of_week: of_week(day_of_week)?,
        either: !is_free(day_of_month) && !is_free(day_of_week),
    };
    let pattern = Pattern {
        seconds: second.as_ref().map_or(Ok(1), plain)?,
        minutes: plain(minute)?,
        hours: plain(hour)? as u32,
        months,
        days,
        follows_elapsed_time: is_free(minute) || is_free(hour),
    };
    if days.match_in_any_of(months) {
        Ok(pattern)
    } else {
        Err(impossible(day_of_month, month, day_of_week))
    }
}

/// Splits a pattern into its fields; the first one, the seconds, may be missing.
fn split(text: &str) -> Result<(Option<Token<'_>>, [Token<'_>; 5]), TriggerError> {
    let mut words = [(0, ""); 6];
    let mut count = 0;
    // `split` keeps the places of empty words, unlike `split_ascii_whitespace`.
    let mut start = 0;
    for word in text.split(|c: char| c.is_ascii_whitespace()) {
        if !word.is_empty() {
            if let Some(slot) = words.get_mut(count) {
                *slot = (start, word);
            }
            count += 1;
        }
        start += word.len() + 1;
    }
    if words[0].1.contains('=') {
        let why = "begins with a variable: set the time zone with `Cron::time_zone`";
        return Err(whole(text, why));
    }
    let token = |(start, word), field| Token { pattern: text, start, text: word, field };
    let fields = |[a, b, c, d, e]: [_; 5]| {
        let (minute, hour) = (token(a, &MINUTE), token(b, &HOUR));
        [minute, hour, token(c, &DAY_OF_MONTH), token(d, &MONTH), token(e, &DAY_OF_WEEK)]
    };
    match (count, words) {
        (5, [a, b, c, d, e, _]) => Ok((None, fields([a, b, c, d, e]))),
        (6, [second, a, b, c, d, e]) => Ok((Some(token(second, &SECOND)), fields([a, b, c, d, e]))),
        _ => {
            let s = if count == 1 { "" } else { "s" };
            let why = format!(
                "has {count} field{s}: write five (minute hour day-of-month month day-of-week), or \
                 six with the seconds first"
            );
            Err(whole(text, &why))
        }
    }
}

/// Whether a field counts as not restricted.
///
/// Vixie's rule: what it begins with decides, so that `*/2` is as free as `*`.
fn is_free(field: &Token<'_>) -> bool {
    field.text.starts_with(['*', '?'])
}

/// The items of a list.
fn items<'a>(field: &Token<'a>) -> impl Iterator<Item = Token<'a>> {
    let mut rest = Some(*field);
    std::iter::from_fn(move || {
        let list = rest?;
        let (item, tail) =
            list.split_at_first(b',').map_or((list, None), |(item, tail)| (item, Some(tail)));
        rest = tail;
        Some(item)
    })
}

/// A field that holds nothing but plain items.
fn plain(field: &Token<'_>) -> Result<u64, TriggerError> {
    items(field).try_fold(0, |mask, item| Ok(mask | item.values()?))
}

fn of_month(field: &Token<'_>) -> Result<OfMonth, TriggerError> {
    let mut days = OfMonth::default();
    if field.text == "?" {
        days.days = !1;
        return Ok(days);
    }
    for item in items(field) {
        if item.is("L") {
            days.before_last |= 1;
        } else if item.is("LW") {
            days.last_weekday = true;
        } else if let Some((_, before)) = item.split_at_first(b'-').filter(|(last, _)| last.is("L"))
        {
            let before = before.number().filter(|n| (1..=30).contains(n));
            let why = "is not a day before the last: write `L-1` to `L-30`";
            days.before_last |= 1 << before.ok_or_else(|| item.error(why))?;
        } else if let Some(day) = item.strip_suffix(b'W') {
            days.nearest_weekday |= 1 << day.value()?;
        } else {
            days.days |= item.values()? as u32;
        }
    }
    Ok(days)
}

fn of_week(field: &Token<'_>) -> Result<OfWeek, TriggerError> {
    let mut days = OfWeek::default();
    if field.text == "?" {
        days.weekdays = 0x7f;
        return Ok(days);
    }
    let weekday = |token: Token<'_>| Ok(1 << (token.value()? % 7));
    for item in items(field) {
        if let Some((day, nth)) = item.split_at_first(b'#') {
            let nth = nth.number().filter(|nth| (1..=5).contains(nth));
            let why = "does not say which one of the month: write `#1` to `#5` behind a weekday";
            days.nth[nth.ok_or_else(|| item.error(why))? as usize - 1] |= weekday(day)?;
        } else if let Some(day) = item.strip_suffix(b'L') {
            days.last |= weekday(day)?;
        } else {
            days.weekdays |= item.values()? as u8;
        }
    }
    Ok(days)
}

/// An error about the text as a whole.
fn whole(text: &str, why: &str) -> TriggerError {
    let start = text.len() - text.trim_ascii_start().len();
    let trimmed = text.trim_ascii();
    let problem = format!("cron pattern: {} {why}", quoted(trimmed));
    TriggerError::in_pattern(problem, None, text, start..start + trimmed.len())
}

/// An error about fields that are fine one by one.
fn impossible(
    day_of_month: &Token<'_>,
    month: &Token<'_>,
    day_of_week: &Token<'_>,
) -> TriggerError {
    let named = |token: &Token<'_>| format!("{} {}", token.field.name, quoted(token.text));
    let mut named_fields = format!("{} in {}", named(day_of_month), named(month));
    let mut last = month;
    if !matches!(day_of_week.text, "*" | "?") {
        named_fields += &format!(" with {}", named(day_of_week));
        last = day_of_week;
    }
    TriggerError::in_pattern(
        format!(
            "cron pattern: no date ever matches {named_fields}: choose days that those months have"
        ),
        Some(DAY_OF_MONTH.name),
        day_of_month.pattern,
        day_of_month.start..last.start + last.text.len(),
    )
}
