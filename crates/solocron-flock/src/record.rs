//! Two slots of a lock file: what a [`KeyRecord`] looks like on disk.
//!
//! ```text
//!  byte 0          slot 0          4096          slot 1         8192
//!  ├──────────────────────────────┼──────────────────────────────┤   seq 1, 3, 5 … in slot 0; seq 2, 4, 6 … in slot 1
//!  │ magic version flags crc seq  │  a write goes over the older │
//!  │ boot bell length │ KeyRecord │  slot, in one pwrite         │
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
use std::io;
use std::os::unix::fs::FileExt;

use solocron::lock::{KeyRecord, LockKey, RecordError};

/// The length of a lock file. All of it is allocated when it is made, so that a full disk cannot stop a later write.
pub(crate) const FILE_LEN: usize = 2 * SLOT;
const SLOT: usize = 4096;
const HEAD: usize = 64;
const MAGIC: [u8; 8] = *b"solocron";
const VERSION: u16 = 1;
/// The writer waits for the disk whenever a mark moves.
const SYNCED: u16 = 1;
const CRC: std::ops::Range<usize> = 12..16;

const _: () = assert!(HEAD + KeyRecord::MAX_BYTES <= SLOT, "a record fits its slot");

/// What stands around a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seq: u64,
    /// The boot in which it was written.
    pub(crate) boot: u128,
    /// The bell of the process that holds the key; 0 where there is none.
    pub(crate) bell: u128,
    /// Whether marks were waited for to reach the disk.
    pub(crate) synced: bool,
}

/// What a lock file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one call")]
pub(crate) enum Content {
    /// Nothing was ever written.
    Fresh,
    /// A record.
    Record {
        record: KeyRecord,
        stamp: Stamp,
        /// A newer record may be lost.
        damaged: bool,
    },
}

/// Why a lock file holds no record, although it is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Both slots are damaged.
    Corrupt,
    /// Another release wrote it.
    Version(u16),
    /// The record itself is refused.
    Record(RecordError),
}

/// Which lock a reader means.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
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

/// Reads a whole lock file.
pub(crate) fn read(file: &File, of: Of<'_>) -> io::Result<Result<Content, Unreadable>> {
    let mut bytes = [0; FILE_LEN];
    let mut filled = 0;
    while filled < FILE_LEN {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(parse(&bytes[..filled], of))
}

/// Writes the record that follows `before`. `Ok`: the stamp that was written.
pub(crate) fn write(
    file: &File,
    record: &KeyRecord,
    before: u64,
    bell: u128,
    synced: bool,
) -> io::Result<Stamp> {
    let stamp = Stamp { seq: before + 1, boot: crate::boot::id(), bell, synced };
    let bytes = encode(&stamp, &record.to_bytes());
    file.write_all_at(&bytes, (place(stamp.seq) * SLOT) as u64)?;
    Ok(stamp)
}

/// Allocates what the file lacks of its length. What a crash leaves of a new file is zeros, which is [`Content::Fresh`].
pub(crate) fn allocate(file: &File) -> io::Result<()> {
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(FILE_LEN).min(FILE_LEN);
    file.write_all_at(&[0; FILE_LEN][len..], len as u64)
}

fn place(seq: u64) -> usize {
    usize::from(seq.is_multiple_of(2))
}

pub(crate) fn encode(stamp: &Stamp, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((if stamp.synced { SYNCED } else { 0 }).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(stamp.seq.to_le_bytes());
    bytes.extend(stamp.boot.to_le_bytes());
    bytes.extend(stamp.bell.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.resize(HEAD, 0);
    bytes.extend(payload);
    let crc = checksum(&bytes);
    bytes[CRC].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Over everything but itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC.start]);
    hasher.update(&bytes[CRC.end..]);
    hasher.finalize()
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
        Of::Any => {
            let any = LockKey::new("-").expect("neither empty nor long");
            match KeyRecord::from_bytes(&any, payload) {
                Err(RecordError::Key(found)) => KeyRecord::from_bytes(&found, payload),
                answer => answer,
            }
        }
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
    let crc = u32::from_le_bytes(*field(head, CRC.start));
    if *field::<8>(head, 0) != MAGIC || checksum(all) != crc {
        return Ok(Slot::Damaged);
    }
    let version = u16::from_le_bytes(*field(head, 8));
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let stamp = Stamp {
        seq: u64::from_le_bytes(*field(head, 16)),
        boot: u128::from_le_bytes(*field(head, 24)),
        bell: u128::from_le_bytes(*field(head, 40)),
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
