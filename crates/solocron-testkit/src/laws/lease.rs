//! How long a lease lives.

use std::time::Duration;

use solocron::lock::{LockBackend, MarkAfter, Renewal, Reply, Validity};

use super::client::{
    Raw, SOON, brief_node, in_time, is_free, key, locks, node, now, short_ttl, take,
};
use crate::Store;
use crate::harness::{lacks, skip};

/// Nobody gets the key before the ttl is over, and somebody does soon after.
pub async fn a_lease_ends_after_its_ttl_and_not_before(h: &Store) {
    let (a, b, key) = (Raw::brief(h), Raw::brief(h), key("report"));
    let Some(range) = a.capabilities().ttl else { return skip("leases do not run out") };
    let sent = now();
    let grant = a.win(&a.plain(&key)).await;
    let (_, won_at) = b.win_when_free(&key).await;
    let lived = won_at.saturating_since(sent);
    assert!(
        lived + Duration::from_millis(2) >= a.ttl,
        "a lease of {:?} ended after {lived:?}",
        a.ttl
    );
    // The store's own grain, and this machine's moods.
    let latest = a.ttl + range.step + Duration::from_secs(2);
    assert!(lived <= latest, "a lease of {:?} lived for {lived:?}", a.ttl);
    drop(grant);
}

/// For as long as a guard lives, its lease does, through many ttls.
pub async fn a_renewed_lease_outlives_its_ttl(h: &Store) {
    let (a, b, key) = (brief_node(h), node(h), key("report"));
    let ttl = short_ttl(&a.capabilities());
    let guard = take(&a, &key).await;
    let ttls = if a.capabilities().ttl.is_some() { 3 } else { 1 };
    let until = now() + ttl * ttls + ttl / 5;
    while now() < until {
        assert!(!is_free(&b, &key).await, "taken from a living holder");
        guard.check().expect("it is renewed");
        tokio::time::sleep(ttl / 8).await;
    }
    guard.release().await.expect("the store answers");
    assert!(is_free(&b, &key).await);
}

/// Lost for a moment is lost, also if nobody else came by.
pub async fn a_late_renewal_revives_nothing(h: &Store) {
    let (a, b, key) = (Raw::brief(h), node(h), key("report"));
    let Some(range) = a.capabilities().ttl else { return skip("leases do not run out") };
    let grant = a.win(&a.plain(&key)).await;
    tokio::time::sleep(a.ttl * 11 / 10 + range.step).await;
    if !is_free(&b, &key).await {
        // A store may be a little late in ending a lease.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let answer = a.backend.renew(&[&grant.lease], now()).await.remove(0);
    assert!(matches!(answer, Ok(Renewal::NotOwner(_))), "{answer:?}");
    assert!(is_free(&b, &key).await);
}

/// The key has another holder: the renewal of the old one takes nothing away.
pub async fn a_renewal_does_not_touch_the_successor(h: &Store) {
    let (a, b, c, key) = (Raw::new(h), Raw::new(h), node(h), key("report"));
    let request = a.plain(&key);
    let old = a.win(&request).await;
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    let new = b.win(&b.plain(&key)).await;
    let answer = a.backend.renew(&[&old.lease], now()).await.remove(0);
    assert!(matches!(answer, Ok(Renewal::NotOwner(_))), "{answer:?}");
    drop(old);
    assert!(!is_free(&c, &key).await);
    let answer = b.backend.renew(&[&new.lease], now()).await.remove(0);
    assert!(matches!(answer, Ok(Renewal::Extended(_))), "{answer:?}");
}

/// One call renews many leases, answers each, and a lost one does not hurt the others.
pub async fn renewals_answer_in_order(h: &Store) {
    let a = Raw::new(h);
    let mut grants = Vec::new();
    for name in ["one", "two", "three"] {
        grants.push(a.win(&a.plain(&key(name))).await);
    }
    a.backend.release(&grants[1].lease, MarkAfter::Done).await.expect("the store answers");
    let leases: Vec<_> = grants.iter().map(|grant| &grant.lease).collect();
    let answers = a.backend.renew(&leases, now()).await;
    let lives: Vec<_> =
        answers.iter().map(|answer| matches!(answer, Ok(Renewal::Extended(_)))).collect();
    assert_eq!(lives, [true, false, true], "{answers:?}");
}

/// What is granted is never less than what was asked for, and counts from before the request was sent.
pub async fn a_grant_is_valid_from_its_first_send(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    let request = a.plain(&key);
    let grant = a.win(&request).await;
    match (grant.validity, a.capabilities().ttl) {
        (Validity::Until { since, ttl }, Some(_)) => {
            assert_eq!(since, request.first_sent);
            assert!(ttl >= request.ttl, "asked for {:?}, granted {ttl:?}", request.ttl);
        }
        (Validity::ProcessBound, None) => {}
        other => panic!("validity and capabilities disagree: {other:?}"),
    }
}

/// A renewal counts from before it was sent, not from when it was answered.
pub async fn a_renewal_is_valid_from_its_send(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    let grant = a.win(&a.plain(&key)).await;
    let sent = now();
    let answer = a.backend.renew(&[&grant.lease], sent).await.remove(0);
    match (answer.expect("the store answers"), a.capabilities().ttl) {
        (Renewal::Extended(Validity::Until { since, ttl }), Some(_)) => {
            // A lease that many locks share may have been renewed for another one, earlier.
            assert!(since <= sent && since >= sent.minus(ttl), "{since:?} {sent:?}");
        }
        (Renewal::Extended(Validity::ProcessBound), None) => {}
        other => panic!("renewal and capabilities disagree: {other:?}"),
    }
}

/// A holder that is gone without a word is followed by whoever waits.
pub async fn a_dead_holder_is_followed_by_its_waiter(h: &Store) {
    let (dead, key) = (Raw::brief(h), key("report"));
    let waiter = node(h);
    let grant = dead.win(&dead.plain(&key)).await;
    let waiting = tokio::spawn({
        let key = key.clone();
        async move { waiter.lock(key, SOON * 3).await }
    });
    // Dropping it frees what the operating system holds, and does nothing else: as death does.
    drop(grant);
    let guard = in_time(dead.ttl + SOON, "the lock of a dead holder", waiting).await;
    guard.expect("no panic").expect("free in time").release().await.expect("the store answers");
}

/// The same with a real process that is killed.
pub async fn a_killed_process_is_followed_by_its_waiter(h: &Store) {
    let (waiter, key) = (brief_node(h), key("report"));
    if !h.hold_and_die(&key).await {
        return lacks("hold_and_die", waiter.capabilities().scope > solocron::lock::Scope::Process);
    }
    let guard = waiter.lock(&key, SOON * 3).await.expect("free in time");
    guard.release().await.expect("the store answers");
}

/// The shortest ttl that the backend claims to grant is granted, and so is the longest.
pub async fn every_claimed_ttl_is_granted(h: &Store) {
    let mut a = Raw::new(h);
    let Some(range) = a.capabilities().ttl else { return skip("leases do not run out") };
    for (name, ttl) in [("shortest", range.min), ("longest", range.max)] {
        a.ttl = ttl;
        match a.win(&a.plain(&key(name))).await.validity {
            Validity::Until { ttl: granted, .. } => {
                assert!(granted >= ttl, "{granted:?} < {ttl:?}")
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A ttl between two steps is rounded up: a lease may live longer than asked for, never shorter.
pub async fn a_ttl_is_never_shortened(h: &Store) {
    let backend = h.connect();
    let Some(range) = backend.capabilities().ttl else { return skip("leases do not run out") };
    let odd = short_ttl(&backend.capabilities()) + range.step / 3;
    let a = locks(h.connect(), odd);
    let guard = take(&a, &key("report")).await;
    let b = Raw::new(h);
    let Reply::Busy { holder } = b.reply(&b.plain(&key("report"))).await else {
        panic!("it is held");
    };
    if let Some(remaining) = holder.and_then(|holder| holder.remaining) {
        assert!(remaining <= odd + range.step, "{remaining:?} of {odd:?}");
    }
    guard.check().expect("held");
    guard.release().await.expect("the store answers");
}
