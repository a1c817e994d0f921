//! Who holds a key holds it alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use solocron::lock::{LockBackend, Reply, TryLock};
use tokio::task::JoinSet;

use super::client::{Raw, SOON, in_time, is_free, key, node, take};
use crate::Store;

/// Nobody else is let in, and the refusal is an answer, not an error.
pub async fn a_held_key_excludes_other_clients(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    let guard = take(&a, &key).await;
    assert!(matches!(b.try_lock(&key).await, Ok(TryLock::Busy(_))));
    guard.check().expect("the loser's attempt does not hurt the winner");
    guard.release().await.expect("the store answers");
}

/// Two tasks of one process are two holders: nothing is re-entered by accident.
pub async fn a_held_key_excludes_its_own_process(h: &Store) {
    let (a, key) = (node(h), key("report"));
    let guard = take(&a, &key).await;
    assert!(a.try_lock(&key).await.expect("the store answers").won().is_none());
    assert!(a.clone().try_lock(&key).await.expect("the store answers").won().is_none());
    guard.release().await.expect("the store answers");
}

/// The same through the driver: one client, two nonces, one lock.
pub async fn a_client_cannot_take_its_own_key_twice(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    let _grant = a.win(&a.plain(&key)).await;
    assert!(matches!(a.reply(&a.plain(&key)).await, Reply::Busy { .. }));
}

/// Giving back is enough: no ttl has to pass.
pub async fn a_released_key_is_free(h: &Store) {
    let (a, b, key) = (node(h), node(h), key("report"));
    for _ in 0..3 {
        take(&a, &key).await.release().await.expect("the store answers");
        take(&b, &key).await.release().await.expect("the store answers");
    }
}

/// Locks of different names have nothing to do with each other.
pub async fn keys_do_not_disturb_each_other(h: &Store) {
    let (a, b) = (node(h), node(h));
    let (one, two) = (key("one"), key("two"));
    let first = take(&a, &one).await;
    let second = take(&b, &two).await;
    first.release().await.expect("the store answers");
    assert!(!is_free(&a, &two).await);
    second.check().expect("the release of one key leaves the other alone");
    second.release().await.expect("the store answers");
}

/// A hundred tasks on four nodes enter ten times each, and meet nobody inside.
pub async fn never_two_are_inside(h: &Store) {
    const TASKS: usize = 100;
    const ENTRIES: usize = 10;
    let nodes: Vec<_> = (0..4).map(|_| node(h)).collect();
    let inside = Arc::new(AtomicBool::new(false));
    let entries = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (locks, inside, entries) =
            (nodes[task % nodes.len()].clone(), Arc::clone(&inside), Arc::clone(&entries));
        tasks.spawn(async move {
            for _ in 0..ENTRIES {
                let guard =
                    locks.lock("door", Duration::from_secs(60)).await.expect("free in time");
                assert!(!inside.swap(true, Ordering::SeqCst), "somebody is inside already");
                tokio::task::yield_now().await;
                entries.fetch_add(1, Ordering::SeqCst);
                assert!(inside.swap(false, Ordering::SeqCst), "somebody else has left");
                guard.release().await.expect("the store answers");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no task panics");
    }
    assert_eq!(entries.load(Ordering::SeqCst), (TASKS * ENTRIES) as u64);
}

/// Read, wait, write: a counter under the lock counts everybody.
pub async fn no_update_is_lost(h: &Store) {
    const TASKS: u64 = 8;
    const UPDATES: u64 = 10;
    let counter = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (locks, counter) = (node(h), Arc::clone(&counter));
        tasks.spawn(async move {
            for _ in 0..UPDATES {
                let guard =
                    locks.lock("counter", Duration::from_secs(60)).await.expect("free in time");
                let read = counter.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                counter.store(read + 1, Ordering::SeqCst);
                guard.release().await.expect("the store answers");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no task panics");
    }
    assert_eq!(counter.load(Ordering::SeqCst), TASKS * UPDATES);
}

/// Attempts that collide: exactly one wins, however many try at once.
pub async fn one_of_many_attempts_wins(h: &Store) {
    let key = key("report");
    for _ in 0..20 {
        let clients: Vec<_> = (0..8).map(|_| Arc::new(Raw::new(h))).collect();
        let mut tasks = JoinSet::new();
        for client in &clients {
            let (client, key) = (Arc::clone(client), key.clone());
            tasks.spawn(async move { (client.reply(&client.plain(&key)).await, client) });
        }
        let mut won = Vec::new();
        while let Some(task) = in_time(SOON, "an answer", tasks.join_next()).await {
            if let (Reply::Won(grant), client) = task.expect("no attempt panics") {
                won.push((grant, client));
            }
        }
        assert_eq!(won.len(), 1, "exactly one of eight wins");
        let (grant, client) = won.remove(0);
        let released = client.backend.release(&grant.lease, solocron::lock::MarkAfter::Done).await;
        released.expect("the store answers");
    }
}
