//! One process, several handles.

use solocron::Kind;
use solocron::lock::{
    Enrolment, LockBackend, LockKey, Lost, Mark, MarkAfter, Released, Renewal, Reply,
};

use crate::{Place, attempt, claim, enroll, key, now, plain, sent, win};

fn places() -> [Place; 4] {
    [
        Place::new(),
        Place::new().with_state(),
        Place::new().on_ports(),
        Place::new().on_ports().with_state(),
    ]
}

#[tokio::test]
async fn two_handles_of_one_process_exclude_each_other_and_see_who_it_is() {
    for place in places() {
        let (one, two) = (place.open(), place.open());
        let grant = win(&one, &plain("a")).await;
        let Reply::Busy { holder: Some(holder) } = attempt(&two, &plain("a")).await.unwrap() else {
            panic!("busy, and by whom")
        };
        assert_eq!(holder.node.as_str(), "node");
        assert_eq!(one.release(&grant.lease, MarkAfter::Done).await.unwrap(), Released::Done);
        assert_eq!(one.release(&grant.lease, MarkAfter::Done).await.unwrap(), Released::Done);
        let next = win(&two, &plain("a")).await;
        assert!(next.fence > grant.fence);
        assert_eq!(
            one.renew(&[&grant.lease], sent()).await.remove(0).unwrap(),
            Renewal::NotOwner(Lost::TakenOver),
            "released for good"
        );
    }
}

#[tokio::test]
async fn the_same_nonce_has_the_same_lease_while_it_lives() {
    for place in places() {
        let backend = place.open();
        let request = plain("a");
        let (one, two) = (win(&backend, &request).await, win(&backend, &request).await);
        assert_eq!(one.fence, two.fence);
        drop(one);
        assert!(matches!(attempt(&backend, &plain("a")).await.unwrap(), Reply::Busy { .. }));
        drop(two);
        win(&backend, &plain("a")).await;
    }
}

#[tokio::test]
async fn a_lock_is_free_as_soon_as_its_release_returns_a_thousand_times() {
    for place in places() {
        let (one, two) = (place.open(), place.open());
        for round in 0..1_000 {
            let backend = if round % 2 == 0 { &one } else { &two };
            let grant = win(backend, &plain("a")).await;
            if round % 3 == 0 {
                drop(grant);
            } else {
                backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn namespaces_are_worlds_of_their_own_and_keys_locks_of_their_own() {
    let (one, two) = (Place::new(), Place::new());
    let _a = win(&one.open(), &plain("a")).await;
    let _b = win(&two.open(), &plain("a")).await;
    let _c = win(&one.open(), &plain("A")).await;
    let names = one.open().holders("").await.unwrap().unwrap();
    let mut names: Vec<_> = names.iter().map(|holder| holder.key.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "a"]);
}

#[tokio::test]
async fn without_a_state_directory_nothing_is_enrolled_claimed_or_noted() {
    let backend = Place::new().open();
    assert!(!backend.capabilities().marks);
    let job = Enrolment { key: key("a"), fingerprint: 7 };
    for error in [
        backend.enroll(&[job]).await.remove(0).unwrap_err(),
        backend.set_note(&key("a"), 0, b"").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("state_dir"), "{error}");
    }
    let error = attempt(&backend, &claim("a", now())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotEnrolled);
    let _held = win(&backend, &plain("a")).await;
    let error = attempt(&backend, &claim("a", now())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotEnrolled);
}

#[tokio::test]
async fn a_claim_is_refused_before_it_is_enrolled_and_makes_no_file() {
    let place = Place::new().with_state();
    let backend = place.open();
    let error = attempt(&backend, &claim("a", now())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotEnrolled);
    assert!(!backend.state_path(&key("a")).unwrap().exists());
}

#[tokio::test]
async fn a_revoked_claim_gives_its_tick_back() {
    for place in [Place::new().with_state(), Place::new().on_ports().with_state()] {
        let backend = place.open();
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
}

/// Everything that is not asked for by a driver call lives on the keeper's thread: a runtime that ends takes no lock along.
#[test]
fn a_lock_outlives_the_runtime_it_was_taken_on() {
    let place = Place::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let held = runtime().block_on(win(&place.open(), &plain("a")));
    let busy = runtime().block_on(attempt(&place.open(), &plain("a")));
    assert!(matches!(busy, Ok(Reply::Busy { holder: Some(_) })), "{busy:?}");
    let mut watch = runtime().block_on(place.open().watch(&LockKey::new("a").unwrap())).unwrap();
    drop(held);
    runtime().block_on(watch.as_mut().unwrap().changed());
    runtime().block_on(win(&place.open(), &plain("a")));
}

#[tokio::test]
async fn what_is_printed_holds_no_nonce() {
    let place = Place::new().with_state();
    let backend = place.open();
    let request = plain("a");
    let grant = win(&backend, &request).await;
    let said = format!("{backend:?} {:?} {:?}", grant.lease, place.builder());
    assert!(!said.contains(&format!("{:032x}", request.nonce.as_u128())), "{said}");
}
