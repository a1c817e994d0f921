//! The figures of `docs/design/0003-flock-bell.md`:
//!
//! ```sh
//! cargo test --release -p solocron-flock --test it -- --ignored --nocapture --test-threads=1 measure
//! ```

#![expect(clippy::print_stdout, reason = "figures are printed")]

use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use solocron::jiff::Timestamp;
use solocron::lock::{LockBackend, Locks, Mark, MarkAfter};
use solocron_flock::FlockBackend;
use tokio::time::timeout;

use crate::child::{Child, start};
use crate::{Dir, PATIENCE, claim, enroll, key, now, plain, win};

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let [p50, p90, p99] = [at(0.5), at(0.9), at(0.99)];
    println!(
        "{what:52} p50 {p50:>10.1?}  p90 {p90:>10.1?}  p99 {p99:>10.1?}  max {:>10.1?}",
        at(1.0)
    );
}

/// Batches of ten, so that reading the clock does not count.
async fn each<F: Future<Output = ()>>(what: &str, mut once: impl FnMut() -> F) {
    let mut times = Vec::new();
    for _ in 0..2_000 {
        let begun = Instant::now();
        for _ in 0..10 {
            once().await;
        }
        times.push(begun.elapsed() / 10);
    }
    print(what, times.split_off(200));
}

async fn take_and_release(what: &str, dir: &Path) {
    let backend = FlockBackend::open(dir).unwrap();
    each(what, || async {
        let grant = win(&backend, &plain("shared")).await;
        backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    })
    .await;
}

#[tokio::test]
#[ignore = "prints figures"]
async fn what_a_lock_costs() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("bare");
    File::create(&path).unwrap();
    each("bare open + flock + close", || async {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.try_lock().unwrap();
    })
    .await;
    let socket = tmp.path().join("bare.sock");
    each("bare bind + listen + unlink + close of a doorbell", || async {
        let _listener = UnixListener::bind(&socket).unwrap();
        std::fs::remove_file(&socket).unwrap();
    })
    .await;
    take_and_release("take + release", &tmp.path().join("locks")).await;
    let silent = tmp.path().join("silent");
    std::fs::create_dir(&silent).unwrap();
    crate::bad::chmod(&silent, 0o700);
    File::create(silent.join("bells")).unwrap();
    take_and_release("take + release, no bell", &silent).await;
    let dir = Dir::new();
    let locks = Locks::new(dir.open()).unwrap();
    each("Locks::try_lock + release", || async {
        locks.try_lock("shared").await.unwrap().won().unwrap().release().await.unwrap();
    })
    .await;
    let backend = dir.open();
    let mark = enroll(&backend, "job").await;
    let mut tick = mark.as_millis() - 20_001;
    std::fs::remove_file(backend.path(&key("job"))).unwrap();
    while now().as_millis() <= mark.as_millis() {
        tokio::task::yield_now().await;
    }
    enroll(&backend, "job").await;
    each("claim that lost (stale)", || {
        tick += 1;
        let (backend, tick) = (backend.clone(), Mark::from_millis(tick));
        async move {
            let stale = crate::attempt(&backend, &claim("job", tick)).await.unwrap();
            assert!(matches!(stale, solocron::lock::Reply::Stale { .. }));
        }
    })
    .await;
    let _held = win(&backend, &plain("shared")).await;
    let other = dir.open();
    each("attempt that lost (busy)", || async {
        assert!(crate::attempt(&other, &plain("shared")).await.is_ok());
    })
    .await;
}

/// A waiter of this process, that certainly waits.
async fn waiting(dir: &Dir) -> tokio::task::JoinHandle<Timestamp> {
    let locks = Locks::new(dir.open()).unwrap();
    let waiter = tokio::spawn(async move {
        let guard = locks.lock("shared", PATIENCE).await.unwrap();
        let won = Timestamp::now();
        guard.release().await.unwrap();
        won
    });
    let mut watch = dir.open().watch(&key("shared")).await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(10), watch.changed()).await.is_err(), "held");
    waiter
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "prints figures"]
async fn how_soon_a_waiter_is_woken() {
    let dir = Dir::new();
    let mut holder = start("measure", &dir.path());
    let mut times = Vec::new();
    for _ in 0..200 {
        holder.send("take").unwrap();
        holder.says();
        let waiter = waiting(&dir).await;
        holder.send("release").unwrap();
        let released: i128 = holder.says().parse().unwrap();
        let won = waiter.await.unwrap().as_nanosecond();
        times.push(Duration::from_nanos((won - released) as u64));
    }
    print("release in another process to lock won", times);
    for waiters in [1, 50, 200] {
        let mut times = Vec::new();
        for _ in 0..if waiters == 1 { 100 } else { 20 } {
            let mut holder = start("measure", &dir.path());
            holder.send("take").unwrap();
            holder.says();
            let mut waiting_all = Vec::new();
            for _ in 1..waiters {
                let locks = Locks::new(dir.open()).unwrap();
                waiting_all.push(tokio::spawn(async move {
                    let guard = locks.lock("shared", PATIENCE).await.unwrap();
                    let won = Timestamp::now();
                    guard.release().await.unwrap();
                    won
                }));
            }
            waiting_all.push(waiting(&dir).await);
            let killed = Timestamp::now();
            holder.dies();
            let mut first = Timestamp::MAX;
            for waiter in waiting_all {
                first = first.min(waiter.await.unwrap());
            }
            times.push(Duration::try_from(first.duration_since(killed)).unwrap());
        }
        print(&format!("kill -9 of the holder to lock won, {waiters} waiting"), times);
    }
}
