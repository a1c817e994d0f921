//! Who has what, taking it from them, and the note of a key.

use solocron::jiff::{SignedDuration, Timestamp};
use solocron::lock::{Holder, LockBackend, MarkAfter, Nonce, Note, Released};
use solocron::{Error, Kind};

use super::client::{Raw, is_free, key, node, once, take};
use crate::Store;
use crate::harness::skip;

async fn list(h: &Store, prefix: &str) -> Option<Vec<Holder>> {
    let holders = node(h).holders(prefix).await.expect("the store answers");
    if holders.is_none() {
        skip("the store does not tell who holds what");
    }
    holders
}

/// Which lock, which node, since when, which tick, for how much longer.
pub async fn a_holder_is_listed(h: &Store) {
    let (a, key) = (node(h), key("report"));
    let guard = take(&a, &key).await;
    let Some(holders) = list(h, "").await else { return };
    let [holder] = &holders[..] else { panic!("{holders:?}") };
    assert_eq!((&holder.key, &holder.node, holder.tick), (&key, a.node(), None));
    assert!(holder.living);
    assert_eq!(holder.remaining.is_some(), a.capabilities().ttl.is_some());
    let age = Timestamp::now().duration_since(holder.since);
    assert!(age.abs() < SignedDuration::from_secs(60), "held for {age:?}");
    guard.release().await.expect("the store answers");
    assert_eq!(list(h, "").await, Some(vec![]), "a free key has no holder");
}

/// Only the names that begin so.
pub async fn a_prefix_selects_holders(h: &Store) {
    let a = node(h);
    let mut guards = Vec::new();
    for name in ["billing/a", "billing/b", "billin", "report"] {
        guards.push(take(&a, &key(name)).await);
    }
    let Some(holders) = list(h, "billing/").await else { return };
    let mut names: Vec<_> = holders.iter().map(|holder| holder.key.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["billing/a", "billing/b"]);
    assert_eq!(list(h, "").await.map(|all| all.len()), Some(4));
    assert_eq!(list(h, "x").await, Some(vec![]));
}

/// A run is listed with its tick.
pub async fn a_run_is_listed_with_its_tick(h: &Store) {
    let raw = Raw::new(h);
    if !raw.capabilities().marks {
        return skip("no marks are kept");
    }
    let key = key("report");
    let [tick] = raw.ticks(&key).await;
    let _running = raw.win(&raw.once(&key, tick)).await;
    let Some(holders) = list(h, "report").await else { return };
    assert_eq!(holders[0].tick, Some(tick));
    assert_eq!(holders[0].node, raw.node);
}

/// A dead holder is nobody.
pub async fn a_dead_holder_is_not_listed(h: &Store) {
    let (a, key) = (Raw::brief(h), key("report"));
    drop(a.win(&a.plain(&key)).await);
    let (grant, _) = a.win_when_free(&key).await;
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    drop(a.win(&a.plain(&key)).await);
    if a.capabilities().ttl.is_none() {
        let Some(holders) = list(h, "").await else { return };
        assert_eq!(holders, []);
    }
}

/// An operator's release frees the lock and leaves the tick unfinished, for its delivery to decide.
pub async fn a_forced_release_leaves_the_tick_unfinished(h: &Store) {
    let (a, operator, raw) = (node(h), node(h), Raw::new(h));
    if !(a.capabilities().force_release && a.capabilities().marks) {
        return skip("no lock can be taken from its holder, or no marks are kept");
    }
    let key = key("report");
    let [tick] = raw.ticks(&key).await;
    let claimed = a.claim(&key, once(tick)).await.expect("the store answers").won().expect("free");
    let holders = list(h, "report").await.expect("whoever can free it can name it");
    let freed = operator.force_release(&holders[0]).await.expect("the store answers");
    assert_eq!(freed, Released::Done);
    assert!(is_free(&operator, &key).await);
    let last = raw.last(&key).await;
    assert_eq!((last.mark, last.done), (tick, false));
    claimed.lease.lost().await;
}

/// It says whom it means: whoever holds the lock by now is not hit.
pub async fn a_forced_release_with_an_old_nonce_does_nothing(h: &Store) {
    let (a, b, operator, key) = (node(h), node(h), node(h), key("report"));
    if !a.capabilities().force_release {
        return skip("no lock can be taken from its holder");
    }
    let guard = take(&a, &key).await;
    let seen = list(h, "report").await.expect("whoever can free it can name it").remove(0);
    guard.release().await.expect("the store answers");
    let successor = take(&b, &key).await;
    // "Not the owner" or "given back already": both are true.
    operator.force_release(&seen).await.expect("the store answers");
    successor.check().expect("held");
    assert!(!is_free(&operator, &key).await);
    assert_eq!(successor.release().await.expect("the store answers"), Released::Done);
}

/// Whoever cannot be named cannot be freed, and the error says what to do instead.
pub async fn a_forced_release_of_nobody_is_refused(h: &Store) {
    let (a, key) = (node(h), key("report"));
    let since = Timestamp::now();
    let mut nobody = Holder::new(key, Nonce::random(), a.node().clone(), since);
    nobody.nonce = None;
    let answer = a.force_release(&nobody).await;
    assert!(matches!(answer, Err(Error::Lacks { need: "force-release", .. })), "{answer:?}");
}

/// Compare and set: whoever writes over a note has read it.
pub async fn a_note_is_versioned(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    if !a.capabilities().marks {
        return skip("no notes are kept");
    }
    let first = a.set_note(&key, 0, b"paused").await.expect("the store answers");
    assert_eq!(first, Note { version: 1, body: b"paused".to_vec() });
    let lost = b.set_note(&key, 0, b"mine").await.expect("the store answers");
    assert_eq!(lost, first, "the answer is the note that stands");
    let second = b.set_note(&key, 1, b"").await.expect("the store answers");
    assert_eq!(second, Note { version: 2, body: vec![] });
}

/// A note is small, any bytes, and too long is refused without a change.
pub async fn a_note_is_bounded(h: &Store) {
    let (a, key) = (node(h), key("report"));
    if !a.capabilities().marks {
        return skip("no notes are kept");
    }
    let longest: Vec<u8> = (0..=u8::MAX).cycle().take(Note::MAX_BYTES).collect();
    let note = a.set_note(&key, 0, &longest).await.expect("the store answers");
    assert_eq!(note.body, longest);
    match a.set_note(&key, 1, &vec![0; Note::MAX_BYTES + 1]).await {
        Err(Error::Backend { source, .. }) => assert_eq!(source.kind(), Kind::Unsupported),
        other => panic!("{other:?}"),
    }
    assert_eq!(a.set_note(&key, 9, b"").await.expect("the store answers"), note);
}

/// Every winner is told the note, whether it claims or not, and so is whoever enrolls. No run wears it off.
pub async fn a_note_comes_with_every_win(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    if !a.capabilities().marks {
        return skip("no notes are kept");
    }
    assert_eq!(a.enroll(&key).await.note, Note::default());
    let note = a.backend.set_note(&key, 0, b"paused").await.expect("the store answers");
    let [tick, next] = a.ticks(&key).await;
    for request in [a.plain(&key), a.once(&key, tick)] {
        let grant = a.win(&request).await;
        assert_eq!(grant.note, note);
        a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    }
    let request = a.once(&key, next);
    drop(a.win(&request).await);
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    assert_eq!(a.enroll_as(&key, 8).await.note, note);
    assert_eq!(a.win(&a.once(&key, next)).await.note, note);
}

/// Writing a note takes no lock: an operator may pause what is running.
pub async fn a_note_can_be_written_under_a_lock(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    if !a.capabilities().marks {
        return skip("no notes are kept");
    }
    let guard = take(&a, &key).await;
    assert_eq!(b.set_note(&key, 0, b"paused").await.expect("the store answers").version, 1);
    guard.check().expect("held");
    assert_eq!(guard.release().await.expect("the store answers"), Released::Done);
}
