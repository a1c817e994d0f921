//! Waiting for a lock: woken, not polling; for as long as asked, and no longer.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use solocron::Error;
use solocron::lock::{LockBackend, MarkAfter};
use tokio::task::JoinSet;

use super::client::{
    Raw, SOON, brief_node, in_time, is_free, key, locks, long_ttl, node, now, stays_away,
    stop_after, take,
};
use crate::harness::skip;
use crate::{Call, Fault, Faulty, Store};

/// Not shorter than asked for, not much longer, and it says who was in the way.
pub async fn a_wait_ends_at_its_timeout(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    let guard = take(&a, &key).await;
    let patience = Duration::from_millis(50);
    let begun = now();
    match b.lock(&key, patience).await {
        Err(Error::TimedOut { key: waited_for, waited, holder }) => {
            assert_eq!((waited_for, waited), (key.clone(), patience));
            if let Some(holder) = holder {
                assert_eq!(&holder.node, a.node());
            }
        }
        other => panic!("{other:?}"),
    }
    let waited = now().saturating_since(begun);
    assert!(waited >= patience && waited < patience + Duration::from_secs(2), "{waited:?}");
    guard.check().expect("held");
    guard.release().await.expect("the store answers");
    assert!(is_free(&b, &key).await);
}

/// No patience at all is one attempt.
pub async fn a_wait_without_patience_takes_what_is_free(h: &Store) {
    let faulty = Faulty::new(h.connect());
    let (a, key) = (locks(faulty.clone(), long_ttl(&faulty.capabilities())), key("report"));
    let guard = a.lock(&key, Duration::from_secs(5)).await.expect("free");
    assert_eq!(faulty.calls(Call::TryAcquire), 1, "a free lock costs one attempt");
    assert_eq!(faulty.calls(Call::Watch), 0, "and no watch");
    guard.release().await.expect("the store answers");
}

/// A release wakes whoever waits, long before any ttl or poll.
pub async fn a_release_wakes_its_waiter(h: &Store) {
    let (a, key) = (node(h), key("report"));
    if !a.capabilities().wakes {
        return skip("the store does not push");
    }
    let faulty = Faulty::new(h.connect());
    let b = locks(faulty.clone(), long_ttl(&faulty.capabilities()));
    for _ in 0..10 {
        let guard = take(&a, &key).await;
        let attempts = faulty.calls(Call::TryAcquire);
        let waiting = tokio::spawn({
            let (b, key) = (b.clone(), key.clone());
            async move { b.lock(key, SOON * 2).await }
        });
        let settled = async {
            while faulty.calls(Call::TryAcquire) < attempts + 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        in_time(SOON, "a waiter that waits", settled).await;
        let released_at = now();
        guard.release().await.expect("the store answers");
        let won = in_time(SOON, "the waiter", waiting).await.expect("no panic").expect("woken");
        // Without the push it would have slept for 5 s.
        assert!(now().saturating_since(released_at) < Duration::from_secs(3));
        won.release().await.expect("the store answers");
        assert!(faulty.calls(Call::TryAcquire) <= attempts + 4, "woken once, not polling");
    }
}

/// A revocation (of an unknown outcome, or an operator's) wakes as a release does.
pub async fn a_revocation_wakes_its_waiter(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    if !a.capabilities().wakes {
        return skip("the store does not push");
    }
    let request = a.plain(&key);
    let _held = a.win(&request).await;
    let mut watch = a.backend.watch(&key).await.expect("the store answers").expect("it pushes");
    let woken = tokio::spawn(async move { watch.changed().await });
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    in_time(SOON, "the news", woken).await.expect("no panic");
}

/// Watch first, then try, then wait: a release at any moment is seen.
pub async fn a_release_at_any_moment_is_not_missed(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    // A missed one would cost the 5 s of a safety net; where nothing is pushed, rounds are slower.
    let rounds = if a.capabilities().wakes { 1_000 } else { 100 };
    for round in 0..rounds {
        let guard = take(&a, &key).await;
        let waiting = tokio::spawn({
            let (b, key) = (b.clone(), key.clone());
            async move { b.lock(key, SOON * 2).await }
        });
        for _ in 0..round % 8 {
            tokio::task::yield_now().await;
        }
        guard.release().await.expect("the store answers");
        let won = in_time(Duration::from_secs(4), "a waiter", waiting).await;
        won.expect("no panic").expect("woken").release().await.expect("the store answers");
    }
}

/// Two hundred at once: all are served, and the store is asked a few times for each, not all the time.
pub async fn many_waiters_are_served_with_few_attempts(h: &Store) {
    const WAITERS: u64 = 200;
    let faulty = Faulty::new(h.connect());
    let (a, key) = (locks(faulty.clone(), long_ttl(&faulty.capabilities())), key("report"));
    let guard = take(&a, &key).await;
    let mut tasks = JoinSet::new();
    for _ in 0..WAITERS {
        let (a, key) = (a.clone(), key.clone());
        tasks.spawn(async move {
            let guard = a.lock(key, Duration::from_secs(90)).await.expect("served");
            tokio::task::yield_now().await;
            guard.release().await.expect("the store answers");
        });
    }
    tokio::task::yield_now().await;
    guard.release().await.expect("the store answers");
    while let Some(task) = tasks.join_next().await {
        task.expect("no task panics");
    }
    assert!(is_free(&node(h), &key).await);
    if a.capabilities().wakes {
        let attempts = faulty.calls(Call::TryAcquire);
        assert!(attempts <= WAITERS * 4 + 2, "{attempts} attempts for {WAITERS} waiters");
    }
}

/// One waiter of a process goes to the store; the others wait for it, in the order in which they came.
pub async fn waiters_of_one_process_queue_in_order(h: &Store) {
    let faulty = Faulty::new(h.connect());
    let (a, key) = (locks(faulty.clone(), long_ttl(&faulty.capabilities())), key("report"));
    let guard = take(&a, &key).await;
    let begun = faulty.calls(Call::TryAcquire);
    let mut queue = Vec::new();
    for _ in 0..5 {
        let (a, key) = (a.clone(), key.clone());
        let mut waiting = Box::pin(async move { a.lock(key, SOON * 3).await });
        // One poll puts it into the queue.
        let first_poll = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(first_poll.is_pending());
        queue.push(waiting);
    }
    assert!(faulty.calls(Call::TryAcquire) <= begun + 2, "only the first of them asks");
    guard.release().await.expect("the store answers");
    let mut queue = queue.into_iter();
    let mut first = queue.next().expect("five of them");
    let mut rest: Vec<_> = queue.collect();
    loop {
        let won = in_time(SOON, "the next in line", async {
            std::future::poll_fn(|cx| {
                for later in &mut rest {
                    assert!(later.as_mut().poll(cx).is_pending(), "out of its turn");
                }
                first.as_mut().poll(cx)
            })
            .await
        })
        .await;
        drop(first);
        won.expect("free in time").release().await.expect("the store answers");
        if rest.is_empty() {
            break;
        }
        first = rest.remove(0);
    }
}

/// Whoever stops waiting is not in the way of those who still do.
pub async fn a_waiter_that_leaves_is_not_in_the_way(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    for polls in 1..6 {
        let guard = take(&a, &key).await;
        let gone = stop_after(polls, b.lock(&key, Duration::from_millis(20))).await;
        assert!(!matches!(gone, Some(Ok(_))), "it is held");
        let waiting = tokio::spawn({
            let (b, key) = (b.clone(), key.clone());
            async move { b.lock(key, SOON * 2).await }
        });
        tokio::task::yield_now().await;
        guard.release().await.expect("the store answers");
        let won = in_time(SOON, "the one who stayed", waiting).await.expect("no panic");
        won.expect("free in time").release().await.expect("the store answers");
        b.settled().await;
        assert!(is_free(&a, &key).await);
    }
}

/// Trouble that passes is waited out like a held lock.
pub async fn a_wait_outlasts_passing_trouble(h: &Store) {
    let script =
        [Fault::Fail, Fault::LostReply, Fault::Fail].map(|fault| (Call::TryAcquire, fault));
    let faulty = Faulty::script(h.connect(), script);
    faulty.then([(Call::Watch, Fault::Fail)]);
    let (a, key) = (locks(faulty.clone(), long_ttl(&faulty.capabilities())), key("report"));
    let guard = in_time(SOON, "the lock", a.lock(&key, SOON)).await.expect("trouble passes");
    guard.release().await.expect("the store answers");
    a.settled().await;
    assert!(is_free(&node(h), &key).await);
}

/// A lease that runs out makes no noise; its waiter comes back when it is over.
pub async fn a_lease_that_runs_out_is_waited_for(h: &Store) {
    let (dead, key) = (Raw::brief(h), key("report"));
    let waiter = brief_node(h);
    if dead.capabilities().ttl.is_none() {
        return skip("leases do not run out");
    }
    let sent = now();
    let _held = dead.win(&dead.plain(&key)).await;
    let guard = waiter.lock(&key, dead.ttl + SOON).await.expect("over by then");
    let waited = now().saturating_since(sent);
    assert!(waited + Duration::from_millis(2) >= dead.ttl, "{waited:?} of {:?}", dead.ttl);
    guard.release().await.expect("the store answers");
}

/// A watch is quiet while nothing changes, and has news when something does: also news of before it was asked.
pub async fn a_watch_has_news_of_everything_since_it_began(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    if !a.capabilities().wakes {
        return skip("the store does not push");
    }
    let grant = a.win(&a.plain(&key)).await;
    let mut watch = a.backend.watch(&key).await.expect("the store answers").expect("it pushes");
    // It may return once for no reason; it must not do so all the time.
    let mut quiet = false;
    for _ in 0..3 {
        quiet = quiet || stays_away(Duration::from_millis(20), watch.changed()).await;
    }
    assert!(quiet, "a watch that always has news is polling");
    {
        // A dropped future loses no news.
        let mut dropped = pin!(watch.changed());
        let polled = dropped.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending | Poll::Ready(())));
    }
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    in_time(SOON, "the news", watch.changed()).await;
}
