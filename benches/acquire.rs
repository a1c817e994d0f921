//! What a lock costs in one process: each group holds its floor, the system calls or the store operation for the same work.
//!
//! Every acquisition is checked to have been won; a bench that measured failures would lie.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use solocron::Locks;
use solocron::lock::{Claim, Delivery, Enrolment, LockKey, Mark, MemoryBackend};
use solocron_flock::FlockBackend;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn lock_and_release(locks: &Locks, key: &LockKey) {
    let guard =
        locks.try_lock(key).await.expect("the store answers").won().expect("nobody else is here");
    guard.release().await.expect("the store answers");
}

/// Claims the tick after the last one; ticks lie in the past, a millisecond apart.
async fn claim_and_release(locks: &Locks, key: &LockKey, tick: &mut i64) {
    *tick += 1;
    let claim =
        Claim { tick: Mark::from_millis(*tick), after: None, delivery: Delivery::AtMostOnce };
    let claimed = locks
        .claim(key, claim)
        .await
        .expect("the store answers")
        .won()
        .expect("nobody else is here");
    claimed.lease.release().await.expect("the store answers");
}

/// Enrolls `key` and answers with a tick from which there is room for `claim_and_release`.
async fn enrolled(locks: &Locks, key: &LockKey) -> i64 {
    locks
        .enroll(&[Enrolment { key: key.clone(), fingerprint: 0 }])
        .await
        .expect("the store answers")[0]
        .last
        .mark
        .as_millis()
}

/// The fewest system calls that exclude another process: open, flock, unlock, close.
fn floor(path: &Path) {
    let file: File =
        OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    file.try_lock().expect("nobody else is here");
    file.unlock().expect("it was locked");
}

fn flock(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("floor");
    File::create(&path).expect("a file");
    let runtime = runtime();
    let locks = Locks::new(FlockBackend::open(dir.path().join("locks")).expect("a lock directory"))
        .expect("options");
    let key = LockKey::new("bench").expect("a name");

    let mut group = c.benchmark_group("flock");
    group.bench_function("floor: open, flock, unlock, close", |b| b.iter(|| floor(&path)));
    group.bench_function("try_lock, release", |b| {
        b.to_async(&runtime).iter(|| lock_and_release(&locks, &key))
    });
    // The store's clock must have passed a tick: one per iteration from far enough back would need a record of the past, so the
    // claim is of a tick that lies as far back as the iterations are fast.
    group.bench_function("claim, release", |b| {
        b.iter_custom(|times| {
            runtime.block_on(async {
                let job = LockKey::new(format!("job {times} {}", Timestamp::now().as_nanosecond()))
                    .expect("a name");
                let mut tick = enrolled(&locks, &job).await;
                wait_for(tick + i64::try_from(times).expect("few enough")).await;
                let begun = std::time::Instant::now();
                for _ in 0..times {
                    claim_and_release(&locks, &job, &mut tick).await;
                }
                begun.elapsed()
            })
        });
    });
    group.finish();
}

fn memory(c: &mut Criterion) {
    let runtime = runtime();
    let locks = Locks::new(MemoryBackend::new()).expect("options");
    let key = LockKey::new("bench").expect("a name");
    let mutex = std::sync::Mutex::new(0_u64);

    let mut group = c.benchmark_group("memory");
    group.bench_function("floor: a mutex", |b| {
        b.iter(|| *black_box(&mutex).lock().expect("no poison") += 1)
    });
    group.bench_function("try_lock, release", |b| {
        b.to_async(&runtime).iter(|| lock_and_release(&locks, &key))
    });
    group.finish();
}

/// Until the wall clock has passed `tick`.
async fn wait_for(tick: i64) {
    while let Some(left) =
        u64::try_from(tick - Timestamp::now().as_millisecond()).ok().filter(|left| *left > 0)
    {
        tokio::time::sleep(std::time::Duration::from_millis(left)).await;
    }
}

criterion_group!(benches, flock, memory);
criterion_main!(benches);
