//! Whoever loses a lock learns it, in time, once, and only then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use solocron::Error;
use solocron::lock::{
    Keeper, LockBackend, LockGuard, LockKey, LockOptions, Locks, Lost, MarkAfter, Released, Reply,
    Scope,
};

use super::client::{
    Raw, SOON, brief_node, in_time, is_free, key, locks, long_ttl, node, now, short_ttl,
    stays_away, take,
};
use crate::harness::{lacks, skip};
use crate::{Call, Fault, Faulty, Store};

/// The guard says in every way it has that the lock is lost.
async fn told(guard: &LockGuard, how: &str) {
    in_time(SOON, how, guard.lost()).await;
    assert!(matches!(guard.check(), Err(Error::Lost { .. })), "{how}");
    assert!(guard.token().is_cancelled(), "{how}");
    in_time(SOON, how, guard.lost()).await;
}

/// A guard that is told of losses, and its node.
async fn held(h: &Store) -> (LockGuard, LockKey, Locks) {
    let (a, key) = (brief_node(h), key("report"));
    (take(&a, &key).await, key, a)
}

/// The store ends the lease before its time.
pub async fn an_expired_lease_is_told(h: &Store) {
    let (guard, key, a) = held(h).await;
    if !h.expire(&key).await {
        return lacks("expire", a.capabilities().tells_loss);
    }
    told(&guard, "the news of an expired lease").await;
    assert!(is_free(&node(h), &key).await);
    let released = guard.release().await.expect("the store answers");
    assert!(matches!(released, Released::NotOwner { .. }), "{released:?}");
}

/// The store forgets everything.
pub async fn a_forgotten_lease_is_told(h: &Store) {
    let (guard, _, a) = held(h).await;
    if !h.forget().await {
        return lacks("forget", a.capabilities().marks && !h.never_forgets());
    }
    told(&guard, "the news of a forgotten lease").await;
}

/// An operator frees the lock.
pub async fn a_force_released_lease_is_told(h: &Store) {
    let (guard, key, a) = held(h).await;
    if !a.capabilities().force_release {
        return skip("no lock can be taken from its holder");
    }
    let operator = node(h);
    let holders = operator.holders("report").await.expect("the store answers").expect("it tells");
    let freed = operator.force_release(&holders[0]).await.expect("the store answers");
    assert_eq!(freed, Released::Done);
    told(&guard, "the news of a force-released lease").await;
    assert!(is_free(&operator, &key).await);
}

/// The file under the lock is deleted or replaced.
pub async fn a_replaced_lock_is_told(h: &Store) {
    let (guard, key, _) = held(h).await;
    if !h.replace(&key).await {
        return lacks("replace", false);
    }
    told(&guard, "the news of a replaced lock").await;
}

/// Giving back is not losing: no token fires, however the news of it travels.
pub async fn a_normal_release_is_no_loss(h: &Store) {
    let (a, b) = (node(h), node(h));
    let mut tokens = Vec::new();
    for round in 0..200 {
        let key = key(&format!("report-{}", round % 8));
        let guard = take(&a, &key).await;
        tokens.push(guard.token());
        if round % 2 == 0 {
            guard.release().await.expect("the store answers");
        } else {
            drop(guard);
            a.settled().await;
        }
        assert!(is_free(&b, &key).await);
    }
    // The news of the last release may still be on its way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let fired = tokens.iter().filter(|token| token.is_cancelled()).count();
    assert_eq!(fired, 0, "of {} tokens of locks that were given back", tokens.len());
}

/// Whoever begins to listen after the loss still hears of it.
pub async fn a_loss_before_anybody_listens_is_not_missed(h: &Store) {
    let ttl = short_ttl(&h.connect().capabilities());
    let options = LockOptions::default().ttl(ttl).max_runtime(Duration::from_millis(20));
    let a = Locks::builder(h.connect()).options(options).build().expect("the options fit");
    let guard = take(&a, &key("report")).await;
    let token = guard.token();
    in_time(SOON, "the loss", token.cancelled()).await;
    assert_eq!(in_time(SOON, "news that is old", guard.lost()).await, Lost::MaxRuntime);
    assert!(guard.token().is_cancelled());
}

/// Once lost, always lost: a lock is never taken again behind its holder's back.
pub async fn a_lost_lock_stays_lost(h: &Store) {
    let ttl = short_ttl(&h.connect().capabilities());
    let options = LockOptions::default().ttl(ttl).max_runtime(Duration::from_millis(20));
    let a = Locks::builder(h.connect()).options(options).build().expect("the options fit");
    let guard = take(&a, &key("report")).await;
    guard.lost().await;
    let until = now() + ttl / 2; // long enough for a renewal
    while now() < until {
        assert!(guard.check().is_err());
        tokio::time::sleep(ttl / 10).await;
    }
    guard.release().await.expect("the store answers");
    assert!(is_free(&node(h), &key("report")).await);
}

/// A run that never comes back keeps its lock no longer than it was allowed to.
pub async fn max_runtime_ends_a_lease(h: &Store) {
    let ttl = short_ttl(&h.connect().capabilities());
    let limit = ttl / 4;
    let options = LockOptions::default().ttl(ttl).max_runtime(limit);
    let a = Locks::builder(h.connect()).options(options).build().expect("the options fit");
    let begun = now();
    let guard = take(&a, &key("report")).await;
    assert_eq!(in_time(SOON, "the end of a run", guard.lost()).await, Lost::MaxRuntime);
    assert!(now().saturating_since(begun) >= limit);
    assert!(matches!(guard.check(), Err(Error::Lost { why: Lost::MaxRuntime, .. })));
    if a.capabilities().ttl.is_some() {
        // Nobody renews it any more, so others get it although the guard lives on.
        let b = Raw::new(h);
        b.win_when_free(&key("report")).await;
    }
}

/// Renewals hang for ever: the holder is told before anybody else can have the lock.
pub async fn a_lease_whose_renewals_hang_is_lost_in_time(h: &Store) {
    let caps = h.connect().capabilities();
    if caps.ttl.is_none() {
        return skip("leases do not run out");
    }
    let faulty = Faulty::script(h.connect(), vec![(Call::Renew, Fault::Hang); 100]);
    let ttl = short_ttl(&caps);
    let (a, b, key) = (locks(faulty.clone(), ttl), Raw::brief(h), key("report"));
    let sent = now();
    let guard = Arc::new(take(&a, &key).await);
    let successor = tokio::spawn({
        let guard = Arc::clone(&guard);
        async move {
            b.win_when_free(&key).await;
            (now(), guard.check().is_err())
        }
    });
    assert_eq!(in_time(ttl + SOON, "the loss", guard.lost()).await, Lost::Expired);
    let told_at = now();
    assert!(guard.check().is_err());
    assert!(told_at.saturating_since(sent) >= ttl / 2, "not before it must");
    assert!(faulty.calls(Call::Renew) > 0, "it was tried");
    let (won_at, known) = in_time(SOON * 2, "the successor", successor).await.expect("no panic");
    assert!(known, "two believed that they held it");
    // A loaded machine may be slow to say so; to whoever asks, it tells the truth.
    let late = told_at.saturating_since(won_at);
    assert!(late < Duration::from_millis(500), "told {late:?} after somebody else had it");
}

/// One failed renewal is nothing yet: it is tried again, and nobody is told anything.
pub async fn one_failed_renewal_is_no_loss(h: &Store) {
    let caps = h.connect().capabilities();
    if caps.ttl.is_none() {
        return skip("leases do not run out");
    }
    let script = [(Call::Renew, Fault::Fail), (Call::Renew, Fault::LostReply)];
    let faulty = Faulty::script(h.connect(), script);
    let ttl = short_ttl(&caps);
    let (a, b, key) = (locks(faulty.clone(), ttl), node(h), key("report"));
    let guard = take(&a, &key).await;
    assert!(stays_away(ttl * 3 / 2, guard.lost()).await);
    guard.check().expect("held");
    assert!(faulty.calls(Call::Renew) >= 3);
    assert!(!is_free(&b, &key).await);
    guard.release().await.expect("the store answers");
}

/// Everything that renews has stopped: whoever asks at the deadline is still told the truth.
pub async fn a_check_fails_at_the_deadline_without_a_keeper(h: &Store) {
    let caps = h.connect().capabilities();
    if caps.ttl.is_none() {
        return skip("leases do not run out");
    }
    let ttl = short_ttl(&caps);
    let options = LockOptions::default().ttl(ttl);
    let stopped = Keeper::with(drop);
    let a = Locks::builder(h.connect()).options(options).keeper(stopped).build();
    let a = a.expect("the options fit");
    let sent = now();
    let guard = take(&a, &key("report")).await;
    loop {
        let asked = now();
        if guard.check().is_err() {
            break;
        }
        assert!(asked.saturating_since(sent) < ttl, "believed for longer than it was granted");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(now().saturating_since(sent) >= ttl * 9 / 10, "held until it was nearly over");
    assert!(matches!(guard.check(), Err(Error::Lost { why: Lost::Expired, .. })));
    assert!(guard.token().is_cancelled(), "the one who finds out tells the others");
}

/// Work under the lock goes no further than the lock.
pub async fn work_is_dropped_when_its_lock_is_lost(h: &Store) {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let ttl = short_ttl(&h.connect().capabilities());
    let options = LockOptions::default().ttl(ttl).max_runtime(Duration::from_millis(20));
    let a = Locks::builder(h.connect()).options(options).build().expect("the options fit");
    let guard = take(&a, &key("report")).await;
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Dropped(Arc::clone(&dropped));
    let work = async move {
        let _flag = flag;
        std::future::pending::<u8>().await
    };
    let outcome = in_time(SOON, "the end of the work", guard.run(work)).await;
    assert!(matches!(outcome, Err(Error::Lost { why: Lost::MaxRuntime, .. })), "{outcome:?}");
    assert!(dropped.load(Ordering::SeqCst));
    let never = guard.run(async { panic!("no work begins under a lost lock") }).await;
    assert!(never.is_err());
}

/// What the work returns is handed back untouched, and the lock is still held.
pub async fn work_hands_back_its_value(h: &Store) {
    let a = node(h);
    let guard = take(&a, &key("report")).await;
    let value: Result<Vec<u8>, String> =
        guard.run(async { Err("mine".to_owned()) }).await.expect("held");
    assert_eq!(value, Err("mine".to_owned()));
    guard.check().expect("held");
    guard.release().await.expect("the store answers");
}

/// A store that does not answer at all takes nobody's lock for longer than its ttl, and the holder knows.
pub async fn a_frozen_store_is_a_loss_in_time(h: &Store) {
    let (guard, key, a) = held(h).await;
    if !h.freeze().await {
        return lacks("freeze", a.capabilities().scope == Scope::Fleet);
    }
    let (ttl, frozen_at) = (short_ttl(&a.capabilities()), now());
    loop {
        let asked = now();
        if guard.check().is_err() {
            break;
        }
        // Renewals that were answered were sent before.
        assert!(asked.saturating_since(frozen_at) < ttl, "believed for too long");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    in_time(SOON, "the loss", guard.lost()).await;
    h.thaw().await;
    drop(guard);
    in_time(SOON * 3, "a settled node", a.settled()).await;
    Raw::new(h).win_when_free(&key).await;
}

/// A store that comes back knows its holder, or tells it that it does not; nobody else holds the lock as well.
pub async fn a_restart_makes_no_second_holder(h: &Store) {
    let (guard, key, a) = held(h).await;
    if !h.restart().await {
        return lacks("restart", a.capabilities().scope == Scope::Fleet);
    }
    let b = Raw::brief(h);
    let until = now() + b.ttl * 4;
    while now() < until {
        match b.send(&b.plain(&key)).await {
            Ok(Reply::Won(_)) => {
                assert!(guard.check().is_err(), "two believe that they hold it");
                break;
            }
            Ok(Reply::Busy { .. }) => {}
            Err(error) if error.kind().is_transient() => {}
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(b.ttl / 50).await;
    }
    if guard.check().is_err() {
        told(&guard, "the news of a restart").await;
        return;
    }
    let released = guard.release().await.expect("the store answers");
    assert_eq!(released, Released::Done, "it was held all the time");
}

/// Connections break and come back within the ttl: nobody lost anything.
pub async fn a_broken_connection_is_no_loss(h: &Store) {
    let (guard, _, a) = held(h).await;
    if !h.sever().await {
        return lacks("sever", a.capabilities().scope == Scope::Fleet);
    }
    assert!(stays_away(short_ttl(&a.capabilities()) * 2, guard.lost()).await);
    guard.check().expect("held");
    guard.release().await.expect("the store answers");
}

/// Two guards of one node: the loss of one is not the loss of the other.
pub async fn a_loss_is_told_to_its_own_guard(h: &Store) {
    let caps = h.connect().capabilities();
    // Where a loss is not pushed, a renewal finds it.
    let ttl = if caps.tells_loss { long_ttl(&caps) } else { short_ttl(&caps) * 6 };
    let a = locks(h.connect(), ttl);
    let (one, two) = (key("one"), key("two"));
    let (first, second) = (take(&a, &one).await, take(&a, &two).await);
    let operator = Raw::new(h);
    if !operator.capabilities().force_release {
        return skip("no lock can be taken from its holder");
    }
    let Ok(Some(holders)) = operator.backend.holders("one").await else {
        return skip("the store does not tell who holds what");
    };
    let nonce = holders[0].nonce.expect("a living holder has a nonce");
    let freed = operator.backend.revoke(&one, nonce, MarkAfter::Unfinished).await;
    freed.expect("the store answers");
    in_time(SOON, "the loss", first.lost()).await;
    second.check().expect("held");
    assert!(stays_away(Duration::from_millis(50), second.lost()).await);
}
