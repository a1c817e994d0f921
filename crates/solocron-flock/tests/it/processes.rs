//! Fleets of real processes.

use std::collections::BTreeMap;

use solocron::lock::{LockBackend, Reply};

use crate::child::{Child, start};
use crate::{Dir, attempt, claim, enroll, key, plain};

#[tokio::test]
async fn four_processes_claim_the_same_ticks_and_each_tick_is_won_once() {
    const TICKS: i64 = 300;
    let dir = Dir::new();
    let first = enroll(&dir.open(), "shared").await.as_millis() + 1;
    let last = first + TICKS - 1;
    let role = format!("claim {first} {last}");
    let mut fleet: Vec<_> = (0..4).map(|_| start(&role, &dir.path())).collect();
    let mut wins = BTreeMap::new();
    for process in &mut fleet {
        loop {
            let said = process.says();
            if said == "end" {
                break;
            }
            *wins.entry(said.parse::<i64>().unwrap()).or_insert(0) += 1;
        }
        process.ends();
    }
    assert!(wins.values().all(|count| *count == 1), "{wins:?}");
    assert_eq!(wins.len() as i64, TICKS);
}

#[tokio::test]
async fn processes_killed_while_writing_leave_no_damage_and_fences_grow() {
    let dir = Dir::new();
    let backend = dir.open();
    let mark = enroll(&backend, "shared").await;
    let mut fence = 0;
    for round in 0..30 {
        let mut process = start("spin", &dir.path());
        for _ in 0..=round * 7 {
            let said: u64 = process.says().parse().unwrap();
            assert!(said > fence, "{said} after {fence}");
            fence = said;
        }
        process.dies();
        // Those that it won before it died and that we did not hear of.
        let Reply::Won(grant) = attempt(&backend, &plain("shared")).await.unwrap() else {
            panic!("free after a death")
        };
        assert!(grant.fence.as_u64() > fence);
        fence = grant.fence.as_u64();
        backend.release(&grant.lease, solocron::lock::MarkAfter::Done).await.unwrap();
    }
    // Damage would have moved it to the present.
    assert_eq!(enroll(&backend, "shared").await, mark);
}

#[tokio::test]
async fn holders_are_those_that_live() {
    let dir = Dir::new();
    let backend = dir.open();
    let mut process = start("hold", &dir.path());
    process.says();
    let own = crate::win(&backend, &plain("own")).await;
    let names = |prefix: &'static str| {
        let backend = backend.clone();
        async move {
            let holders = backend.holders(prefix).await.unwrap().unwrap();
            let mut names: Vec<_> =
                holders.into_iter().map(|holder| holder.key.as_str().to_owned()).collect();
            names.sort();
            names
        }
    };
    assert_eq!(names("").await, ["own", "shared"]);
    assert_eq!(names("sh").await, ["shared"]);
    process.dies();
    assert_eq!(names("").await, ["own"], "the record of the dead one still names it");
    drop(own);
    assert_eq!(names("").await, [""; 0]);
}

#[tokio::test]
async fn what_another_living_process_holds_is_neither_revoked_nor_rewritten() {
    let dir = Dir::new();
    let backend = dir.open();
    let mut process = start("hold", &dir.path());
    process.says();
    let Reply::Busy { holder: Some(holder) } = attempt(&backend, &plain("shared")).await.unwrap()
    else {
        panic!("busy, and by whom")
    };
    let undo = solocron::lock::MarkAfter::Undo;
    let error = backend.revoke(&key("shared"), holder.nonce.unwrap(), undo).await.unwrap_err();
    assert_eq!(error.kind(), solocron::Kind::Unsupported);
    assert!(error.to_string().contains(holder.node.as_str()), "{error}");
    let error = backend.set_note(&key("shared"), 0, b"paused").await.unwrap_err();
    assert_eq!(error.kind(), solocron::Kind::Unavailable);
    let job = solocron::lock::Enrolment { key: key("shared"), fingerprint: 7 };
    let error = backend.enroll(std::slice::from_ref(&job)).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), solocron::Kind::Unavailable, "no claims on record yet: {error}");
    // A nonce that nobody knows is refused from now on all the same.
    let request = plain("shared");
    backend.revoke(&key("shared"), request.nonce, undo).await.unwrap();
    process.dies();
    let error = attempt(&backend, &request).await.unwrap_err();
    assert_eq!(error.kind(), solocron::Kind::Refused);
    assert_eq!(backend.set_note(&key("shared"), 0, b"paused").await.unwrap().version, 1);
    let mark = backend.enroll(&[job]).await.remove(0).unwrap().last.mark;
    assert!(matches!(
        attempt(&backend, &claim("shared", mark)).await.unwrap(),
        Reply::Stale { .. }
    ));
}
