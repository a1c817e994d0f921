//! Giving back: once, late, twice, halfway.

use std::time::Duration;

use solocron::Kind;
use solocron::lock::{LockBackend, MarkAfter, Released, Renewal, Reply};

use super::client::{
    Raw, brief_node, is_free, key, locks, long_ttl, node, now, once, stop_after, take,
};
use crate::harness::skip;
use crate::{Faulty, Store};

/// A second release changes nothing and answers as the first.
pub async fn releasing_twice_is_harmless(h: &Store) {
    let (a, b, key) = (Raw::new(h), node(h), key("report"));
    let grant = a.win(&a.plain(&key)).await;
    for _ in 0..3 {
        let released = a.backend.release(&grant.lease, MarkAfter::Done).await;
        assert_eq!(released.expect("the store answers"), Released::Done);
    }
    assert!(is_free(&b, &key).await);
}

/// The owner learns that it was none any more, every time it asks.
pub async fn a_release_after_the_lease_says_not_owner_every_time(h: &Store) {
    let (a, b, key) = (Raw::brief(h), Raw::brief(h), key("report"));
    let Some(range) = a.capabilities().ttl else { return skip("leases do not run out") };
    let sent = now();
    let grant = a.win(&a.plain(&key)).await;
    let (successor, _) = b.win_when_free(&key).await;
    b.backend.release(&successor.lease, MarkAfter::Done).await.expect("the store answers");
    let late = a.win(&a.plain(&key)).await;
    tokio::time::sleep(a.ttl * 11 / 10 + Duration::from_millis(20) + range.step * 2).await;
    assert!(now().saturating_since(sent) > a.ttl);
    for lease in [&grant.lease, &late.lease, &late.lease] {
        let released = a.backend.release(lease, MarkAfter::Done).await.expect("the store answers");
        assert!(matches!(released, Released::NotOwner { .. }), "{released:?}");
    }
}

/// Somebody else has the key by now: the late release leaves it to them.
pub async fn a_late_release_does_not_free_the_successor(h: &Store) {
    let (a, b, c, key) = (Raw::new(h), Raw::new(h), node(h), key("report"));
    let request = a.plain(&key);
    let grant = a.win(&request).await;
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    let successor = b.win(&b.plain(&key)).await;
    let released = a.backend.release(&grant.lease, MarkAfter::Done).await;
    assert!(matches!(released, Ok(Released::NotOwner { .. })), "{released:?}");
    drop(grant);
    assert!(!is_free(&c, &key).await, "the successor still holds it");
    let released = b.backend.release(&successor.lease, MarkAfter::Done).await;
    assert_eq!(released.expect("the store answers"), Released::Done);
}

/// A user who lost the lock is told so by the release; it is no error.
pub async fn a_guard_that_lost_its_lock_is_released_as_not_owner(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    if !a.capabilities().force_release {
        return skip("no lock can be taken from its holder");
    }
    let guard = take(&a, &key).await;
    let holders = b.holders("").await.expect("the store answers").expect("it tells who holds what");
    b.force_release(&holders[0]).await.expect("the store answers");
    let successor = take(&b, &key).await;
    let released = guard.release().await.expect("the store answers");
    assert!(matches!(released, Released::NotOwner { .. }), "{released:?}");
    successor.check().expect("the successor is not hit");
    assert!(!is_free(&a, &key).await);
    successor.release().await.expect("the store answers");
}

/// What was given back is not granted to a late copy of its request.
pub async fn a_nonce_that_was_given_back_wins_nothing(h: &Store) {
    let (a, b, key) = (Raw::new(h), node(h), key("report"));
    let request = a.plain(&key);
    let grant = a.win(&request).await;
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    drop(grant);
    let error = a.send(&request).await.expect_err("a late copy wins nothing");
    assert_eq!(error.kind(), Kind::Refused);
    assert!(is_free(&b, &key).await);
}

/// A renewal that crosses a release on its way revives nothing.
pub async fn a_renewal_that_crosses_a_release_revives_nothing(h: &Store) {
    let (a, b, key) = (Raw::new(h), node(h), key("report"));
    for _ in 0..20 {
        let grant = a.win(&a.plain(&key)).await;
        let leases = [&grant.lease];
        let (released, renewed) = tokio::join!(
            a.backend.release(&grant.lease, MarkAfter::Done),
            a.backend.renew(&leases, now()),
        );
        assert_eq!(released.expect("the store answers"), Released::Done);
        drop(renewed);
        assert!(is_free(&b, &key).await);
        let renewed = a.backend.renew(&leases, now()).await.remove(0);
        assert!(matches!(renewed, Ok(Renewal::NotOwner(_))), "{renewed:?}");
        assert!(is_free(&b, &key).await);
    }
}

/// Nobody has to wait for a ttl because somebody returned early.
pub async fn a_dropped_guard_frees_its_key(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    for _ in 0..10 {
        drop(take(&a, &key).await);
        a.settled().await;
        assert!(is_free(&b, &key).await);
    }
}

/// Dropped before its first poll, after its last but one, or anywhere between: it is given back.
pub async fn a_release_that_is_dropped_halfway_still_happens(h: &Store) {
    const POINTS: u32 = 3;
    let slow = Faulty::slow(h.connect(), POINTS);
    let ttl = long_ttl(&slow.capabilities());
    let (a, b, key) = (locks(slow, ttl), node(h), key("report"));
    for polls in 0.. {
        let guard = take(&a, &key).await;
        let ended = stop_after(polls, guard.release()).await.is_some();
        a.settled().await;
        assert!(is_free(&b, &key).await, "dropped after {polls} polls");
        if ended {
            assert!(polls > POINTS, "the wrapper is slow, and so is the release");
            break;
        }
    }
}

/// The same for a claimed tick: its run has ended, whether or not the caller waited for the answer.
pub async fn a_dropped_release_of_a_claim_still_finishes_its_tick(h: &Store) {
    let raw = Raw::new(h);
    if !raw.capabilities().marks {
        return skip("no marks are kept");
    }
    let slow = Faulty::slow(h.connect(), 2);
    let ttl = long_ttl(&slow.capabilities());
    let (a, key) = (locks(slow, ttl), key("report"));
    // Before its first poll a release has not begun: that is a dropped guard, which has a law of its own.
    for polls in 1.. {
        let [tick] = raw.ticks(&key).await;
        let reply = a.claim(&key, once(tick)).await.expect("the store answers");
        let claimed = reply.won().expect("a new tick of a free key");
        let ended = stop_after(polls, claimed.lease.release()).await.is_some();
        a.settled().await;
        let last = raw.last(&key).await;
        assert_eq!((last.mark, last.done), (tick, true), "dropped after {polls} polls");
        if ended {
            break;
        }
    }
}

/// A guard may be released from a runtime that is about to end.
pub async fn a_node_that_settles_leaves_nothing_behind(h: &Store) {
    let (a, b) = (brief_node(h), node(h));
    let keys: Vec<_> = (0..20).map(|n| key(&format!("job-{n}"))).collect();
    let mut guards = Vec::new();
    for name in &keys {
        guards.push(take(&a, name).await);
    }
    drop(guards);
    a.settled().await;
    for name in &keys {
        let reply = b.try_lock(name).await.expect("the store answers");
        assert!(reply.won().is_some(), "{name}");
    }
    let raw = Raw::new(h);
    assert!(matches!(raw.reply(&raw.plain(&key("other"))).await, Reply::Won(_)));
}
