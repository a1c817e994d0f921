//! The record as bytes, for stores that keep it as a value. Little-endian, versioned; whoever writes it adds a checksum.

use std::fmt;

use jiff::Timestamp;

use super::{ClaimState, Claims, KeyRecord, LivingHolder, Refused};
use crate::lock::{Fence, LockKey, Mark, NodeId, Nonce, Note, Schedule};

/// The format that is written. A reader refuses any other by name.
const VERSION: u16 = 1;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// It was written by another format version of solocron.
    Version(u16),
    /// It is not what a record looks like; the text names the field.
    Malformed(&'static str),
    /// It belongs to another key.
    Key(LockKey),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => write!(
                f,
                "record has format {found}, this solocron reads format {VERSION}: use one release for the whole fleet"
            ),
            Self::Malformed(field) => write!(f, "record is corrupt in its {field}"),
            Self::Key(found) => write!(
                f,
                "record belongs to {found}: two names met in one slug; rename one of them"
            ),
        }
    }
}

impl std::error::Error for RecordError {}

impl KeyRecord {
    /// More bytes than any record needs.
    pub const MAX_BYTES: usize = 2
        + 2
        + LockKey::MAX_BYTES
        + 3 * (2 * NodeId::MAX_BYTES)
        + Self::MAX_REFUSED * 24
        + Note::MAX_BYTES
        + 400;

    /// The record as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(256));
        out.0.extend(VERSION.to_le_bytes());
        out.text(self.key.as_str());
        out.u64(self.fence.as_u64());
        out.option(self.claims.as_ref(), |out, claims| {
            out.claim(&claims.last);
            out.option(claims.previous.as_ref(), Writer::claim);
            out.option(claims.nonce.as_ref(), |out, nonce| out.nonce(*nonce));
            out.u64(claims.schedule.fingerprint);
            out.i64(claims.schedule.since.as_millis());
        });
        out.option(self.holder.as_ref(), |out, holder| {
            out.nonce(holder.nonce);
            out.text(holder.node.as_str());
            out.i64(holder.since.as_microsecond());
            out.option(holder.tick.as_ref(), |out, tick| out.i64(tick.as_millis()));
            out.u64(u64::from(holder.attempt));
            out.option(holder.until.as_ref(), |out, until| out.i64(until.as_microsecond()));
        });
        out.option(self.released.as_ref(), |out, nonce| out.nonce(*nonce));
        out.0.push(self.refused.len() as u8);
        for Refused { nonce, until } in &self.refused {
            out.nonce(*nonce);
            out.i64(until.as_microsecond());
        }
        out.u64(self.note.version);
        out.bytes(&self.note.body);
        out.0
    }

    /// The record of `key` in these bytes. Bytes behind it are left alone.
    ///
    /// # Errors
    ///
    /// [`RecordError`] where they are no record, one of another format, or one of another key. Never panics.
    pub fn from_bytes(key: &LockKey, bytes: &[u8]) -> Result<Self, RecordError> {
        let record = Self::from_any_bytes(bytes)?;
        if record.key == *key { Ok(record) } else { Err(RecordError::Key(record.key)) }
    }

    /// The record in these bytes, of whatever key it is: for listing who holds what.
    ///
    /// # Errors
    ///
    /// [`RecordError`] where they are no record, or one of another format. Never panics.
    pub fn from_any_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut read = Reader(bytes);
        let version = u16::from_le_bytes(read.array("format version")?);
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let found = LockKey::new(read.text("key")?).map_err(|_| RecordError::Malformed("key"))?;
        Ok(Self {
            key: found,
            fence: Fence::new(read.u64("fence")?),
            claims: read.option("claims", |read| {
                Ok(Claims {
                    last: read.claim()?,
                    previous: read.option("previous claim", Reader::claim)?,
                    nonce: read.option("claim nonce", |read| read.nonce("claim nonce"))?,
                    schedule: Schedule {
                        fingerprint: read.u64("fingerprint")?,
                        since: Mark::from_millis(read.i64("schedule")?),
                    },
                })
            })?,
            holder: read.option("holder", |read| {
                Ok(LivingHolder {
                    nonce: read.nonce("holder")?,
                    node: NodeId::named(read.text("holder")?),
                    since: read.instant("holder")?,
                    tick: read
                        .option("holder", |read| Ok(Mark::from_millis(read.i64("holder")?)))?,
                    attempt: u32::try_from(read.u64("holder")?)
                        .map_err(|_| RecordError::Malformed("holder"))?,
                    until: read.option("holder", |read| read.instant("holder"))?,
                })
            })?,
            released: read.option("released nonce", |read| read.nonce("released nonce"))?,
            refused: {
                let [count] = read.array("refused nonces")?;
                if usize::from(count) > Self::MAX_REFUSED {
                    return Err(RecordError::Malformed("refused nonces"));
                }
                (0..count)
                    .map(|_| {
                        Ok(Refused {
                            nonce: read.nonce("refused nonces")?,
                            until: read.instant("refused nonces")?,
                        })
                    })
                    .collect::<Result<_, _>>()?
            },
            note: Note {
                version: read.u64("note")?,
                body: read.bytes("note", Note::MAX_BYTES)?.to_vec(),
            },
        })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend(value.to_le_bytes());
    }

    fn nonce(&mut self, nonce: Nonce) {
        self.0.extend(nonce.as_u128().to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // Every text and note in a record is far shorter than 64 KiB.
        self.0.extend((bytes.len() as u16).to_le_bytes());
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn claim(&mut self, claim: &ClaimState) {
        self.i64(claim.mark.as_millis());
        self.0.push(u8::from(claim.done));
        self.u64(u64::from(claim.attempts));
        self.option(claim.owner.as_ref(), |out, owner| out.text(owner.as_str()));
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RecordError::Malformed(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RecordError> {
        self.take(N, field).map(|bytes| bytes.try_into().expect("took N bytes"))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, RecordError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, RecordError> {
        self.array(field).map(i64::from_le_bytes)
    }

    fn nonce(&mut self, field: &'static str) -> Result<Nonce, RecordError> {
        self.array(field).map(|bytes| Nonce::from_u128(u128::from_le_bytes(bytes)))
    }

    fn instant(&mut self, field: &'static str) -> Result<Timestamp, RecordError> {
        Timestamp::from_microsecond(self.i64(field)?).map_err(|_| RecordError::Malformed(field))
    }

    fn bytes(&mut self, field: &'static str, longest: usize) -> Result<&'a [u8], RecordError> {
        let count = usize::from(u16::from_le_bytes(self.array(field)?));
        if count > longest {
            return Err(RecordError::Malformed(field));
        }
        self.take(count, field)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, RecordError> {
        let bytes = self.bytes(field, LockKey::MAX_BYTES)?;
        std::str::from_utf8(bytes).map_err(|_| RecordError::Malformed(field))
    }

    fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Option<T>, RecordError> {
        match self.array(field)? {
            [0] => Ok(None),
            [1] => read(self).map(Some),
            _ => Err(RecordError::Malformed(field)),
        }
    }

    fn claim(&mut self) -> Result<ClaimState, RecordError> {
        Ok(ClaimState {
            mark: Mark::from_millis(self.i64("claim")?),
            done: matches!(self.array("claim")?, [1]),
            attempts: u32::try_from(self.u64("claim")?)
                .map_err(|_| RecordError::Malformed("claim"))?,
            owner: self.option("claim", |read| Ok(NodeId::named(read.text("claim")?)))?,
        })
    }
}
