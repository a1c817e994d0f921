//! Waiters are woken, every time, one after the other, and by the death of a holder too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use solocron::lock::{LockBackend, Locks, MarkAfter};
use tokio::time::timeout;

use crate::child::{says, start};
use crate::{PATIENCE, Place, key, plain, win};

/// The core looks again by itself after 5 s; whoever is faster was woken.
const WOKEN: Duration = Duration::from_secs(4);

fn places() -> [Place; 2] {
    [Place::new(), Place::new().on_ports()]
}

fn locks(place: &Place) -> Locks {
    Locks::new(place.open()).unwrap()
}

/// A waiter of this process, that certainly waits.
async fn waiting(
    place: &Place,
) -> tokio::task::JoinHandle<solocron::Result<solocron::lock::LockGuard>> {
    let other = locks(place);
    let waiter = tokio::spawn(async move { other.lock("shared", PATIENCE).await });
    let mut watch = place.open().watch(&key("shared")).await.unwrap().unwrap();
    // Its first news may be for no reason.
    for _ in 0..3 {
        if timeout(Duration::from_millis(20), watch.changed()).await.is_err() {
            return waiter;
        }
    }
    panic!("a watch of a held lock that always has news")
}

#[tokio::test]
async fn a_waiter_is_woken_by_a_release_in_another_process() {
    for place in places() {
        let mut holder = start(&place, "hold", "shared");
        says(&mut holder);
        let waiter = waiting(&place).await;
        let asked = Instant::now();
        holder.send("release").unwrap();
        assert_eq!(says(&mut holder), "released");
        waiter.await.unwrap().unwrap().release().await.unwrap();
        assert!(asked.elapsed() < WOKEN);
    }
}

#[tokio::test]
async fn a_waiter_is_woken_by_the_death_of_the_holder() {
    for place in places() {
        for _ in 0..5 {
            let mut holder = start(&place, "hold", "shared");
            let fence: u64 = says(&mut holder).parse().unwrap();
            let waiter = waiting(&place).await;
            let killed = Instant::now();
            holder.kill().unwrap();
            let guard = waiter.await.unwrap().unwrap();
            assert!(killed.elapsed() < WOKEN);
            assert!(guard.fence().as_u64() > fence);
            guard.release().await.unwrap();
        }
    }
}

/// Many handles stand for many processes: each has a gate of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_come_one_after_the_other_and_nobody_is_forgotten() {
    const WAITERS: u32 = 64;
    for place in places() {
        let held = locks(&place).lock("shared", PATIENCE).await.unwrap();
        let inside = Arc::new(AtomicU32::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..WAITERS {
            let (locks, inside) = (locks(&place), Arc::clone(&inside));
            tasks.spawn(async move {
                let guard = locks.lock("shared", PATIENCE).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            });
        }
        let mut watch = place.open().watch(&key("shared")).await.unwrap().unwrap();
        let _ = timeout(Duration::from_millis(50), watch.changed()).await;
        drop(watch);
        let begun = Instant::now();
        held.release().await.unwrap();
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        // Nobody lived on the second look that a waiter takes by itself.
        assert!(begun.elapsed() < Duration::from_secs(WAITERS.into()) / 4, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn the_death_of_whoever_serves_the_line_lets_nobody_down() {
    let place = Place::new();
    let held = win(&place.open(), &plain("shared")).await;
    // The first one that waits serves the line.
    let mut first = start(&place, "wait", "shared");
    assert_eq!(says(&mut first), "ready");
    first.send("take").unwrap();
    let line = format!("@solocron/{}/", place.namespace);
    let served = || {
        std::fs::read_to_string("/proc/net/unix")
            .unwrap()
            .lines()
            .any(|socket| socket.contains(&line) && socket.ends_with("/line"))
    };
    while !served() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut others: Vec<_> = (0..3).map(|_| start(&place, "wait", "shared")).collect();
    for other in &mut others {
        assert_eq!(says(other), "ready");
        other.send("take").unwrap();
    }
    let waiter = waiting(&place).await;
    first.kill().unwrap();
    place.open().release(&held.lease, MarkAfter::Done).await.unwrap();
    let begun = Instant::now();
    for other in &mut others {
        says(other);
    }
    waiter.await.unwrap().unwrap().release().await.unwrap();
    assert!(begun.elapsed() < WOKEN);
}

#[tokio::test]
async fn a_stopped_waiter_does_not_stop_those_behind_it() {
    let place = Place::new();
    let held = win(&place.open(), &plain("shared")).await;
    let mut first = start(&place, "wait", "shared");
    assert_eq!(says(&mut first), "ready");
    first.send("take").unwrap();
    let line = format!("@solocron/{}/", place.namespace);
    let served = || {
        std::fs::read_to_string("/proc/net/unix")
            .unwrap()
            .lines()
            .any(|socket| socket.contains(&line) && socket.ends_with("/line"))
    };
    while !served() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let waiter = waiting(&place).await;
    first.stop().unwrap(); // the first in line, and it serves the line
    place.open().release(&held.lease, MarkAfter::Done).await.unwrap();
    let begun = Instant::now();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    assert!(begun.elapsed() < WOKEN, "{:?}", begun.elapsed());
    first.cont().unwrap();
    says(&mut first);
}

#[tokio::test]
async fn a_waiter_that_gives_up_is_not_in_the_way() {
    for place in places() {
        let held = win(&place.open(), &plain("shared")).await;
        for _ in 0..20 {
            let gone = locks(&place).lock("shared", Duration::from_millis(5)).await;
            assert!(
                matches!(gone, Err(solocron::Error::TimedOut { holder: Some(_), .. })),
                "{gone:?}"
            );
        }
        let waiter = waiting(&place).await;
        let begun = Instant::now();
        place.open().release(&held.lease, MarkAfter::Done).await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
        assert!(begun.elapsed() < WOKEN);
    }
}
