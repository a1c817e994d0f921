use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use crate::LeaseInstant;
use crate::lock::{Claim, Delivery, Enrolment, Mark, MarkAfter, NodeId, Nonce, Request};

use super::*;

fn key() -> LockKey {
    LockKey::new("nightly").unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

/// A record after `claims` claimed ticks, and the bytes of the file that it was written to step by step.
fn file_after(claims: i64) -> (KeyRecord, Vec<u8>) {
    let mut bytes = vec![0; FILE_LEN];
    let mut record = KeyRecord::new(key());
    record.enroll(&Enrolment { key: key(), fingerprint: 7 }, at(0));
    let mut seq = 0;
    let mut put = |record: &KeyRecord| {
        seq += 1;
        let stamp = Stamp { seq, boot: 5, tag: 9, synced: false };
        let slot = encode(&stamp, &record.to_bytes());
        let start = place(seq) * SLOT;
        bytes[start..start + slot.len()].copy_from_slice(&slot);
    };
    put(&record);
    for n in 1..=claims {
        let nonce = Nonce::from_u128(n as u128);
        let sent = LeaseInstant::from_origin(Duration::ZERO);
        let claim =
            Claim { tick: Mark::from_millis(n), after: None, delivery: Delivery::AtMostOnce };
        let request = Request::new(key(), nonce, NodeId::named("n"), Duration::from_secs(1), sent)
            .claiming(claim);
        record.grant(&request, at(n), None);
        put(&record);
        record.release(nonce, MarkAfter::Done, at(n));
        put(&record);
    }
    (record, bytes)
}

fn parsed(bytes: &[u8]) -> Result<Content, Unreadable> {
    parse(bytes, Of::Key(&key()))
}

#[test]
fn the_greater_seq_wins_in_either_slot() {
    for claims in 0..4 {
        let (expected, bytes) = file_after(claims);
        let Ok(Content::Record { record, stamp, damaged: false }) = parsed(&bytes) else {
            panic!("{claims}")
        };
        assert_eq!((record, stamp.seq, stamp.tag), (expected, 1 + 2 * claims as u64, 9));
    }
}

#[test]
fn nothing_but_zeros_is_fresh() {
    for len in [0, 1, 63, 64, SLOT, SLOT + 1, FILE_LEN] {
        assert_eq!(parsed(&vec![0; len]), Ok(Content::Fresh), "{len}");
    }
}

#[test]
fn a_slot_that_is_gone_is_damage_and_not_an_older_truth() {
    let (_, bytes) = file_after(3);
    for slot in 0..2 {
        for fill in [0, 0xff] {
            let mut bytes = bytes.clone();
            bytes[slot * SLOT..(slot + 1) * SLOT].fill(fill);
            assert!(
                matches!(parsed(&bytes), Ok(Content::Record { damaged: true, .. })),
                "slot {slot} filled with {fill}"
            );
        }
    }
    let mut swapped = bytes[SLOT..].to_vec();
    swapped.extend(&bytes[..SLOT]);
    assert_eq!(parsed(&swapped), Err(Unreadable::Corrupt), "slots in each other's place");
}

#[test]
fn another_release_and_another_key_are_refused_by_name() {
    let (_, mut bytes) = file_after(0);
    let other = LockKey::new("hourly").unwrap();
    assert_eq!(parse(&bytes, Of::Key(&other)), Err(Unreadable::Record(RecordError::Key(key()))));
    assert!(matches!(parse(&bytes, Of::Any), Ok(Content::Record { .. })));
    bytes[8] = 2;
    let length = u32::from_le_bytes(bytes[56..60].try_into().unwrap()) as usize;
    let crc = checksum(&bytes[..HEAD + length]);
    bytes[SUM].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(parsed(&bytes), Err(Unreadable::Version(2)));
}

proptest! {
    /// Whatever is broken in one slot: either nothing was lost, or the reader is told that something was.
    #[test]
    fn a_broken_slot_never_passes_for_the_whole_truth(
        claims in 0..4i64,
        slot in 0..2usize,
        flips in prop::collection::vec((0..400usize, 1..=255u8), 1..4),
    ) {
        let (truth, whole) = file_after(claims);
        let mut bytes = whole.clone();
        for (at, flip) in flips {
            bytes[slot * SLOT + at] ^= flip;
        }
        match parsed(&bytes) {
            Ok(Content::Record { record, damaged: false, .. }) => prop_assert_eq!(record, truth),
            Ok(Content::Record { damaged: true, .. }) | Err(Unreadable::Corrupt) => {}
            Ok(Content::Fresh) => prop_assert_eq!(bytes, vec![0; FILE_LEN]),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_cut_file_is_damaged_or_corrupt(claims in 1..4i64, len in 1..FILE_LEN) {
        let (_, bytes) = file_after(claims);
        let noticed = matches!(
            parsed(&bytes[..len]),
            Ok(Content::Record { damaged: true, .. }) | Err(Unreadable::Corrupt)
        );
        prop_assert!(noticed);
    }

    #[test]
    fn a_write_that_was_cut_short_is_damage(claims in 1..4i64, written in 1..200usize) {
        let (older, mut bytes) = file_after(claims);
        let (_, next) = file_after(claims + 1);
        let start = place(2 + 2 * claims as u64) * SLOT;
        bytes[start..start + written].copy_from_slice(&next[start..start + written]);
        match parsed(&bytes) {
            // None of its bytes that differ, or all of them.
            Ok(Content::Record { record, stamp, damaged: false }) => {
                prop_assert!(record == older || stamp.seq == 2 + 2 * claims as u64);
            }
            Ok(Content::Record { record, damaged: true, .. }) => prop_assert_eq!(record, older),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bytes_are_an_answer_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let _ = parsed(&bytes);
        let _ = parse(&bytes, Of::Any);
    }
}

#[test]
fn a_glance_stands_until_somebody_writes() {
    let name = format!("solocron-glance-{:032x}", Nonce::random().as_u128());
    let dir = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&dir).unwrap();
    for claims in 0..3 {
        let (record, bytes) = file_after(claims);
        file.write_all_at(&bytes, 0).unwrap();
        let seen = glance(&file, &key()).unwrap().expect("it is whole");
        assert_eq!(seen.record, record);
        assert!(seen.stands(&file).unwrap());
        // The same record again, by one writer or two in a row.
        let mut seq = seen.stamp.seq;
        for _ in 0..2 {
            seq = write(&file, &record, seq, 0, false).unwrap().seq;
            assert!(!seen.stands(&file).unwrap());
        }
        // Half of a next write: a glance says nothing, and an earlier one falls.
        let whole = glance(&file, &key()).unwrap().expect("it is whole");
        file.write_all_at(&[7; 20], (place(seq + 1) * SLOT) as u64).unwrap();
        assert!(!whole.stands(&file).unwrap());
        assert!(glance(&file, &key()).unwrap().is_none());
    }
    std::fs::remove_file(dir).unwrap();
}
