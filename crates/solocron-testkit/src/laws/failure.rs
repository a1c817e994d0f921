//! Trouble is called by its name: an error is never "busy", and never "won".

use std::time::Duration;

use solocron::lock::{Keeper, LockBackend, LockOptions, Locks, Released, Scope, TryLock};
use solocron::{Effect, Error, Kind};

use super::client::{
    Raw, SOON, brief_node, due_ticks, in_time, is_free, key, locks, long_ttl, node, once, take,
};
use crate::harness::{lacks, skip};
use crate::{Call, Fault, Faulty, Store};

/// A store that is down is neither free nor taken.
pub async fn a_store_that_is_down_is_not_busy(h: &Store) {
    let faulty = Faulty::new(h.connect());
    let (a, key) = (locks(faulty.clone(), long_ttl(&faulty.capabilities())), key("report"));
    faulty.down();
    match a.try_lock(&key).await {
        Err(Error::Backend { source, key: Some(named), .. }) => {
            assert_eq!((source.kind(), source.effect()), (Kind::Unavailable, Effect::None));
            assert_eq!(named, key);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(faulty.calls(Call::TryAcquire), 1, "certainly without effect: not sent again");
    assert_eq!(faulty.calls(Call::Revoke), 0, "and nothing to take back");
    let waited = a.lock(&key, Duration::from_millis(30)).await;
    assert!(matches!(waited, Err(Error::TimedOut { holder: None, .. })), "{waited:?}");
    assert!(a.holders("").await.is_err());
    faulty.calm();
    assert!(is_free(&a, &key).await, "it works again when the store does");
}

/// Nobody knows: the same nonce is sent again, and then taken back; what the user sees says "unknown".
pub async fn an_unknown_outcome_is_sent_again_and_then_taken_back(h: &Store) {
    let faulty = Faulty::script(h.connect(), vec![(Call::TryAcquire, Fault::LostReply); 9]);
    let (a, key) = (locks(faulty.clone(), long_ttl(&faulty.capabilities())), key("report"));
    match a.try_lock(&key).await {
        Err(Error::Backend { source, .. }) => {
            assert_eq!((source.kind(), source.effect()), (Kind::Timeout, Effect::Unknown));
        }
        other => panic!("{other:?}"),
    }
    assert!(faulty.calls(Call::TryAcquire) > 1);
    a.settled().await;
    assert_eq!(faulty.calls(Call::Revoke), 1);
    assert!(is_free(&node(h), &key).await);
}

/// A call that never ends is cut off, and what it may have won is taken back.
pub async fn a_call_that_hangs_is_cut_off(h: &Store) {
    for fault in [Fault::Hang, Fault::HangAfter] {
        let faulty = Faulty::script(h.connect(), vec![(Call::TryAcquire, fault); 9]);
        let caps = faulty.capabilities();
        let options =
            LockOptions::default().ttl(long_ttl(&caps)).request_timeout(Duration::from_millis(20));
        let a = Locks::builder(faulty.clone()).options(options).build().expect("the options fit");
        let answer = in_time(SOON, "an answer", a.try_lock("report")).await;
        assert!(matches!(answer, Err(Error::Backend { .. })), "{answer:?}");
        a.settled().await;
        assert!(is_free(&node(h), &key("report")).await);
    }
}

/// A revocation that fails is tried until it is acknowledged.
pub async fn a_revocation_is_tried_until_it_is_acknowledged(h: &Store) {
    let mut script = vec![(Call::TryAcquire, Fault::LostReply); 9];
    script.extend([Fault::Fail, Fault::LostReply, Fault::Late].map(|fault| (Call::Revoke, fault)));
    let faulty = Faulty::script(h.connect(), script);
    let (a, key) = (locks(faulty.clone(), long_ttl(&faulty.capabilities())), key("report"));
    assert!(a.try_lock(&key).await.is_err());
    in_time(SOON, "a settled node", a.settled()).await;
    assert_eq!(faulty.calls(Call::Revoke), 4);
    let guard = take(&node(h), &key).await;
    faulty.deliver_late().await;
    guard.check().expect("a late revocation hits nobody else");
    assert!(!is_free(&node(h), &key).await);
}

/// A release that fails is tried again, at once and then in the background.
pub async fn a_release_is_tried_until_it_is_acknowledged(h: &Store) {
    for (failures, known) in [(2, true), (4, false)] {
        let faulty = Faulty::script(h.connect(), vec![(Call::Release, Fault::Fail); failures]);
        let options = LockOptions::default()
            .ttl(long_ttl(&faulty.capabilities()))
            .request_timeout(Duration::from_millis(100));
        let a = Locks::builder(faulty.clone()).options(options).build().expect("the options fit");
        let key = key(&format!("report-{failures}"));
        let answer = take(&a, &key).await.release().await;
        assert_eq!(answer.is_ok(), known, "{answer:?}");
        in_time(SOON, "a settled node", a.settled()).await;
        assert!(is_free(&node(h), &key).await);
    }
}

/// The reply to a release is lost; the second one finds it done.
pub async fn a_lost_reply_to_a_release_is_found_again(h: &Store) {
    let faulty = Faulty::script(h.connect(), [(Call::Release, Fault::LostReply)]);
    let options = LockOptions::default()
        .ttl(long_ttl(&faulty.capabilities()))
        .request_timeout(Duration::from_millis(100));
    let a = Locks::builder(faulty.clone()).options(options).build().expect("the options fit");
    let key = key("report");
    let released = take(&a, &key).await.release().await.expect("the store answers");
    assert_eq!(released, Released::Done);
    assert!(is_free(&node(h), &key).await);
}

/// One failed claim of many is one failed claim.
pub async fn a_failed_claim_leaves_the_mark_alone(h: &Store) {
    let raw = Raw::new(h);
    if !raw.capabilities().marks {
        return skip("no marks are kept");
    }
    let key = key("report");
    let [tick] = due_ticks(h, &key).await;
    let before = raw.last(&key).await;
    let faulty = Faulty::new(h.connect());
    let a = locks(faulty.clone(), long_ttl(&faulty.capabilities()));
    faulty.down();
    assert!(a.claim(&key, once(tick)).await.is_err());
    faulty.calm();
    a.settled().await;
    assert_eq!(raw.last(&key).await, before);
    assert!(a.claim(&key, once(tick)).await.expect("the store answers").won().is_some());
}

/// What the backend cannot grant is refused when the locks are built, with both numbers.
pub async fn a_ttl_out_of_range_is_refused(h: &Store) {
    let Some(range) = h.connect().capabilities().ttl else {
        return skip("leases do not run out");
    };
    let refused = |ttl: Duration| {
        let options = LockOptions::default().ttl(ttl);
        match Locks::builder(h.connect()).options(options).build() {
            Err(Error::Invalid(invalid)) => {
                assert_eq!(invalid.what(), "ttl");
                let text = invalid.to_string();
                assert!(text.contains(&format!("{ttl:?}")), "{text}");
            }
            other => panic!("{ttl:?}: {other:?}"),
        }
    };
    refused(range.min / 2);
    refused(range.max * 2);
    let long = Locks::builder(h.connect())
        .options(LockOptions::default().ttl(range.max))
        .build()
        .expect("the longest is granted");
    assert!(long.with_options(LockOptions::default().ttl(range.min / 2)).is_err());
}

/// The longest ttl of a namespace bounds every ttl in it: a store that forgot waits that long.
pub async fn a_ttl_beyond_the_namespaces_longest_is_refused(h: &Store) {
    let ttl = long_ttl(&h.connect().capabilities());
    let options = LockOptions::default().ttl(ttl);
    let shorter = Locks::builder(h.connect()).options(options).longest_ttl(ttl / 2).build();
    assert!(matches!(shorter, Err(Error::Invalid(_))), "{shorter:?}");
    let a = Locks::builder(h.connect()).options(options).longest_ttl(ttl).build().expect("fits");
    let longer = a.with_options(LockOptions::default().ttl(ttl + ttl / 4));
    assert!(matches!(longer, Err(Error::Invalid(_))), "{longer:?}");
}

/// Renewals may run wherever they are told to.
pub async fn a_keeper_may_be_the_callers_own_runtime(h: &Store) {
    let options = LockOptions::default().ttl(long_ttl(&h.connect().capabilities()));
    let a = Locks::builder(h.connect()).options(options).keeper(Keeper::current()).build();
    let a = a.expect("the options fit");
    let guard = take(&a, &key("report")).await;
    drop(guard);
    in_time(SOON, "a settled node", a.settled()).await;
    assert!(is_free(&node(h), &key("report")).await);
}

/// A store that stops and comes back is a store again, for the clients it had.
pub async fn a_client_survives_a_restart_of_its_store(h: &Store) {
    let (a, key) = (brief_node(h), key("report"));
    take(&a, &key).await.release().await.expect("the store answers");
    if !h.restart().await {
        return lacks("restart", a.capabilities().scope == Scope::Fleet);
    }
    let guard = a.lock(&key, SOON * 3).await.expect("it is back");
    guard.release().await.expect("the store answers");
}

/// A store that does not answer is an error in time, and works again when it does. What it was asked for meanwhile, and may only
/// carry out now, is taken back.
pub async fn a_frozen_store_is_an_error_in_time(h: &Store) {
    fn is_silence<T>(answer: &Result<T, Error>) -> bool {
        match answer {
            Err(Error::Backend { source, .. }) => {
                matches!(source.kind(), Kind::Unavailable | Kind::Timeout)
            }
            _ => false,
        }
    }
    let (a, raw, plain, job) = (brief_node(h), Raw::new(h), key("lock"), key("job"));
    let mut due = None;
    if raw.capabilities().marks {
        let [tick] = raw.ticks(&job).await;
        due = Some(tick);
    }
    if !h.freeze().await {
        return lacks("freeze", a.capabilities().scope == Scope::Fleet);
    }
    let answer = in_time(SOON, "an answer", a.try_lock(&plain)).await;
    assert!(is_silence(&answer), "{answer:?}");
    if let Some(tick) = due {
        let answer = in_time(SOON, "an answer", a.claim(&job, once(tick))).await;
        assert!(is_silence(&answer), "{answer:?}");
    }
    h.thaw().await;
    in_time(SOON * 3, "a settled node", a.settled()).await;
    let guard = a.lock(&plain, SOON * 3).await.expect("it is back");
    guard.release().await.expect("the store answers");
    if let Some(tick) = due {
        raw.answered().await;
        let last = raw.last(&job).await;
        assert!(last.mark < tick && last.attempts == 0, "not as before: {last:?}");
        let claimed = node(h).claim(&job, once(tick)).await.expect("the store answers");
        assert_eq!(claimed.won().expect("nobody has it").attempt, 1);
    }
}

/// A broken connection is mended without being told.
pub async fn a_broken_connection_is_mended(h: &Store) {
    let (a, key) = (brief_node(h), key("report"));
    take(&a, &key).await.release().await.expect("the store answers");
    if !h.sever().await {
        return lacks("sever", a.capabilities().scope == Scope::Fleet);
    }
    let guard = a.lock(&key, SOON).await.expect("mended");
    let busy = node(h).try_lock(&key).await.expect("the store answers");
    assert!(matches!(busy, TryLock::Busy(_)));
    guard.release().await.expect("the store answers");
}
