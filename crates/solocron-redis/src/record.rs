//! The bytes that scripts answer with, records of locks foremost: `lua/common.lua` draws them.

use std::time::Duration;

use redis::Value;
use solocron::jiff::Timestamp;
use solocron::lock::{ClaimState, Fence, Holder, LockKey, Mark, NodeId, Nonce, Note, Schedule};
use solocron::{BackendError, Kind};

use crate::reply::{self, Odd, Result};

/// Reads one thing after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a> {
    rest: &'a [u8],
    part: &'static str,
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8], part: &'static str) -> Self {
        Self { rest: bytes, part }
    }

    /// Of an answer.
    pub(crate) fn of(answer: &'a Value, part: &'static str) -> Result<Self> {
        reply::bytes(Some(answer), part).map(|bytes| Self::new(bytes, part))
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Odd(self.part))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Odd(self.part))
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<usize> {
        self.array().map(|bytes| u16::from_le_bytes(bytes).into())
    }

    fn word(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn nonce(&mut self) -> Result<Nonce> {
        self.array().map(|bytes| Nonce::from_u128(u128::from_be_bytes(bytes)))
    }

    pub(crate) fn double(&mut self) -> Result<f64> {
        self.array().map(f64::from_le_bytes)
    }

    /// A whole number; scripts know no others.
    pub(crate) fn number(&mut self) -> Result<i64> {
        const LIMIT: f64 = 9_007_199_254_740_992.0;
        let number = self.double()?;
        if number.trunc() != number || number.abs() > LIMIT {
            return Err(Odd(self.part));
        }
        Ok(number as i64)
    }

    /// A mark, which may not be there.
    pub(crate) fn mark(&mut self) -> Result<Option<Mark>> {
        let mut ahead = *self;
        if self.double()?.is_nan() {
            return Ok(None);
        }
        ahead.number().map(|mark| Some(Mark::from_millis(mark)))
    }

    pub(crate) fn micros(&mut self) -> Result<Timestamp> {
        Timestamp::from_microsecond(self.number()?).map_err(|_| Odd(self.part))
    }

    pub(crate) fn text(&mut self, count: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(count)?).map_err(|_| Odd(self.part))
    }

    /// One answer of many: its length, and then itself.
    pub(crate) fn frame(&mut self) -> Result<Self> {
        let count = self.word()?.try_into().map_err(|_| Odd(self.part))?;
        Ok(Self { rest: self.take(count)?, part: self.part })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// What stands on record of a lock.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) name: &'a str,
    pub(crate) fence: Fence,
    pub(crate) attempt: u32,
    pub(crate) last: Option<ClaimState>,
    /// The claim before it.
    pub(crate) before: Option<ClaimState>,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) note: Note,
    pub(crate) tick: Option<Mark>,
    holder: Nonce,
    node: &'a str,
    until: Timestamp,
    since: Timestamp,
}

/// A claim without the name of its owner, which comes later.
struct Claimed {
    mark: Mark,
    attempts: u32,
    state: u8,
    owner: usize,
}

impl Claimed {
    fn read(bytes: &mut Bytes<'_>) -> Result<Self> {
        let mark = Mark::from_millis(bytes.number()?);
        Ok(Self {
            mark,
            attempts: bytes.word()?,
            state: bytes.byte()?,
            owner: bytes.byte()?.into(),
        })
    }

    fn named(self, bytes: &mut Bytes<'_>) -> Result<Option<ClaimState>> {
        let owner = bytes.text(self.owner)?;
        let owner = (self.state > 2).then(|| NodeId::named(owner));
        let done = self.state.is_multiple_of(2);
        let claim = ClaimState { mark: self.mark, done, attempts: self.attempts, owner };
        Ok((self.state > 0).then_some(claim))
    }
}

impl<'a> Record<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut head = Bytes::new(bytes, "record");
        if head.take(4)? != b"SLR1" {
            return Err(Odd("record"));
        }
        let _waited = head.byte()?;
        let fence = u64::try_from(head.number()?).map_err(|_| Odd("fence"))?;
        let (until, since) = (head.micros()?, head.micros()?);
        let (tick, attempt) = (head.mark()?, head.word()?);
        let (holder, _released, _expires) = (head.nonce()?, head.nonce()?, head.double()?);
        let (name, node) = (head.short()?, head.short()?);
        let name = head.text(name)?;
        let body = head.rest().len().checked_sub(node).ok_or(Odd("record"))?;
        let mut body = Bytes::new(head.take(body)?, "record");
        let node = head.text(node)?;
        let mut record = Self {
            name,
            fence: Fence::new(fence),
            attempt,
            last: None,
            before: None,
            schedule: None,
            note: Note::default(),
            tick,
            holder,
            node,
            until,
            since,
        };
        if !body.is_empty() {
            record.read_body(&mut body)?;
        }
        Ok(record)
    }

    fn read_body(&mut self, body: &mut Bytes<'_>) -> Result<()> {
        let _claimant = body.nonce()?;
        let fingerprint = u64::from_le_bytes(body.array()?);
        let changed = Mark::from_millis(body.number()?);
        let version = u64::from_le_bytes(body.array()?);
        let (last, before) = (Claimed::read(body)?, Claimed::read(body)?);
        let (refused, note) = (body.short()?, body.short()?);
        self.last = last.named(body)?;
        self.before = before.named(body)?;
        self.schedule = self.last.is_some().then_some(Schedule { fingerprint, since: changed });
        body.take(refused * 24)?;
        self.note = Note { version, body: body.take(note)?.to_vec() };
        if body.is_empty() { Ok(()) } else { Err(Odd("record")) }
    }

    /// Who holds it, by the store's clock.
    pub(crate) fn holder(&self, key: &LockKey, now: Timestamp) -> Holder {
        let mut holder =
            Holder::new(key.clone(), self.holder, NodeId::named(self.node), self.since);
        holder.tick = self.tick;
        let remaining = Duration::try_from(self.until.duration_since(now)).unwrap_or_default();
        holder.remaining = Some(remaining);
        holder.living = !remaining.is_zero();
        holder
    }

    /// How long ago it was granted to who holds it, by the store's clock.
    pub(crate) fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.since)).unwrap_or_default()
    }

    pub(crate) fn is_held(&self, now: Timestamp) -> bool {
        self.until > now
    }
}

/// Why a lock is none of ours, as the scripts say it: a letter, and some detail.
pub(crate) fn wrong(key: &LockKey, name: &str, letter: u8, detail: &[u8]) -> BackendError {
    let detail = String::from_utf8_lossy(detail);
    match letter {
        b'N' => {
            let why = format!(
                "key {name} of lock {key} belongs to {detail:?}: two names met in one hash; rename one of them"
            );
            BackendError::new(Kind::Corrupt, why)
        }
        b'V' => {
            let why = format!(
                "key {name} of lock {key} has format {detail:?}, which this release does not know: use one release for the whole fleet"
            );
            BackendError::new(Kind::Misconfigured, why)
        }
        b'F' => {
            let why = format!(
                "key {name} of lock {key} holds a value that somebody else wrote: choose another namespace, or remove that key"
            );
            BackendError::new(Kind::Misconfigured, why)
        }
        _ => Odd("answer").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a claimed and held job, in the order that `lua/common.lua` draws.
    fn bytes() -> Vec<u8> {
        let mut bytes = b"SLR1\x01".to_vec();
        for number in [5.0, 105e6, 99e6, 98_000.0] {
            bytes.extend(f64::to_le_bytes(number));
        }
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(7u128.to_be_bytes());
        bytes.extend(0u128.to_be_bytes());
        bytes.extend(0f64.to_le_bytes());
        bytes.extend([6, 0, 8, 0]);
        bytes.extend(b"report");
        bytes.extend(7u128.to_be_bytes());
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend(3f64.to_le_bytes());
        bytes.extend(4u64.to_le_bytes());
        bytes.extend(98_000f64.to_le_bytes());
        bytes.extend([2, 0, 0, 0, 3, 3]);
        bytes.extend((-5f64).to_le_bytes());
        bytes.extend([1, 0, 0, 0, 2, 0]);
        bytes.extend([1, 0, 2, 0]);
        bytes.extend(b"a/1");
        bytes.extend([9; 24]);
        bytes.extend(b"no");
        bytes.extend(b"host/1 a");
        bytes
    }

    #[test]
    fn a_record_is_read_with_every_part() {
        let bytes = bytes();
        let record = Record::read(&bytes).unwrap();
        let key = LockKey::new(record.name).unwrap();
        let now = Timestamp::from_second(100).unwrap();
        let holder = record.holder(&key, now);
        assert_eq!((record.name, record.fence, record.attempt), ("report", Fence::new(5), 2));
        assert_eq!((holder.nonce, holder.node.as_str()), (Some(Nonce::from_u128(7)), "host/1 a"));
        assert_eq!(
            (holder.tick, holder.remaining, holder.living),
            (Some(Mark::from_millis(98_000)), Some(Duration::from_secs(5)), true)
        );
        assert!(!record.holder(&key, Timestamp::from_second(105).unwrap()).living);
        let (last, before) = (record.last.unwrap(), record.before.unwrap());
        assert_eq!((last.mark.as_millis(), last.done, last.attempts), (98_000, false, 2));
        assert_eq!(last.owner, Some(NodeId::named("a/1")));
        assert_eq!((before.mark.as_millis(), before.done, before.owner), (-5, true, None));
        assert_eq!(
            record.schedule,
            Some(Schedule { fingerprint: u64::MAX, since: Mark::from_millis(3) })
        );
        assert_eq!(record.note, Note { version: 4, body: b"no".to_vec() });
    }

    #[test]
    fn a_record_that_is_cut_off_anywhere_is_an_error() {
        let bytes = bytes();
        for end in 0..bytes.len() {
            // But where exactly a plain lock is left.
            let plain = Record::read(&bytes[..end]).is_ok_and(|record| record.last.is_none());
            assert!(Record::read(&bytes[..end]).is_err() || plain, "{end}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            let _ = Record::read(&bytes);
        }
    }
}
