//! One session for all locks of a process.

use std::time::Duration;

use solocron::Kind;
use solocron::lock::{LockBackend, Lost, MarkAfter, Released, Reply};

use crate::client::{attempt, claim, due_tick, key, locks, now, plain, soon, until, win};
use crate::store::{Store, received, sent_between};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn all_locks_of_a_ttl_are_on_one_session_which_goes_with_the_backend() {
    let store = Store::alone();
    let backend = store.connect();
    let mut grants = Vec::new();
    for n in 0..20 {
        grants.push(win(&backend, &plain(&format!("lock-{n}"), LONG)).await);
    }
    assert_eq!(store.sessions(), 1);
    let other = win(&backend, &plain("other", Duration::from_secs(30))).await;
    assert_eq!(store.sessions(), 2, "another ttl, another session");
    drop((grants, other));
    assert!(store.is_held(&key("lock-0")), "dropping a lease does nothing");
    drop(backend);
    until("sessions that are gone", || async { (store.sessions() == 0).then_some(()) }).await;
    assert!(!store.is_held(&key("lock-0")));
}

#[tokio::test]
async fn an_acquisition_and_a_release_are_one_transaction_each() {
    let store = Store::alone();
    let backend = store.connect();
    let (warm, tick) = (plain("plain", LONG), due_tick(&backend, "job").await);
    let grant = win(&backend, &warm).await;
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    settle(&store).await;

    const ROUNDS: u64 = 50;
    let before = received(store.server.address());
    for _ in 0..ROUNDS {
        let grant = win(&backend, &plain("plain", LONG)).await;
        backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    }
    let mut tick = tick;
    for _ in 0..ROUNDS {
        let grant = win(&backend, &claim("job", tick)).await;
        backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
        tick = solocron::lock::Mark::from_millis(tick.as_millis() + 1);
    }
    let mut sent = sent_between(&before, &received(store.server.address()));
    assert_eq!(sent.remove("Txn"), Some(4 * ROUNDS), "{sent:?}");
    // The claims ask for 15 s, which is another session; and a beat is good for a second.
    assert!(sent.remove("LeaseGrant").unwrap_or(0) <= 1);
    assert!(sent.remove("LeaseKeepAlive").unwrap_or(0) <= 2 * ROUNDS / 4, "{sent:?}");
    sent.remove("LeaseTimeToLive");
    assert!(sent.is_empty(), "{sent:?}");
}

/// Waits until the first watch and audit are over.
async fn settle(store: &Store) {
    let quiet = async || {
        let before = received(store.server.address());
        tokio::time::sleep(Duration::from_millis(50)).await;
        received(store.server.address()) == before
    };
    until("a quiet server", || async { quiet().await.then_some(()) }).await;
}

#[tokio::test]
async fn a_loser_asks_once() {
    let store = Store::alone();
    let (a, b) = (store.connect(), store.connect());
    let _held = win(&a, &plain("lock", LONG)).await;
    let first = attempt(&b, &plain("lock", LONG)).await.unwrap();
    assert!(matches!(first, Reply::Busy { .. }));
    settle(&store).await;
    let before = received(store.server.address());
    for _ in 0..10 {
        let busy = attempt(&b, &plain("lock", LONG)).await.unwrap();
        assert!(matches!(busy, Reply::Busy { .. }));
    }
    let mut sent = sent_between(&before, &received(store.server.address()));
    assert_eq!(sent.remove("Txn"), Some(10), "{sent:?}");
    assert!(sent.is_empty(), "{sent:?}");
}

#[tokio::test]
async fn many_locks_are_renewed_with_one_beat_a_period() {
    const LOCKS: usize = 200;
    let store = Store::alone();
    let locks = locks(&store.connect(), 3);
    let mut guards = Vec::new();
    for n in 0..LOCKS {
        guards.push(locks.try_lock(format!("lock-{n}")).await.unwrap().won().unwrap());
    }
    // The first periods bring locks that were won at different times into one step.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = received(store.server.address());
    let periods = 6;
    tokio::time::sleep(Duration::from_secs(periods)).await; // a third of 3 s each
    let mut sent = sent_between(&before, &received(store.server.address()));
    let beats = sent.remove("LeaseKeepAlive").unwrap_or(0);
    assert!((periods - 2..=periods * 2).contains(&beats), "{beats} beats in {periods} periods");
    assert!(sent.is_empty(), "held locks cost nothing else: {sent:?}");
    for guard in &guards {
        guard.check().unwrap();
    }
    assert_eq!(store.sessions(), 1);
}

#[tokio::test]
async fn a_lock_that_nobody_renews_is_given_up_while_the_session_lives_on() {
    let store = Store::alone();
    let backend = store.connect();
    let ttl = Duration::from_secs(2);
    let sent = now();
    let (kept, left) =
        (win(&backend, &plain("kept", ttl)).await, win(&backend, &plain("left", ttl)).await);
    let session = store.session_of(&key("kept"));
    assert_eq!(store.session_of(&key("left")), session);
    while store.is_held(&key("left")) {
        let renewed = backend.renew(&[&kept.lease], now()).await.remove(0).unwrap();
        assert!(matches!(renewed, solocron::lock::Renewal::Extended(_)), "{renewed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(now().saturating_since(sent) >= ttl, "not before its time");
    assert_eq!(soon("the news", backend.lost(&left.lease)).await, Lost::Expired);
    assert_eq!(store.session_of(&key("kept")), session, "the other one is where it was");
}

#[tokio::test]
async fn a_session_that_is_taken_away_is_a_loss_and_the_next_lock_makes_another() {
    let store = Store::alone();
    let backend = store.connect();
    let grant = win(&backend, &plain("lock", LONG)).await;
    let first = store.session_of(&key("lock"));
    store.revoke_session(&key("lock"));
    soon("the news", backend.lost(&grant.lease)).await;
    // The first transaction on the dead session finds out, and is sent again on a new one.
    let again = win(&backend, &plain("lock", LONG)).await;
    assert!(again.fence > grant.fence);
    assert_ne!(store.session_of(&key("lock")), first);
}

#[tokio::test]
async fn a_key_that_an_operator_deletes_is_a_loss_although_beats_are_answered() {
    let store = Store::alone();
    let backend = store.connect();
    let (deleted, kept) =
        (win(&backend, &plain("a", LONG)).await, win(&backend, &plain("b", LONG)).await);
    store.delete_lock(&key("a"));
    assert_eq!(soon("the news", backend.lost(&deleted.lease)).await, Lost::ForceReleased);
    let released = backend.release(&deleted.lease, MarkAfter::Done).await.unwrap();
    assert!(matches!(released, Released::NotOwner { .. }), "{released:?}");
    let renewed = backend.renew(&[&kept.lease, &deleted.lease], now()).await;
    assert!(matches!(renewed[0], Ok(solocron::lock::Renewal::Extended(_))), "{renewed:?}");
    assert!(matches!(renewed[1], Ok(solocron::lock::Renewal::NotOwner(_))), "{renewed:?}");
}

#[tokio::test]
async fn a_key_that_is_deleted_while_nobody_watches_is_a_loss_as_soon_as_somebody_does() {
    let store = Store::alone();
    let backend = store.connect();
    let grant = win(&backend, &plain("lock", LONG)).await;
    // The watch breaks, and cannot be opened again before the key is gone.
    store.proxy.refuse(true);
    store.proxy.sever();
    store.delete_lock(&key("lock"));
    store.proxy.refuse(false);
    assert_eq!(soon("the news", backend.lost(&grant.lease)).await, Lost::ForceReleased);
}

#[tokio::test]
async fn a_force_release_of_ones_own_lock_is_a_loss_although_its_answer_was_lost() {
    let store = Store::alone();
    let backend = store.connect();
    let request = plain("lock", LONG);
    let grant = win(&backend, &request).await;
    // The first one of a process also makes a lease.
    let another = solocron::lock::Nonce::random();
    backend.revoke(&key("another"), another, MarkAfter::Undo).await.unwrap();
    store.proxy.drop_reply();
    let revoked = backend.revoke(&key("lock"), request.nonce, MarkAfter::Undo).await;
    assert_eq!(revoked.unwrap_err().effect(), solocron::Effect::Unknown);
    assert!(!store.is_held(&key("lock")));
    assert_eq!(soon("the news", backend.lost(&grant.lease)).await, Lost::ForceReleased);
    let renewed = backend.renew(&[&grant.lease], now()).await.remove(0);
    assert!(matches!(renewed, Ok(solocron::lock::Renewal::NotOwner(_))), "{renewed:?}");
}

#[tokio::test]
async fn a_watch_outlives_a_compaction() {
    let store = Store::alone();
    let (a, b) = (store.connect(), store.connect());
    let grant = win(&a, &plain("lock", LONG)).await;
    let mut watch = b.watch(&key("lock")).await.unwrap().unwrap();
    for n in 0..20 {
        store.put("elsewhere", &n.to_string(), "0");
    }
    let revision = store.revision();
    let compact = format!(r#"{{"revision": "{revision}", "physical": true}}"#);
    store.server.command("/v3/kv/compaction", &compact).unwrap();
    // And the watch is opened again, behind the compaction.
    store.proxy.sever();
    a.release(&grant.lease, MarkAfter::Done).await.ok();
    soon("the news", watch.changed()).await;
    let grant = until("the lock", || async {
        match attempt(&b, &plain("lock", LONG)).await {
            Ok(Reply::Won(grant)) => Some(grant),
            _ => None,
        }
    })
    .await;
    store.delete_lock(&key("lock"));
    soon("the news", b.lost(&grant.lease)).await;
}

#[tokio::test]
async fn a_put_that_arrives_late_on_the_living_session_is_taken_back() {
    use solocron_testkit::server::Direction;

    let store = Store::alone();
    let backend = store.connect();
    let tick = due_tick(&backend, "job").await;
    // The session is there, and its beats are young.
    let warm = win(&backend, &claim("other", due_tick(&backend, "other").await)).await;

    // The request hangs on its way; its sender gives up, and never gets to revoking it. It arrives together with the news that
    // nobody waits for it any more, which the server may heed first: then another is sent. That it was carried out is seen in the
    // server's history, however soon it is taken back.
    let revision = store.revision();
    until("the late put", || async {
        store.proxy.black_hole(Direction::Up, true);
        let error = attempt(&backend, &claim("job", tick)).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Timeout, solocron::Effect::Unknown));
        assert_eq!(store.revision(), revision, "it did not arrive yet");
        store.proxy.black_hole(Direction::Up, false);
        let arrives = async {
            while store.revision() == revision {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_millis(500), arrives).await;
        let _ = backend.renew(&[&warm.lease], now()).await;
        arrived.ok()
    })
    .await;
    until("an end of it", || async { (!store.is_held(&key("job"))).then_some(()) }).await;
    // The tick is as it was: the next one gets it.
    let grant = until("the tick", || async {
        match attempt(&store.connect(), &claim("job", tick)).await {
            Ok(Reply::Won(grant)) => Some(grant),
            _ => None,
        }
    })
    .await;
    assert_eq!(grant.attempt, 1);
    // And the session was the living one all the time.
    assert!(matches!(
        backend.renew(&[&warm.lease], now()).await.remove(0),
        Ok(solocron::lock::Renewal::Extended(_))
    ));
}

#[tokio::test]
async fn what_only_refuses_a_nonce_ends_by_itself_and_what_remembers_does_not() {
    let store = Store::alone();
    let backend = store.connect();
    let revoke = |name| {
        let (backend, key) = (backend.clone(), key(name));
        let nonce = solocron::lock::Nonce::random();
        async move { backend.revoke(&key, nonce, MarkAfter::Undo).await.unwrap() }
    };
    let state = |name| store.state_key(&key(name));
    revoke("one").await;
    revoke("two").await;
    let lease = store.lease_of(&state("one")).expect("it ends");
    assert_eq!(store.lease_of(&state("two")).as_ref(), Some(&lease), "one lease for many");
    // Whatever is remembered stays, whether that came earlier or later.
    due_tick(&backend, "job").await;
    for name in ["one", "job"] {
        due_tick(&backend, name).await;
        revoke(name).await;
        assert_eq!(store.lease_of(&state(name)), None, "{name}");
    }
    backend.set_note(&key("noted"), 0, b"note").await.unwrap();
    revoke("noted").await;
    assert_eq!(store.lease_of(&state("noted")), None);
    // Once it has ended, there is another.
    store.revoke_lease(&lease);
    revoke("two").await;
    let next = store.lease_of(&state("two")).expect("it ends");
    assert_ne!(next, lease);
    assert_eq!(store.lease_of(&state("one")), None, "and what is remembered is still there");
    let granted = win(&backend, &plain("two", LONG)).await;
    backend.release(&granted.lease, MarkAfter::Done).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_arrives_after_its_revocation_is_not_carried_out() {
    use solocron_testkit::server::Direction;

    let store = Store::alone();
    let backend = store.connect();
    let tick = due_tick(&backend, "job").await;
    let warm = win(&backend, &plain("other", Duration::from_secs(15))).await;
    let request = claim("job", tick);
    store.proxy.black_hole(Direction::Up, true);
    attempt(&backend, &request).await.unwrap_err();
    // Revoked past the hanging connection.
    let direct = solocron_etcd::EtcdBackend::builder(&store.namespace, [store.server.endpoint()]);
    let direct = direct.build().unwrap();
    direct.revoke(&key("job"), request.nonce, MarkAfter::Undo).await.unwrap();
    let revision = store.revision();
    store.proxy.black_hole(Direction::Up, false);
    // The late one arrives before whatever this client sends now over that same connection, or dies with it.
    until("an answer", || async {
        attempt(&backend, &plain("more", Duration::from_secs(15))).await.ok()
    })
    .await;
    assert!(!store.is_held(&key("job")));
    // Since the revocation: one put of the lock `more`.
    assert_eq!(store.revision(), revision + 1, "and nothing that was put and taken back");
    drop(warm);
}
