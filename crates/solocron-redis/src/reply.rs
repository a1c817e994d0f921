//! Decodes what the scripts answer. Whatever does not fit is an error, never a panic.

use std::time::Duration;

use redis::Value;
use solocron::jiff::Timestamp;
use solocron::lock::{ClaimState, Fence, Holder, LockKey, Mark, NodeId, Nonce, Note, Schedule};
use solocron::{BackendError, Kind};

/// A part of an answer that does not fit, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Odd(pub(crate) &'static str);

pub(crate) type Result<T> = std::result::Result<T, Odd>;

impl From<Odd> for BackendError {
    fn from(Odd(part): Odd) -> Self {
        let why = format!(
            "redis answered with a {part} that cannot be read: see that every program of this namespace runs one release, and what else writes to its keys"
        );
        // Whatever was asked for may have been done.
        Self::new(Kind::Corrupt, why).effect_unknown()
    }
}

pub(crate) fn array(value: Value, part: &'static str) -> Result<Vec<Value>> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(Odd(part)),
    }
}

pub(crate) fn bytes<'a>(value: Option<&'a Value>, part: &'static str) -> Result<&'a [u8]> {
    match value {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        Some(Value::SimpleString(text)) => Ok(text.as_bytes()),
        _ => Err(Odd(part)),
    }
}

pub(crate) fn text<'a>(value: Option<&'a Value>, part: &'static str) -> Result<&'a str> {
    std::str::from_utf8(bytes(value, part)?).map_err(|_| Odd(part))
}

pub(crate) fn number<T: std::str::FromStr>(text: &str, part: &'static str) -> Result<T> {
    text.parse().map_err(|_| Odd(part))
}

pub(crate) fn micros(text: &str, part: &'static str) -> Result<Timestamp> {
    Timestamp::from_microsecond(number(text, part)?).map_err(|_| Odd(part))
}

pub(crate) fn mark(text: &str, part: &'static str) -> Result<Mark> {
    number(text, part).map(Mark::from_millis)
}

pub(crate) fn fence(text: &str) -> Result<Fence> {
    number(text, "fence").map(Fence::new)
}

/// `nonce until_us since_us attempt tick|- node`
pub(crate) fn holder(key: &LockKey, text: &str, now: Timestamp) -> Result<Holder> {
    const PART: &str = "holder";
    let mut words = text.splitn(6, ' ');
    let mut word = || words.next().ok_or(Odd(PART));
    let nonce = u128::from_str_radix(word()?, 16).map_err(|_| Odd(PART))?;
    let until = micros(word()?, PART)?;
    let since = micros(word()?, PART)?;
    let _attempt = word()?;
    let tick = match word()? {
        "-" => None,
        tick => Some(mark(tick, PART)?),
    };
    let node = NodeId::named(word()?);
    let mut holder = Holder::new(key.clone(), Nonce::from_u128(nonce), node, since);
    holder.tick = tick;
    let remaining = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    holder.remaining = Some(remaining);
    holder.living = !remaining.is_zero();
    Ok(holder)
}

/// `mark_ms done attempts -|=node`
pub(crate) fn claim(text: &str) -> Result<ClaimState> {
    const PART: &str = "claim";
    let mut words = text.splitn(4, ' ');
    let mut word = || words.next().ok_or(Odd(PART));
    let mark = mark(word()?, PART)?;
    let done = match word()? {
        "0" => false,
        "1" => true,
        _ => return Err(Odd(PART)),
    };
    let attempts = number(word()?, PART)?;
    let owner = match word()? {
        "-" => None,
        owner => Some(NodeId::named(owner.strip_prefix('=').ok_or(Odd(PART))?)),
    };
    Ok(ClaimState { mark, done, attempts, owner })
}

/// `fingerprint since_ms`
pub(crate) fn schedule(text: &str) -> Result<Schedule> {
    const PART: &str = "schedule";
    let (fingerprint, since) = text.split_once(' ').ok_or(Odd(PART))?;
    Ok(Schedule { fingerprint: number(fingerprint, PART)?, since: mark(since, PART)? })
}

/// `version body`, or nothing.
pub(crate) fn note(bytes: &[u8]) -> Result<Note> {
    const PART: &str = "note";
    if bytes.is_empty() {
        return Ok(Note::default());
    }
    let space = bytes.iter().position(|byte| *byte == b' ').ok_or(Odd(PART))?;
    let version = std::str::from_utf8(&bytes[..space]).map_err(|_| Odd(PART))?;
    Ok(Note { version: number(version, PART)?, body: bytes[space + 1..].to_vec() })
}

/// Why a lock is none of ours, as the scripts say it.
pub(crate) fn wrong(key: &LockKey, name: &str, words: &[Value]) -> BackendError {
    let detail =
        || String::from_utf8_lossy(bytes(words.get(1), "error").unwrap_or_default()).into_owned();
    match text(words.first(), "answer") {
        Ok("name") => {
            let why = format!(
                "key {name} of lock {key} belongs to {:?}: two names met in one hash; rename one of them",
                detail()
            );
            BackendError::new(Kind::Corrupt, why)
        }
        Ok("version") => {
            let why = format!(
                "key {name} of lock {key} has format {:?}, which this release does not know: use one release for the whole fleet",
                detail()
            );
            BackendError::new(Kind::Misconfigured, why)
        }
        Ok("foreign") => {
            let why = format!(
                "key {name} of lock {key} is a hash that somebody else wrote: choose another namespace, or remove that key"
            );
            BackendError::new(Kind::Misconfigured, why)
        }
        _ => Odd("answer").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LockKey {
        LockKey::new("report").unwrap()
    }

    #[test]
    fn a_holder_is_read_with_every_part() {
        let now = Timestamp::from_second(100).unwrap();
        let read = holder(
            &key(),
            "00000000000000000000000000000007 105000000 99000000 2 98000 host/1 a",
            now,
        )
        .unwrap();
        assert_eq!((read.nonce, read.node.as_str()), (Some(Nonce::from_u128(7)), "host/1 a"));
        assert_eq!(
            (read.tick, read.remaining),
            (Some(Mark::from_millis(98_000)), Some(Duration::from_secs(5)))
        );
        assert!(read.living);
        assert!(!holder(&key(), "7 100000000 99000000 1 - ", now).unwrap().living);
    }

    #[test]
    fn a_claim_is_read_with_and_without_an_owner() {
        let read = claim("-5 0 3 =a b").unwrap();
        assert_eq!((read.mark.as_millis(), read.done, read.attempts), (-5, false, 3));
        assert_eq!(read.owner, Some(NodeId::named("a b")));
        assert_eq!(claim("5 1 0 -").unwrap().owner, None);
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in ["", " ", "x", "1 2 3 4 5", "zz 1 1 1 - n", "1 9999999999999999999999 1 1 - n"]
        {
            assert!(holder(&key(), text, Timestamp::UNIX_EPOCH).is_err(), "{text:?}");
            assert!(claim(text).is_err(), "{text:?}");
        }
        assert!(schedule("1").is_err() && schedule("x 1").is_err());
        assert!(note(b"1").is_err() && note(b"x y").is_err() && note(b"\xff y").is_err());
        assert_eq!(note(b"2 ").unwrap(), Note { version: 2, body: vec![] });
    }
}
