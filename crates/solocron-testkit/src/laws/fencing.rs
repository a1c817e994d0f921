//! A number that only grows, so that a resource can refuse whoever comes too late.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use solocron::lock::{Fence, Fencing, LockBackend, MarkAfter, Scope};
use tokio::task::JoinSet;

use super::client::{Raw, key, node, now, take};
use crate::Store;
use crate::harness::{lacks, skip};

fn usable(h: &Store) -> bool {
    let usable = h.connect().capabilities().fencing != Fencing::None;
    if !usable {
        skip("there is no usable fence");
    }
    usable
}

/// After a release, after a revocation, after a holder that died.
pub async fn a_fence_grows_with_every_win(h: &Store) {
    if !usable(h) {
        return;
    }
    let (a, b, key) = (Raw::brief(h), Raw::brief(h), key("report"));
    let mut last = Fence::ZERO;
    let mut grown = |fence: Fence, after: &str| {
        assert!(fence > last, "after {after}: {fence} is not more than {last}");
        last = fence;
    };
    let grant = a.win(&a.plain(&key)).await;
    grown(grant.fence, "nothing");
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    let request = b.plain(&key);
    let grant = b.win(&request).await;
    grown(grant.fence, "a release");
    b.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    drop(grant);
    let grant = a.win(&a.plain(&key)).await;
    grown(grant.fence, "a revocation");
    drop(grant);
    let (grant, _) = b.win_when_free(&key).await;
    grown(grant.fence, "a death");
}

/// The counter is the store's, not the client's.
pub async fn a_new_client_gets_a_higher_fence(h: &Store) {
    if !usable(h) {
        return;
    }
    let mut last = Fence::ZERO;
    for _ in 0..5 {
        let a = Raw::new(h);
        let grant = a.win(&a.plain(&key("report"))).await;
        assert!(grant.fence > last, "{} is not more than {last}", grant.fence);
        last = grant.fence;
        a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    }
}

/// It is the number of a win: neither a resend nor a renewal is one.
pub async fn a_resend_or_a_renewal_changes_no_fence(h: &Store) {
    if !usable(h) {
        return;
    }
    let (a, key) = (Raw::new(h), key("report"));
    let request = a.plain(&key);
    let first = a.win(&request).await;
    a.backend.renew(&[&first.lease], now()).await.remove(0).expect("the store answers");
    assert_eq!(a.win(&request).await.fence, first.fence);
    a.backend.release(&first.lease, MarkAfter::Done).await.expect("the store answers");
    assert!(a.win(&a.plain(&key)).await.fence > first.fence);
}

/// A guard hands out one fence for as long as it lives.
pub async fn a_guard_has_one_fence(h: &Store) {
    if !usable(h) {
        return;
    }
    let a = node(h);
    let guard = take(&a, &key("report")).await;
    assert!(guard.fence() > Fence::ZERO);
    assert_eq!(guard.check().expect("held"), guard.fence());
    guard.release().await.expect("the store answers");
}

/// Whoever is inside has a higher fence than everybody who was inside before.
pub async fn fences_follow_the_order_of_the_wins(h: &Store) {
    if !usable(h) {
        return;
    }
    let fences = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (locks, fences) = (node(h), Arc::clone(&fences));
        tasks.spawn(async move {
            for _ in 0..10 {
                let guard =
                    locks.lock("door", Duration::from_secs(60)).await.expect("free in time");
                fences.lock().expect("no panic inside").push(guard.fence());
                guard.release().await.expect("the store answers");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no task panics");
    }
    let fences = fences.lock().expect("no panic inside");
    assert_eq!(fences.len(), 80);
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
}

/// Also over a loss of all data, which a bare counter does not survive.
pub async fn a_fence_grows_over_a_loss_of_memory(h: &Store) {
    if !usable(h) {
        return;
    }
    let (a, key) = (Raw::brief(h), key("report"));
    let before = a.win(&a.plain(&key)).await;
    if !h.forget().await {
        return lacks("forget", a.capabilities().marks && !h.never_forgets());
    }
    let fence = before.fence;
    // One that does not run out keeps its lock for as long as it is kept.
    drop(before);
    let (after, _) = a.win_when_free(&key).await;
    assert!(after.fence > fence, "{} is not more than {fence}", after.fence);
}

/// And over a restart of the store.
pub async fn a_fence_grows_over_a_restart(h: &Store) {
    if !usable(h) {
        return;
    }
    let (a, key) = (Raw::brief(h), key("report"));
    let before = a.win(&a.plain(&key)).await;
    if !h.restart().await {
        return lacks("restart", a.capabilities().scope == Scope::Fleet);
    }
    let (after, _) = a.win_when_free(&key).await;
    assert!(after.fence > before.fence, "{} is not more than {}", after.fence, before.fence);
}
