//! What a backend claims is what it does: claimed and failing is an error, working and not claimed is one too.

use std::time::Duration;

use solocron::Kind;
use solocron::lock::{Enrolment, Fencing, LockBackend, MarkAfter, Released, Validity};

use super::client::{Raw, SOON, in_time, is_free, key, node, stays_away};
use crate::Store;
use crate::harness::skip;

/// How long news may take that a backend does not claim to push.
const QUIET: Duration = Duration::from_millis(100);

/// A constant, and the same for every client.
pub async fn capabilities_are_constant(h: &Store) {
    let (a, b) = (h.connect(), h.connect());
    let before = a.capabilities();
    assert_eq!(before, b.capabilities());
    let raw = Raw::new(h);
    let _held = raw.win(&raw.plain(&key("report"))).await;
    assert_eq!(a.capabilities(), before);
    assert_eq!(h.connect().capabilities(), before);
    if let Some(range) = before.ttl {
        assert!(Duration::ZERO < range.min && range.min <= range.max, "{range:?}");
        assert!(Duration::ZERO < range.step && range.step <= range.min, "{range:?}");
    }
}

/// Marks are kept where they are claimed to be, and nowhere else.
pub async fn marks_are_kept_where_claimed(h: &Store) {
    let a = Raw::new(h);
    let job = Enrolment { key: key("report"), fingerprint: 7 };
    let enrolled = a.backend.enroll(&[job]).await.remove(0);
    match (a.capabilities().marks, enrolled) {
        (true, Ok(_)) => {}
        (false, Err(error)) => assert_eq!(error.kind(), Kind::Unsupported),
        other => panic!("claimed marks, enrolling: {other:?}"),
    }
    let note = a.backend.set_note(&key("report"), 0, b"x").await;
    assert_eq!(note.is_ok(), a.capabilities().marks, "notes come with marks: {note:?}");
}

/// A lease has a time, or it is bound to its process: as claimed.
pub async fn leases_run_out_where_claimed(h: &Store) {
    let (a, key) = (Raw::brief(h), key("report"));
    let grant = a.win(&a.plain(&key)).await;
    let timed = matches!(grant.validity, Validity::Until { .. });
    assert_eq!(timed, a.capabilities().ttl.is_some());
    if timed {
        return; // that it does run out is a law of its own
    }
    tokio::time::sleep(a.ttl + a.ttl / 4).await;
    assert!(!is_free(&node(h), &key).await, "a process-bound lease ran out");
    drop(grant);
    a.win_when_free(&key).await;
}

/// Wake-ups are pushed where they are claimed to be, and nowhere else.
pub async fn wakes_are_pushed_where_claimed(h: &Store) {
    let (a, b, key) = (Raw::new(h), Raw::new(h), key("report"));
    let grant = a.win(&a.plain(&key)).await;
    let watch = b.backend.watch(&key).await.expect("the store answers");
    assert_eq!(watch.is_some(), b.capabilities().wakes);
    let Some(mut watch) = watch else { return };
    let woken = tokio::spawn(async move { watch.changed().await });
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    in_time(SOON, "a pushed wake-up", woken).await.expect("no panic");
}

/// The loss of a lease is pushed where that is claimed, and nowhere else.
pub async fn losses_are_told_where_claimed(h: &Store) {
    let (a, b, key) = (Raw::new(h), Raw::new(h), key("report"));
    let request = a.plain(&key);
    let grant = a.win(&request).await;
    assert!(stays_away(QUIET, a.backend.lost(&grant.lease)).await, "it is still held");
    if !b.capabilities().force_release && !h.expire(&key).await {
        return skip("no lease can be ended from outside");
    }
    b.backend.revoke(&key, request.nonce, MarkAfter::Unfinished).await.expect("the store answers");
    if a.capabilities().tells_loss {
        in_time(SOON, "a pushed loss", a.backend.lost(&grant.lease)).await;
    } else {
        assert!(stays_away(QUIET, a.backend.lost(&grant.lease)).await, "works, and is not claimed");
    }
}

/// A store with a clock tells its time with every win; one without does not make one up.
pub async fn the_store_tells_its_time_where_claimed(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    let claimed = a.capabilities().store_clock;
    assert_eq!(a.win(&a.plain(&key)).await.store_now.is_some(), claimed);
    if a.capabilities().marks {
        assert_eq!(a.enroll(&key).await.store_now.is_some(), claimed);
    }
}

/// A lock can be taken from its holder where that is claimed. Where it is not, the answer says what happened: a client may be able
/// to free what its own process holds, and no more.
pub async fn locks_are_forced_where_claimed(h: &Store) {
    let (a, b, key) = (Raw::new(h), Raw::new(h), key("report"));
    let request = a.plain(&key);
    let grant = a.win(&request).await;
    let revoked = b.backend.revoke(&key, request.nonce, MarkAfter::Unfinished).await;
    let free = is_free(&node(h), &key).await;
    assert_eq!(free, matches!(revoked, Ok(Released::Done)), "{revoked:?}");
    assert!(free || !a.capabilities().force_release, "{revoked:?}");
    drop(grant);
}

/// A fence is told where one is claimed. Where none is claimed it is zero, so that nobody trusts it.
pub async fn fences_are_told_where_claimed(h: &Store) {
    let a = Raw::new(h);
    let fence = a.win(&a.plain(&key("report"))).await.fence;
    assert_eq!(fence.as_u64() > 0, a.capabilities().fencing != Fencing::None, "{fence}");
}
