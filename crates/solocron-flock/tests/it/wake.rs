//! Waiters are woken, all of them, every time, and by the death of a holder too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use solocron::lock::{LockBackend, Locks, MarkAfter};
use tokio::time::timeout;

use crate::child::{Child, start};
use crate::{Dir, PATIENCE, key, plain, win};

/// The core looks again by itself after 5 s; whoever is faster was woken.
const WOKEN: Duration = Duration::from_secs(4);

fn locks(dir: &Dir) -> Locks {
    Locks::new(dir.open()).unwrap()
}

#[tokio::test]
async fn a_waiter_of_this_process_is_woken_by_a_release() {
    let dir = Dir::new();
    let held = locks(&dir).lock("shared", PATIENCE).await.unwrap();
    let other = locks(&dir);
    let waiting = tokio::spawn(async move { other.lock("shared", PATIENCE).await });
    let mut watch = dir.open().watch(&key("shared")).await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(20), watch.changed()).await.is_err(), "still held");
    let released = Instant::now();
    held.release().await.unwrap();
    watch.changed().await;
    let guard = waiting.await.unwrap().unwrap();
    assert!(released.elapsed() < WOKEN);
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_waiter_is_woken_by_a_release_in_another_process() {
    let dir = Dir::new();
    let mut holder = start("hold", &dir.path());
    holder.says();
    let other = locks(&dir);
    let waiting = tokio::spawn(async move { other.lock("shared", PATIENCE).await });
    let mut watch = dir.open().watch(&key("shared")).await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(20), watch.changed()).await.is_err(), "still held");
    let asked = Instant::now();
    holder.send("release").unwrap();
    assert_eq!(holder.says(), "released");
    waiting.await.unwrap().unwrap().release().await.unwrap();
    assert!(asked.elapsed() < WOKEN);
    holder.ends();
}

#[tokio::test]
async fn a_waiter_is_woken_by_the_death_of_the_holder() {
    let dir = Dir::new();
    for _ in 0..5 {
        let mut holder = start("hold", &dir.path());
        let fence: u64 = holder.says().parse().unwrap();
        let other = locks(&dir);
        let waiting = tokio::spawn(async move { other.lock("shared", PATIENCE).await });
        let mut watch = dir.open().watch(&key("shared")).await.unwrap().unwrap();
        assert!(timeout(Duration::from_millis(20), watch.changed()).await.is_err(), "still held");
        let killed = Instant::now();
        holder.dies();
        let guard = waiting.await.unwrap().unwrap();
        assert!(killed.elapsed() < WOKEN);
        assert!(guard.fence().as_u64() > fence);
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_waiters_all_get_their_turn() {
    let dir = Dir::new();
    let (inside, through) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let held = locks(&dir).lock("shared", PATIENCE).await.unwrap();
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let (locks, inside, through) = (locks(&dir), Arc::clone(&inside), Arc::clone(&through));
            tokio::spawn(async move {
                let guard = locks.lock("shared", PATIENCE).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                through.fetch_add(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            })
        })
        .collect();
    held.release().await.unwrap();
    for waiter in waiting {
        waiter.await.unwrap();
    }
    assert_eq!(through.load(Ordering::SeqCst), 200);
}

/// Two tasks that only ever wait for each other: one lost wake-up, and a turn takes 5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost_in_a_thousand_hand_overs() {
    let dir = Dir::new();
    let turns = Arc::new(AtomicU32::new(0));
    let play = |me: u32| {
        let (locks, turns) = (locks(&dir), Arc::clone(&turns));
        async move {
            let mut slowest = Duration::ZERO;
            while turns.load(Ordering::SeqCst) < 1000 {
                let begun = Instant::now();
                let guard = locks.lock("shared", PATIENCE).await.unwrap();
                slowest = slowest.max(begun.elapsed());
                if turns.load(Ordering::SeqCst) % 2 == me {
                    turns.fetch_add(1, Ordering::SeqCst);
                }
                guard.release().await.unwrap();
                tokio::task::yield_now().await;
            }
            slowest
        }
    };
    let (one, two) = (tokio::spawn(play(0)), tokio::spawn(play(1)));
    let slowest = one.await.unwrap().max(two.await.unwrap());
    assert!(slowest < WOKEN, "{slowest:?}");
}

/// The same without the core's second look every 5 s: a lost wake-up would hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_release_reaches_a_watch_that_began_before_it() {
    let dir = Dir::new();
    let (holder, waiter) = (dir.open(), dir.open());
    for _ in 0..1000 {
        let grant = win(&holder, &plain("shared")).await;
        let mut watch = waiter.watch(&key("shared")).await.unwrap().unwrap();
        let releasing = {
            let holder = holder.clone();
            tokio::spawn(async move { holder.release(&grant.lease, MarkAfter::Done).await })
        };
        timeout(PATIENCE, watch.changed()).await.expect("no wake-up is lost");
        releasing.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_directory_too_deep_for_a_socket_address_has_a_bell_as_well() {
    let tmp = tempfile::tempdir().unwrap();
    let deep = tmp.path().join("d".repeat(60)).join("e".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let dir = deep.join("locks");
    let holder = Locks::new(solocron_flock::FlockBackend::open(&dir).unwrap()).unwrap();
    let held = holder.lock("shared", PATIENCE).await.unwrap();
    let backend = solocron_flock::FlockBackend::open(&dir).unwrap();
    let mut watch = backend.watch(&key("shared")).await.unwrap().unwrap();
    // Without a bell the watch would say at once that it knows nothing.
    assert!(timeout(Duration::from_millis(200), watch.changed()).await.is_err(), "still held");
    held.release().await.unwrap();
    timeout(PATIENCE, watch.changed()).await.unwrap();
}

#[tokio::test]
async fn bells_of_dead_processes_are_swept() {
    let dir = Dir::new();
    let bells = dir.path().join("bells");
    let mut dead = start("hold", &dir.path());
    dead.says();
    dead.dies();
    assert_eq!(std::fs::read_dir(&bells).unwrap().count(), 1);
    let inotify = Inotify::init(InitFlags::empty()).unwrap();
    inotify.add_watch(&bells, AddWatchFlags::IN_DELETE).unwrap();
    let mut living = start("hold", &dir.path());
    living.says();
    let removed = tokio::task::spawn_blocking(move || inotify.read_events().unwrap().len());
    assert_eq!(timeout(PATIENCE, removed).await.unwrap().unwrap(), 1);
    // The one that is left is the living one's.
    let mut watch = dir.open().watch(&key("shared")).await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(50), watch.changed()).await.is_err(), "still held");
    living.send("release").unwrap();
    timeout(PATIENCE, watch.changed()).await.unwrap();
    living.ends();
}
