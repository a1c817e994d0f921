//! One process, several handles.

use std::time::Duration;

use solocron::Kind;
use solocron::lock::{
    Claim, Delivery, Enrolment, LockBackend, Locks, Lost, Mark, MarkAfter, Released, Renewal,
    Reply, Validity,
};
use tokio::time::timeout;

use crate::{Dir, PATIENCE, attempt, claim, enroll, key, mode, now, plain, sent, win};

#[tokio::test]
async fn two_handles_of_one_process_exclude_each_other() {
    let dir = Dir::new();
    let (one, two) = (dir.open(), dir.open());
    let grant = win(&one, &plain("a")).await;
    let Reply::Busy { holder: Some(holder) } = attempt(&two, &plain("a")).await.unwrap() else {
        panic!("busy")
    };
    assert_eq!(holder.node.as_str(), "node");
    win(&two, &plain("b")).await;
    assert_eq!(one.release(&grant.lease, MarkAfter::Done).await.unwrap(), Released::Done);
    assert_eq!(one.release(&grant.lease, MarkAfter::Done).await.unwrap(), Released::Done, "again");
    let next = win(&two, &plain("a")).await;
    assert!(next.fence > grant.fence);
    assert_eq!(
        one.renew(&[&grant.lease], sent()).await.remove(0).unwrap(),
        Renewal::NotOwner(Lost::TakenOver),
        "released for good"
    );
}

#[tokio::test]
async fn a_dropped_lease_frees_the_lock_and_says_nothing_of_its_tick() {
    let dir = Dir::new();
    let backend = dir.open();
    let tick = Mark::from_millis(enroll(&backend, "a").await.as_millis() + 1);
    while now() <= tick {
        tokio::task::yield_now().await;
    }
    let request = claim("a", tick);
    let first = win(&backend, &request).await;
    drop(first.lease);
    // The same nonce again: the answer was lost, the grant was not.
    let again = win(&backend, &request).await;
    assert_eq!((again.fence, again.attempt), (first.fence, 1));
    drop(again.lease);
    let Reply::Stale { done: false, owner: Some(owner), .. } =
        attempt(&backend, &claim("a", tick)).await.unwrap()
    else {
        panic!("claimed and abandoned")
    };
    assert!(!owner.living);
    let mut request = claim("a", tick);
    request.claim =
        Some(Claim { tick, after: None, delivery: Delivery::AtLeastOnce { max_attempts: 2 } });
    let second = win(&backend, &request).await;
    assert!(second.fence > first.fence);
    assert_eq!(second.attempt, 2);
}

#[tokio::test]
async fn the_same_nonce_has_the_same_lease_while_it_lives() {
    let dir = Dir::new();
    let backend = dir.open();
    let request = plain("a");
    let (one, two) = (win(&backend, &request).await, win(&backend, &request).await);
    assert_eq!(one.fence, two.fence);
    drop(one);
    assert!(matches!(attempt(&backend, &plain("a")).await.unwrap(), Reply::Busy { .. }));
    drop(two);
    win(&backend, &plain("a")).await;
}

#[tokio::test]
async fn a_claim_is_refused_before_it_is_enrolled_and_makes_no_file() {
    let dir = Dir::new();
    let backend = dir.open();
    let error = attempt(&backend, &claim("a", now())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotEnrolled);
    assert!(!backend.path(&key("a")).exists());
}

#[tokio::test]
async fn a_file_replaced_or_deleted_under_a_lease_is_a_loss_when_it_is_verified() {
    let dir = Dir::new();
    let backend = dir.open();
    for replace in [false, true] {
        let grant = win(&backend, &plain("a")).await;
        let path = backend.path(&key("a"));
        let verify = || async { backend.renew(&[&grant.lease], sent()).await.remove(0).unwrap() };
        assert_eq!(verify().await, Renewal::Extended(Validity::ProcessBound));
        if replace {
            std::fs::copy(&path, dir.path().join("copy")).unwrap();
            std::fs::rename(dir.path().join("copy"), &path).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(verify().await, Renewal::NotOwner(Lost::FileReplaced));
        let other = win(&dir.open(), &plain("a")).await;
        assert!(other.fence > grant.fence, "the clock goes on where the record does not");
        assert!(matches!(
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap(),
            Released::NotOwner { .. }
        ));
        assert!(matches!(attempt(&backend, &plain("a")).await.unwrap(), Reply::Busy { .. }));
    }
}

#[tokio::test]
async fn a_guard_learns_of_a_replaced_file_within_about_a_second() {
    let dir = Dir::new();
    let backend = dir.open();
    let guard = Locks::new(backend.clone()).unwrap().lock("a", PATIENCE).await.unwrap();
    std::fs::remove_file(backend.path(&key("a"))).unwrap();
    assert_eq!(timeout(Duration::from_secs(5), guard.lost()).await.unwrap(), Lost::FileReplaced);
}

#[tokio::test]
async fn an_operator_frees_a_lease_of_this_process() {
    let dir = Dir::new();
    let (backend, operator) = (dir.open(), dir.open());
    let request = plain("a");
    let grant = win(&backend, &request).await;
    let undo = MarkAfter::Undo;
    assert_eq!(operator.revoke(&key("a"), request.nonce, undo).await.unwrap(), Released::Done);
    assert_eq!(
        backend.renew(&[&grant.lease], sent()).await.remove(0).unwrap(),
        Renewal::NotOwner(Lost::ForceReleased)
    );
    assert_eq!(attempt(&backend, &request).await.unwrap_err().kind(), Kind::Refused);
    win(&operator, &plain("a")).await;
}

#[tokio::test]
async fn a_revoked_claim_gives_its_tick_back() {
    let dir = Dir::new();
    let backend = dir.open();
    let mark = enroll(&backend, "a").await;
    let tick = Mark::from_millis(mark.as_millis() + 1);
    while now() <= tick {
        tokio::task::yield_now().await;
    }
    let request = claim("a", tick);
    drop(win(&backend, &request).await);
    backend.revoke(&key("a"), request.nonce, MarkAfter::Undo).await.unwrap();
    assert_eq!(enroll(&backend, "a").await, mark);
    assert_eq!(attempt(&backend, &request).await.unwrap_err().kind(), Kind::Refused);
    win(&backend, &claim("a", tick)).await;
}

#[tokio::test]
async fn notes_and_schedules_are_written_through_a_living_lease() {
    let dir = Dir::new();
    let (backend, other) = (dir.open(), dir.open());
    enroll(&backend, "a").await;
    let grant = win(&backend, &plain("a")).await;
    assert_eq!(other.set_note(&key("a"), 0, b"paused").await.unwrap().version, 1);
    assert_eq!(other.set_note(&key("a"), 0, b"late").await.unwrap().body, b"paused");
    let changed = Enrolment { key: key("a"), fingerprint: 8 };
    let enrolled = other.enroll(std::slice::from_ref(&changed)).await.remove(0).unwrap();
    assert_eq!(enrolled.schedule.fingerprint, 8);
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let grant = win(&other, &plain("a")).await;
    assert_eq!(grant.note.body, b"paused");
    assert_eq!(grant.schedule.unwrap().fingerprint, 8);
}

#[tokio::test]
async fn the_epoch_changes_when_an_enrolled_file_goes_and_not_when_one_comes() {
    let dir = Dir::new();
    let backend = dir.open();
    enroll(&backend, "a").await;
    let before = backend.epoch().await.unwrap();
    enroll(&backend, "b").await;
    drop(win(&backend, &plain("c")).await);
    assert_eq!(backend.epoch().await.unwrap(), before);
    std::fs::remove_file(backend.path(&key("c"))).unwrap();
    assert_eq!(backend.epoch().await.unwrap(), before, "no job's file");
    std::fs::remove_file(backend.path(&key("a"))).unwrap();
    let after = backend.epoch().await.unwrap();
    assert_ne!(after, before);
    enroll(&backend, "a").await;
    assert_eq!(backend.epoch().await.unwrap(), after);
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert!(backend.epoch().await.is_err());
}

#[tokio::test]
async fn one_bad_key_does_not_sink_a_batch() {
    let dir = Dir::new();
    let backend = dir.open();
    std::fs::create_dir(backend.path(&key("bad"))).unwrap();
    let requests = [plain("a"), plain("bad"), plain("c")];
    let replies = backend.try_acquire(&requests).await;
    assert!(matches!(replies[0], Ok(Reply::Won(_))));
    assert!(replies[1].is_err());
    assert!(matches!(replies[2], Ok(Reply::Won(_))));
}

#[tokio::test]
async fn files_are_private_and_stay() {
    let dir = Dir::new();
    let backend = dir.open();
    let grant = win(&backend, &plain("a")).await;
    let path = backend.path(&key("a"));
    assert_eq!((mode(&dir.path()), mode(&path)), (0o700, 0o600));
    assert_eq!(mode(&dir.path().join("bells")), 0o700);
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn waiting_for_the_disk_changes_nothing_else() {
    let dir = Dir::new();
    let backend = solocron_flock::FlockBackend::builder()
        .dir(dir.path())
        .durability(solocron_flock::Durability::Sync)
        .build()
        .unwrap();
    let tick = Mark::from_millis(enroll(&backend, "a").await.as_millis() + 1);
    while now() <= tick {
        tokio::task::yield_now().await;
    }
    let grant = win(&backend, &claim("a", tick)).await;
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    assert!(matches!(
        attempt(&backend, &claim("a", tick)).await.unwrap(),
        Reply::Stale { done: true, .. }
    ));
}
