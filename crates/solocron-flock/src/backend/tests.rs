//! What cannot be seen from outside: another boot, a forked child's view, who waits.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use solocron::lock::files::boot;
use solocron::lock::files::slots::Stamp;
use solocron::lock::{Claim, Delivery, NodeId};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn key() -> LockKey {
    LockKey::new("nightly").unwrap()
}

fn request(nonce: u128, tick: Option<Mark>) -> Request {
    let sent = LeaseInstant::from_origin(Duration::ZERO);
    let (nonce, node) = (Nonce::from_u128(nonce), NodeId::named("n"));
    let request = Request::new(key(), nonce, node, Duration::from_secs(10), sent);
    match tick {
        Some(tick) => request.claiming(Claim { tick, after: None, delivery: Delivery::AtMostOnce }),
        None => request,
    }
}

async fn attempt(backend: &FlockBackend, request: Request) -> Reply<FlockLease> {
    backend.try_acquire(&[request]).await.remove(0).unwrap()
}

async fn win(backend: &FlockBackend, nonce: u128) -> FlockLease {
    match attempt(backend, request(nonce, None)).await {
        Reply::Won(grant) => grant.lease,
        other => panic!("{other:?}"),
    }
}

fn millis_ago(now: Timestamp, ms: i64) -> Mark {
    Mark::from_millis(now.as_millisecond() - ms)
}

/// A lock file of an enrolled job with this mark, as another boot of the machine left it.
fn left_by_another_boot(backend: &FlockBackend, synced: bool, mark: Mark) {
    let mut record = KeyRecord::new(key());
    record.enroll(&Enrolment { key: key(), fingerprint: 7 }, mark.timestamp());
    let file = files::open(&backend.path(&key()), backend.0.rights, true).unwrap().unwrap().file;
    slots::allocate(&file).unwrap();
    let stamp = Stamp { seq: 1, boot: boot::id() ^ 1, tag: 0, synced };
    file.write_all_at(&slots::encode(&stamp, &record.to_bytes()), 0).unwrap();
}

#[tokio::test]
async fn after_another_boot_only_synced_files_are_believed() {
    let now = Timestamp::now();
    let began = boot::began(now);
    let before = Mark::from_millis(began.as_millis() - 60_000);
    let missed = Mark::from_millis(began.as_millis() - 1_000);
    for (written, read, claimable) in [
        (Durability::Process, Durability::Process, false),
        (Durability::Process, Durability::Sync, false),
        (Durability::Sync, Durability::Process, false),
        (Durability::Sync, Durability::Sync, true),
    ] {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("locks");
        let backend = FlockBackend::builder().dir(dir).durability(read).build().unwrap();
        left_by_another_boot(&backend, written == Durability::Sync, before);
        let reply = attempt(&backend, request(1, Some(missed))).await;
        assert_eq!(matches!(reply, Reply::Won(_)), claimable, "{written:?} {read:?}: {reply:?}");
        drop(reply);
        let reply = attempt(&backend, request(2, Some(millis_ago(now, 0)))).await;
        assert!(matches!(reply, Reply::Won(_)), "a tick of this boot: {reply:?}");
    }
}

#[tokio::test]
async fn a_forked_child_closes_and_neither_unlocks_nor_writes() {
    let tmp = tempfile::tempdir().unwrap();
    let backend = FlockBackend::open(tmp.path().join("locks")).unwrap();
    let (path, rights) = (backend.path(&key()), backend.0.rights);
    let opened = files::open(&path, rights, true).unwrap().unwrap();
    let Attempt::Locked(opened) = file::lock(opened, &path).unwrap() else { panic!("free") };
    let parents_copy = opened.file.try_clone().unwrap();
    let home = Home::of_parent(backend.dir(), rights);
    let won = Won { opened, record: KeyRecord::new(key()), seq: 0 };
    let lease = FlockLease(Lease::new(&home, path.clone(), Nonce::from_u128(1), false, won));
    let sent = LeaseInstant::from_origin(Duration::ZERO);
    assert_eq!(
        backend.renew(&[&lease], sent).await.remove(0).unwrap(),
        Renewal::NotOwner(Lost::Forked)
    );
    let released = backend.release(&lease, MarkAfter::Done).await.unwrap();
    assert_eq!(released, Released::NotOwner { mark: None });
    drop(lease);
    let other = files::open(&path, rights, false).unwrap().unwrap().file;
    assert!(file::is_locked(&other).unwrap(), "the parent's lock is still there");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "nothing was written");
    drop(parents_copy);
    assert!(!file::is_locked(&other).unwrap());
}

#[tokio::test]
async fn a_released_lock_is_free_although_a_starting_child_has_a_copy_of_it() {
    let tmp = tempfile::tempdir().unwrap();
    let backend = FlockBackend::open(tmp.path().join("locks")).unwrap();
    for drop_it in [false, true] {
        let lease = win(&backend, 1 + u128::from(drop_it)).await;
        let _copy = lease.0.copy();
        if drop_it {
            drop(lease);
        } else {
            backend.release(&lease, MarkAfter::Done).await.unwrap();
        }
        drop(win(&backend, 10 + u128::from(drop_it)).await);
    }
}

#[test]
fn a_file_deleted_or_replaced_between_open_and_lock_is_noticed() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("a.lock");
    let rights = Rights { uid: nix::unistd::geteuid().as_raw(), shared: false };
    let deleted = files::open(&path, rights, true).unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(file::lock(deleted, &path).unwrap(), Attempt::Replaced));
    let replaced = files::open(&path, rights, true).unwrap().unwrap();
    std::fs::write(tmp.path().join("b"), "").unwrap();
    std::fs::rename(tmp.path().join("b"), &path).unwrap();
    assert!(matches!(file::lock(replaced, &path).unwrap(), Attempt::Replaced));
    let whole = files::open(&path, rights, true).unwrap().unwrap();
    assert!(matches!(file::lock(whole, &path).unwrap(), Attempt::Locked(_)));
}

#[tokio::test]
async fn a_waiter_that_gives_up_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let backend = FlockBackend::open(tmp.path().join("locks")).unwrap();
    let lease = win(&backend, 1).await;
    let home = backend.home();
    let mut watches = Vec::new();
    for _ in 0..50 {
        watches.push(backend.watch(&key()).await.unwrap().unwrap());
    }
    until(|| home.waiters() == 50).await;
    for mut watch in watches {
        // Also in the middle of waiting.
        let news = tokio::time::timeout(Duration::from_millis(1), watch.changed()).await;
        assert!(news.is_err(), "no news while it is held");
    }
    until(|| home.waiters() == 0).await;
    drop(lease);
}

#[tokio::test]
async fn watching_a_lock_that_nobody_holds_returns_and_does_not_spin() {
    let tmp = tempfile::tempdir().unwrap();
    let backend = FlockBackend::open(tmp.path().join("locks")).unwrap();
    drop(win(&backend, 1).await); // the record names a holder, and a bell that will not have it
    let mut watch = backend.watch(&key()).await.unwrap().unwrap();
    let begun = std::time::Instant::now();
    for _ in 0..6 {
        tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(1 + 2 + 4 + 8 + 16 + 32));
}

#[tokio::test]
async fn the_locked_descriptor_is_moved_above_its_waiters() {
    let tmp = tempfile::tempdir().unwrap();
    let backend = FlockBackend::open(tmp.path().join("locks")).unwrap();
    let lease = win(&backend, 1).await;
    // A connection with a number of its own choosing: the other tests of this process open and close descriptors as well.
    let connection = lease.0.descriptor().unwrap() + 3;
    lease.0.raise_above(connection);
    assert!(lease.0.descriptor().unwrap() > connection);
    let other = FlockBackend::open(tmp.path().join("locks")).unwrap();
    assert!(matches!(attempt(&other, request(2, None)).await, Reply::Busy { .. }), "still locked");
    backend.release(&lease, MarkAfter::Done).await.unwrap();
    drop(win(&other, 3).await);
}

async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it happens soon");
}
