//! Two slots of a file: what a [`KeyRecord`] looks like on disk.
//!
//! ```text
//!  byte 0          slot 0          4096          slot 1         8192
//!  ├──────────────────────────────┼──────────────────────────────┤   seq 1, 3, 5 … in slot 0; seq 2, 4, 6 … in slot 1
//!  │ magic version flags sum seq  │  a write goes over the older │
//!  │ boot tag length  │ KeyRecord │  slot, in one pwrite         │
//! ```
//!
//! The valid slot with the greater seq is the record. The other one holds the write before it, or nothing in a file that was
//! written once. Anything else is **damage**: the slot that is gone may have been the newer one, with a mark that nobody knows any
//! more, so whoever holds the lock moves the mark to the present instead of believing the older slot
//! ([`KeyRecord::forget_before`]). The fence needs no such care: it grows with the clock.
//!
//! A killed process leaves no damage: a slot is one page, and the kernel copies a page's worth of one `pwrite` as a whole. A reader
//! without the lock may see half a write; it reads again.

use std::fs::File;
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::FileExt;

use siphasher::sip::SipHasher13;

use crate::lock::{KeyRecord, LockKey, RecordError};

/// The length of a record file. All of it is allocated when it is made, so that a full disk cannot stop a later write.
pub const FILE_LEN: usize = 2 * SLOT;
const SLOT: usize = 4096;
const HEAD: usize = 64;
const MAGIC: [u8; 8] = *b"solocron";
const VERSION: u16 = 1;
/// The writer waits for the disk whenever a mark moves.
const SYNCED: u16 = 1;
const SUM: std::ops::Range<usize> = 12..16;

const _: () = assert!(HEAD + KeyRecord::MAX_BYTES <= SLOT, "a record fits its slot");

/// What stands around a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// How many writes there were, with this one.
    pub seq: u64,
    /// The boot in which it was written.
    pub boot: u128,
    /// A number of the writer's own; 0 where it has none.
    pub tag: u128,
    /// Whether marks were waited for to reach the disk.
    pub synced: bool,
}

/// What a record file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one call")]
pub enum Content {
    /// Nothing was ever written.
    Fresh,
    /// A record.
    Record {
        /// The record.
        record: KeyRecord,
        /// What stands around it.
        stamp: Stamp,
        /// A newer record may be lost.
        damaged: bool,
    },
}

/// A record that was read without its key in hand, and stands for as long as nobody has written since.
#[derive(Debug, Clone)]
pub struct Glance {
    /// The record.
    pub record: KeyRecord,
    /// What stands around it.
    pub stamp: Stamp,
    /// The head of the other slot: the next write goes over it.
    next: [u8; HEAD],
}

impl Glance {
    /// Whether this is still the record. For whoever has the key in hand: nobody writes meanwhile.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read.
    pub fn stands(&self, file: &File) -> io::Result<bool> {
        let mut next = [0; HEAD];
        let at = (place(self.stamp.seq + 1) * SLOT) as u64;
        match file.read_exact_at(&mut next, at) {
            Ok(()) => Ok(next == self.next),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Why a record file holds no record, although it is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// Both slots are damaged.
    Corrupt,
    /// Another release wrote it.
    Version(u16),
    /// The record itself is refused.
    Record(RecordError),
}

/// Which lock a reader means.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// This one, and no other.
    Key(&'a LockKey),
    /// Whichever the file belongs to.
    Any,
}

enum Slot<'a> {
    Empty,
    Damaged,
    Valid(Stamp, &'a [u8]),
}

/// Reads a whole record file.
///
/// # Errors
///
/// Outside: the file cannot be read. Inside: what it holds is no record.
pub fn read(file: &File, of: Of<'_>) -> io::Result<Result<Content, Unreadable>> {
    let mut bytes = [0; FILE_LEN];
    let filled = fill(file, &mut bytes)?;
    Ok(parse(&bytes[..filled], of))
}

/// The record of `key`, read without it in hand. `None`: nothing was written, or a write is under way, or the file is damaged.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn glance(file: &File, key: &LockKey) -> io::Result<Option<Glance>> {
    let mut bytes = [0; FILE_LEN];
    let filled = fill(file, &mut bytes)?;
    let Ok(Content::Record { record, stamp, damaged: false }) =
        parse(&bytes[..filled], Of::Key(key))
    else {
        return Ok(None);
    };
    // A write that was under way left a gap between the two, which is damage.
    let next = bytes[place(stamp.seq + 1) * SLOT..].first_chunk().copied();
    Ok(next.map(|next| Glance { record, stamp, next }))
}

/// How many bytes there are.
fn fill(file: &File, bytes: &mut [u8; FILE_LEN]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < FILE_LEN {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes the record that follows `before`. `Ok`: the stamp that was written.
///
/// # Errors
///
/// Where the file cannot be written; the older of its slots may be damaged then.
pub fn write(
    file: &File,
    record: &KeyRecord,
    before: u64,
    tag: u128,
    synced: bool,
) -> io::Result<Stamp> {
    let stamp = Stamp { seq: before + 1, boot: super::boot::id(), tag, synced };
    let bytes = encode(&stamp, &record.to_bytes());
    file.write_all_at(&bytes, (place(stamp.seq) * SLOT) as u64)?;
    Ok(stamp)
}

/// Allocates what the file lacks of its length. What a crash leaves of a new file is zeros, which is [`Content::Fresh`].
///
/// # Errors
///
/// Where the disk is full, or the file cannot be written.
pub fn allocate(file: &File) -> io::Result<()> {
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(FILE_LEN).min(FILE_LEN);
    file.write_all_at(&[0; FILE_LEN][len..], len as u64)
}

fn place(seq: u64) -> usize {
    usize::from(seq.is_multiple_of(2))
}

/// A slot's bytes.
#[must_use]
pub fn encode(stamp: &Stamp, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((if stamp.synced { SYNCED } else { 0 }).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(stamp.seq.to_le_bytes());
    bytes.extend(stamp.boot.to_le_bytes());
    bytes.extend(stamp.tag.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.resize(HEAD, 0);
    bytes.extend(payload);
    let sum = checksum(&bytes);
    bytes[SUM].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Over everything but itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(&bytes[..SUM.start]);
    hasher.write(&bytes[SUM.end..]);
    hasher.finish() as u32
}

fn parse(bytes: &[u8], of: Of<'_>) -> Result<Content, Unreadable> {
    let cut = bytes.len().min(SLOT);
    let slots = [slot(&bytes[..cut], 0)?, slot(&bytes[cut..], 1)?];
    let (newest, stamp, payload) = match &slots {
        [Slot::Valid(a, x), Slot::Valid(b, _)] if a.seq > b.seq => (0, *a, *x),
        [_, Slot::Valid(b, y)] => (1, *b, *y),
        [Slot::Valid(a, x), _] => (0, *a, *x),
        [Slot::Empty, Slot::Empty] => return Ok(Content::Fresh),
        _ => return Err(Unreadable::Corrupt),
    };
    let whole = bytes.len() >= FILE_LEN
        && match &slots[1 - newest] {
            Slot::Valid(other, _) => other.seq + 1 == stamp.seq,
            Slot::Empty => stamp.seq == 1,
            Slot::Damaged => false,
        };
    let record = decode(payload, of).map_err(Unreadable::Record)?;
    Ok(Content::Record { record, stamp, damaged: !whole })
}

fn decode(payload: &[u8], of: Of<'_>) -> Result<KeyRecord, RecordError> {
    match of {
        Of::Key(key) => KeyRecord::from_bytes(key, payload),
        Of::Any => KeyRecord::from_any_bytes(payload),
    }
}

fn slot(bytes: &[u8], at: usize) -> Result<Slot<'_>, Unreadable> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Slot::Empty);
    }
    let Some(head) = bytes.first_chunk::<HEAD>() else { return Ok(Slot::Damaged) };
    let length = u32::from_le_bytes(*field(head, 56)) as usize;
    let Some(all) = HEAD.checked_add(length).and_then(|end| bytes.get(..end)) else {
        return Ok(Slot::Damaged);
    };
    let sum = u32::from_le_bytes(*field(head, SUM.start));
    if *field::<8>(head, 0) != MAGIC || checksum(all) != sum {
        return Ok(Slot::Damaged);
    }
    let version = u16::from_le_bytes(*field(head, 8));
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let stamp = Stamp {
        seq: u64::from_le_bytes(*field(head, 16)),
        boot: u128::from_le_bytes(*field(head, 24)),
        tag: u128::from_le_bytes(*field(head, 40)),
        synced: u16::from_le_bytes(*field(head, 10)) & SYNCED != 0,
    };
    let right_place = stamp.seq > 0 && place(stamp.seq) == at;
    Ok(if right_place { Slot::Valid(stamp, &all[HEAD..]) } else { Slot::Damaged })
}

fn field<const N: usize>(head: &[u8; HEAD], at: usize) -> &[u8; N] {
    head[at..].first_chunk().expect("every field lies within the head")
}

#[cfg(test)]
mod tests;
