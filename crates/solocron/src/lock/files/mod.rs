//! Records in files: for backends of one host, which keep a [`KeyRecord`] in a file each and see to it that one process at a time
//! writes it. Unix only.
//!
//! ```text
//!   directory::prepare   is this directory to be trusted with records?
//!   open, at             a file of it, and whether it still stands at its path
//!   load                 its record, for whoever has the key in hand     peek: for everybody else
//!   glance               its record, for whoever may have it in hand soon
//!   slots::write         the record that follows, over the older of two slots
//!   Known                whether a file of an enrolled job was deleted or replaced
//!   boot                 whether what was written may have been lost with a power loss
//! ```

pub mod boot;
pub mod directory;
mod error;
mod identity;
mod known;
mod open;
pub mod slots;

use std::fs::File;
use std::path::Path;

use jiff::Timestamp;

pub use self::error::{refused, unreadable};
pub use self::identity::Inode;
pub use self::known::Known;
pub use self::open::{Opened, Rights, at, open};
use self::slots::{Content, Glance, Of, Stamp, Unreadable};
use super::{KeyRecord, LockKey, Mark};
use crate::error::BackendError;

/// What a file holds, seen without its key in hand.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The record.
    pub record: KeyRecord,
    /// Half of the file is unreadable, even when read again.
    pub damaged: bool,
}

/// The record and its seq, read with the key in hand; what may be lost of it is not granted again. `synced`: marks are waited for to
/// reach the disk.
///
/// # Errors
///
/// Where the file cannot be read, or holds no record of `key`.
pub fn load(
    path: &Path,
    file: &File,
    key: &LockKey,
    now: Timestamp,
    synced: bool,
) -> Result<(KeyRecord, u64), BackendError> {
    let content = slots::read(file, Of::Key(key))
        .map_err(|error| refused("read", path, &error))?
        .map_err(|why| unreadable(path, &why))?;
    let (mut record, stamp, damaged) = match content {
        Content::Fresh => return Ok((KeyRecord::new(key.clone()), 0)),
        Content::Record { record, stamp, damaged } => (record, stamp, damaged),
    };
    forget(&mut record, &stamp, now, synced);
    let mut seq = stamp.seq;
    if damaged {
        tracing::warn!(
            path = %path.display(),
            "record file is damaged in one slot: ticks due before now are not claimed again"
        );
        record.forget_before(Mark::floor(now));
        // At once: otherwise the next tick would be forgotten as well.
        seq = slots::allocate(file)
            .and_then(|()| slots::write(file, &record, seq, 0, synced))
            .map_err(|error| refused("mend", path, &error))?
            .seq;
    }
    Ok((record, seq))
}

/// The whole record as it stands without its key in hand, if nobody is writing it. [`Glance::stands`] says later whether it is still
/// that one.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn glance(
    path: &Path,
    file: &File,
    key: &LockKey,
    now: Timestamp,
    synced: bool,
) -> Result<Option<Glance>, BackendError> {
    let glance = slots::glance(file, key).map_err(|error| refused("read", path, &error))?;
    Ok(glance.map(|mut glance| {
        forget(&mut glance.record, &glance.stamp, now, synced);
        glance
    }))
}

/// What a file holds, without its key in hand: whoever has it may be writing. `None`: nothing yet.
///
/// # Errors
///
/// As [`load`].
pub fn peek(
    path: &Path,
    file: &File,
    key: &LockKey,
    now: Timestamp,
    synced: bool,
) -> Result<Option<Seen>, BackendError> {
    let mut again = 3;
    loop {
        again -= 1;
        let content =
            slots::read(file, Of::Key(key)).map_err(|error| refused("read", path, &error))?;
        match content {
            // A write under way.
            Ok(Content::Record { damaged: true, .. }) | Err(Unreadable::Corrupt) if again > 0 => {}
            Ok(Content::Fresh) => return Ok(None),
            Ok(Content::Record { mut record, stamp, damaged }) => {
                forget(&mut record, &stamp, now, synced);
                return Ok(Some(Seen { record, damaged }));
            }
            Err(why) => return Err(unreadable(path, &why)),
        }
    }
}

/// What was written in another boot may lack its last writes.
fn forget(record: &mut KeyRecord, stamp: &Stamp, now: Timestamp, synced: bool) {
    if stamp.boot != boot::id() && !(stamp.synced && synced) {
        record.forget_before(boot::began(now));
    }
}
