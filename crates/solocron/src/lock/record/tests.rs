use proptest::prelude::*;

use super::*;
use crate::clock::LeaseInstant;

fn key() -> LockKey {
    LockKey::new("nightly").unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn request(nonce: u128, tick: i64) -> Request {
    let sent = LeaseInstant::from_origin(Duration::ZERO);
    Request::new(key(), Nonce::from_u128(nonce), NodeId::named("n"), Duration::from_secs(10), sent)
        .claiming(Claim {
            tick: Mark::from_millis(tick),
            after: None,
            delivery: Delivery::AtMostOnce,
        })
}

fn enrolled(now: i64) -> KeyRecord {
    let mut record = KeyRecord::new(key());
    record.enroll(&Enrolment { key: key(), fingerprint: 7 }, at(now));
    record
}

const TTL: Option<Duration> = Some(Duration::from_secs(10));

#[test]
fn a_refused_nonce_comes_before_its_own_living_lease() {
    let mut record = enrolled(0);
    record.revoke(Nonce::from_u128(1), MarkAfter::Undo, at(500));
    assert_eq!(record.judge(&request(1, 1_000), at(1_000), true), Verdict::Refused);
    assert_eq!(record.judge(&request(2, 1_000), at(1_000), true), Verdict::Grant);
    let later = at(500 + 60_001);
    assert_eq!(
        record.judge(&request(1, 1_000), later, true),
        Verdict::Grant,
        "refusals are short-lived"
    );
}

#[test]
fn an_undo_restores_the_whole_claim_before_it() {
    let mut record = enrolled(0);
    record.grant(&request(1, 1_000), at(1_000), TTL);
    let abandoned = record.last().unwrap().clone();
    assert!(!abandoned.done);
    record.grant(&request(2, 2_000), at(20_000), TTL);
    assert_eq!(record.release(Nonce::from_u128(2), MarkAfter::Undo, at(20_001)), Released::Done);
    assert_eq!(*record.last().unwrap(), abandoned);
}

#[test]
fn a_run_that_ended_after_its_lease_is_still_done_and_says_not_owner() {
    let mut record = enrolled(0);
    record.grant(&request(1, 1_000), at(1_000), TTL);
    let released = record.release(Nonce::from_u128(1), MarkAfter::Done, at(60_000));
    assert_eq!(released, Released::NotOwner { mark: Some(Mark::from_millis(1_000)) });
    assert!(record.last().unwrap().done);
}

#[test]
fn a_holder_that_is_kept_elsewhere_counts_and_one_that_is_gone_is_over() {
    let mut record = enrolled(0);
    record.grant(&request(1, 1_000), at(1_000), TTL);
    let mut holder = record.holder(at(1_001), true).expect("just granted");

    // The store says that it lives, long after its time.
    record.set_holder(Some((&holder, 1)));
    assert_eq!(KeyRecord::from_bytes(&key(), &record.to_bytes()).as_ref(), Ok(&record));
    assert!(matches!(record.judge(&request(1, 1_000), at(90_000), true), Verdict::Again(_)));
    assert!(matches!(record.judge(&request(2, 2_000), at(90_000), true), Verdict::Busy(_)));

    // It is gone: its nonce wins nothing more, a new one does.
    record.set_holder(None);
    assert_eq!(KeyRecord::from_bytes(&key(), &record.to_bytes()).as_ref(), Ok(&record));
    assert_eq!(record.judge(&request(1, 1_000), at(1_001), true), Verdict::Refused);
    assert_eq!(record.judge(&request(2, 2_000), at(2_000), true), Verdict::Grant);

    // Somebody else has it, whom the record never heard of.
    holder.nonce = Some(Nonce::from_u128(9));
    record.set_holder(Some((&holder, 1)));
    let late = record.release(Nonce::from_u128(1), MarkAfter::Done, at(2_000));
    assert_eq!(late, Released::NotOwner { mark: Some(Mark::from_millis(1_000)) });
    assert!(record.last().unwrap().done, "its run has ended all the same");
    assert_eq!(record.release(Nonce::from_u128(9), MarkAfter::Done, at(2_000)), Released::Done);
}

#[test]
fn what_a_store_may_have_lost_is_neither_granted_again_nor_undone_to() {
    let mut record = enrolled(0);
    record.grant(&request(1, 1_000), at(1_000), None);
    assert!(record.forget_before(Mark::from_millis(5_000)));
    record.holder_died();
    for tick in [1_000, 2_000, 5_000] {
        assert!(matches!(
            record.judge(&request(2, tick), at(6_000), false),
            Verdict::Stale { done: true, .. }
        ));
    }
    record.revoke(Nonce::from_u128(1), MarkAfter::Undo, at(6_000));
    assert_eq!(record.last().unwrap().mark.as_millis(), 5_000);
    assert!(!record.forget_before(Mark::from_millis(4_999)), "never backwards");
    assert_eq!(record.judge(&request(3, 5_001), at(6_000), false), Verdict::Grant);
    assert!(!KeyRecord::new(key()).forget_before(Mark::from_millis(1)), "nothing to forget");
    // A claim of after the loss: giving it back must not go back to before the loss.
    let mut record = enrolled(3_000);
    record.grant(&request(1, 6_000), at(6_000), TTL);
    assert!(record.forget_before(Mark::from_millis(5_000)));
    record.release(Nonce::from_u128(1), MarkAfter::Undo, at(6_000));
    assert_eq!(record.last().unwrap().mark.as_millis(), 5_000);
}

#[test]
fn a_plain_lock_on_an_enrolled_key_touches_no_mark() {
    let mut record = enrolled(5_000);
    let mut plain = request(1, 0);
    plain.claim = None;
    assert_eq!(record.judge(&plain, at(6_000), true), Verdict::Grant);
    let granted = record.grant(&plain, at(6_000), TTL);
    assert_eq!(granted.previous, None);
    record.release(
        Nonce::from_u128(1),
        MarkAfter::DoneAndSkip(Mark::from_millis(5_999)),
        at(6_000),
    );
    assert_eq!(record.last().unwrap().mark.as_millis(), 5_000);
}

#[test]
fn a_schedule_that_changed_is_dated_and_keeps_the_mark() {
    let mut record = enrolled(1_000);
    let (enrolled, changed) = record.enroll(&Enrolment { key: key(), fingerprint: 8 }, at(9_000));
    assert!(changed && !enrolled.created);
    assert_eq!(enrolled.last.mark.as_millis(), 1_000);
    assert_eq!(enrolled.schedule, Schedule { fingerprint: 8, since: Mark::from_millis(9_000) });
}

#[test]
fn a_record_of_another_key_or_format_is_refused_by_name() {
    let bytes = enrolled(0).to_bytes();
    let other = LockKey::new("other").unwrap();
    assert_eq!(KeyRecord::from_bytes(&other, &bytes), Err(RecordError::Key(key())));
    let mut newer = bytes.clone();
    newer[0] = 9;
    assert!(KeyRecord::from_bytes(&key(), &newer).unwrap_err().to_string().contains("format 9"));
}

#[test]
fn the_largest_record_fits() {
    let key = LockKey::new("k".repeat(LockKey::MAX_BYTES)).unwrap();
    let mut record = KeyRecord::new(key.clone());
    record.enroll(&Enrolment { key: key.clone(), fingerprint: 7 }, at(0));
    for n in 0..20 {
        let mut request = request(n, 1_000 + n as i64);
        request.key = key.clone();
        request.node = NodeId::named(&"n".repeat(500));
        record.grant(&request, at(1_000_000), TTL);
        record.revoke(Nonce::from_u128(100 + n), MarkAfter::Undo, at(1_000_000));
        record.set_note(n as u64, &[7; Note::MAX_BYTES]).unwrap();
    }
    let bytes = record.to_bytes();
    assert!(bytes.len() <= KeyRecord::MAX_BYTES, "{}", bytes.len());
    assert_eq!(KeyRecord::from_bytes(&key, &bytes).unwrap(), record);
    assert!(record.set_note(20, &[0; 257]).is_err());
}

/// What may happen to a record.
#[derive(Debug, Clone)]
enum Step {
    Claim { nonce: u128, tick: i64, delivery: Delivery },
    Release { nonce: u128, after: MarkAfter },
    Revoke { nonce: u128 },
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let delivery =
        prop_oneof![Just(Delivery::AtMostOnce), Just(Delivery::AtLeastOnce { max_attempts: 2 })];
    let after = prop_oneof![
        Just(MarkAfter::Done),
        Just(MarkAfter::Unfinished),
        Just(MarkAfter::Undo),
        (0i64..60).prop_map(|t| MarkAfter::DoneAndSkip(Mark::from_millis(t * 1_000))),
    ];
    prop_oneof![
        (0u128..6, 1i64..60, delivery).prop_map(|(nonce, t, delivery)| Step::Claim {
            nonce,
            tick: t * 1_000,
            delivery
        }),
        (0u128..6, after).prop_map(|(nonce, after)| Step::Release { nonce, after }),
        (0u128..6).prop_map(|nonce| Step::Revoke { nonce }),
        (1i64..15_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_a_record_survives_its_bytes_and_fences_grow(steps in proptest::collection::vec(step(), 0..60)) {
        let mut record = enrolled(0);
        let (mut now, mut fence) = (0, Fence::ZERO);
        for step in steps {
            match step {
                Step::Claim { nonce, tick, delivery } => {
                    let mut request = request(nonce, tick);
                    request.claim.as_mut().unwrap().delivery = delivery;
                    if record.judge(&request, at(now), true) == Verdict::Grant {
                        prop_assert!(tick <= now, "a tick from the future");
                        let granted = record.grant(&request, at(now), TTL);
                        prop_assert!(granted.fence > fence);
                        prop_assert_eq!(record.judge(&request, at(now), true), Verdict::Again(granted.clone()));
                        fence = granted.fence;
                    }
                }
                Step::Release { nonce, after } => {
                    let first = record.release(Nonce::from_u128(nonce), after, at(now));
                    let before = record.clone();
                    let second = record.release(Nonce::from_u128(nonce), after, at(now));
                    prop_assert!(first != Released::Done || second == Released::Done);
                    prop_assert_eq!(&before, &record, "a second release changes nothing");
                }
                Step::Revoke { nonce } => { record.revoke(Nonce::from_u128(nonce), MarkAfter::Undo, at(now)); }
                Step::Wait(ms) => now += ms,
            }
            prop_assert!(record.last().unwrap().mark.as_millis() <= now.max(0), "a mark from the future");
            prop_assert_eq!(&KeyRecord::from_bytes(&key(), &record.to_bytes()).unwrap(), &record);
        }
    }

    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = KeyRecord::from_bytes(&key(), &bytes);
    }

    #[test]
    fn a_cut_record_is_an_error(cut in 0usize..100) {
        let mut record = enrolled(0);
        record.grant(&request(1, 1_000), at(1_000), TTL);
        let bytes = record.to_bytes();
        let cut = cut.min(bytes.len() - 1);
        prop_assert!(KeyRecord::from_bytes(&key(), &bytes[..cut]).is_err());
    }
}
