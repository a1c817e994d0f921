//! Fleets of real processes, and what becomes of their locks when they die or stop.

use std::collections::BTreeMap;
use std::process::Command;

use solocron::Kind;
use solocron::lock::{LockBackend, MarkAfter, Reply};

use crate::child::{kill, says, start};
use crate::{Place, attempt, claim, enroll, key, now, plain, win};

#[tokio::test]
async fn four_processes_claim_the_same_ticks_and_each_tick_is_won_once() {
    const TICKS: i64 = 200;
    for place in [Place::new().with_state(), Place::new().on_ports().with_state()] {
        let first = enroll(&place.open(), "shared").await.as_millis() + 1;
        let last = first + TICKS - 1;
        while now().as_millis() <= last {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await; // the ticks come due
        }
        let part = format!("claim {first} {last}");
        let mut fleet: Vec<_> = (0..4).map(|_| start(&place, &part, "shared")).collect();
        let mut wins = BTreeMap::new();
        for process in &mut fleet {
            loop {
                let said = says(process);
                if said == "end" {
                    break;
                }
                *wins.entry(said.parse::<i64>().unwrap()).or_insert(0) += 1;
            }
        }
        assert!(wins.values().all(|count| *count == 1), "{wins:?}");
        assert_eq!(wins.len() as i64, TICKS);
    }
}

#[tokio::test]
async fn processes_killed_at_any_moment_leave_the_lock_free_and_fences_grow() {
    for place in [Place::new(), Place::new().with_state(), Place::new().on_ports()] {
        let backend = place.open();
        let mut fence = 0;
        for round in 0..15 {
            let mut process = start(&place, "spin", "shared");
            for _ in 0..=round * 7 {
                let said: u64 = says(&mut process).parse().unwrap();
                assert!(said > fence, "{said} after {fence}");
                fence = said;
            }
            kill(&mut process);
            let grant = win(&backend, &plain("shared")).await;
            assert!(grant.fence.as_u64() > fence);
            fence = grant.fence.as_u64();
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stopped_holder_keeps_its_lock_and_is_no_stranger() {
    for place in [Place::new(), Place::new().with_state()] {
        let backend = place.open();
        let mut holder = start(&place, "hold", "shared");
        says(&mut holder);
        holder.stop().unwrap();
        let Reply::Busy { holder: named } = attempt(&backend, &plain("shared")).await.unwrap()
        else {
            panic!("held")
        };
        assert_eq!(
            named.is_some(),
            place.state.is_some(),
            "the record names it; the socket cannot"
        );
        holder.cont().unwrap();
        holder.send("release").unwrap();
        assert_eq!(says(&mut holder), "released");
        win(&backend, &plain("shared")).await;
    }
}

/// On a port nobody can tell a stopped holder from a stranger: that is an error which names it, and never "free".
#[tokio::test]
async fn a_stopped_holder_on_a_port_is_an_error_that_names_it() {
    let place = Place::new().on_ports();
    let mut holder = start(&place, "hold", "shared");
    says(&mut holder);
    holder.stop().unwrap();
    let error = attempt(&place.open(), &plain("shared")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains(&format!("process {}", holder.pid())), "{error}");
    holder.cont().unwrap();
    assert!(matches!(attempt(&place.open(), &plain("shared")).await, Ok(Reply::Busy { .. })));
}

#[tokio::test]
async fn holders_are_those_that_live() {
    for place in [Place::new(), Place::new().with_state()] {
        let backend = place.open();
        let mut process = start(&place, "hold", "shared");
        says(&mut process);
        let own = win(&backend, &plain("own")).await;
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
        kill(&mut process);
        assert_eq!(names("").await, ["own"]);
        drop(own);
        assert_eq!(names("").await, [""; 0]);
    }
}

#[tokio::test]
async fn what_another_living_process_holds_is_neither_revoked_nor_rewritten() {
    let place = Place::new().with_state();
    let backend = place.open();
    let mut process = start(&place, "hold", "shared");
    says(&mut process);
    let Reply::Busy { holder: Some(holder) } = attempt(&backend, &plain("shared")).await.unwrap()
    else {
        panic!("busy, and by whom")
    };
    let undo = MarkAfter::Undo;
    let error = backend.revoke(&key("shared"), holder.nonce.unwrap(), undo).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains(holder.node.as_str()), "{error}");
    let error = backend.set_note(&key("shared"), 0, b"paused").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    // A nonce that nobody knows is refused from now on all the same.
    let request = plain("shared");
    backend.revoke(&key("shared"), request.nonce, undo).await.unwrap();
    kill(&mut process);
    let error = attempt(&backend, &request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(backend.set_note(&key("shared"), 0, b"paused").await.unwrap().version, 1);
    let mark = enroll(&backend, "shared").await;
    let stale = attempt(&backend, &claim("shared", mark)).await.unwrap();
    assert!(matches!(stale, Reply::Stale { .. }));
}

/// A program that the holder starts does not inherit the lock.
#[tokio::test]
async fn a_started_program_does_not_keep_the_lock() {
    for place in [Place::new(), Place::new().on_ports()] {
        let backend = place.open();
        let grant = win(&backend, &plain("shared")).await;
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        drop(grant);
        win(&backend, &plain("shared")).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
