//! A store that lost its memory: ticks of before are skipped rather than repeated, and nothing is granted until leases of before are over.

use std::time::Duration;

use solocron::Kind;
use solocron::lock::{Delivery, LockBackend, Mark, MarkAfter, Reply};
use solocron_redis::RedisBackend;
use solocron_testkit::server::{Proxy, RedisServer};

use crate::{
    attempt, claim, client, enroll, must, now, open, plain, until, until_due, win, with_ttl,
};

const ONCE: Delivery = Delivery::AtMostOnce;
const AGAIN: Delivery = Delivery::AtLeastOnce { max_attempts: 9 };
const PASSWORD: &str = "of-a-primary-and-its-replica";
const BRIEF: Duration = Duration::from_millis(300);

/// A tick after the job's mark, which is due.
async fn next_tick(backend: &RedisBackend, name: &str) -> Mark {
    let tick = Mark::from_millis(enroll(backend, name).await.last.mark.as_millis() + 1);
    until_due(backend, name, tick).await;
    tick
}

async fn run(backend: &RedisBackend, name: &str, tick: Mark) {
    let mut request = claim(name, tick, ONCE);
    (request.ttl, request.longest_ttl) = (BRIEF, BRIEF);
    let grant = win(backend, &request).await;
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
}

async fn is_recovering(backend: &RedisBackend, ttl: Duration) -> bool {
    match attempt(backend, &with_ttl("another", ttl)).await {
        Ok(Reply::Won(grant)) => {
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            false
        }
        Err(error) if error.kind() == Kind::Recovering => {
            assert!(error.retry_after().unwrap() <= ttl);
            true
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_new_store_grants_at_once() {
    let server = crate::start();
    win(&open(&server), &plain("report")).await;
    // Also to somebody who comes later.
    win(&open(&server), &plain("other")).await;
}

#[tokio::test]
async fn a_flush_is_known_to_whoever_remembers_and_to_whoever_comes_while_others_live() {
    for newcomer in [false, true] {
        let server = crate::start();
        let old = open(&server);
        let epoch = old.epoch().await.unwrap();
        must(&server, &["FLUSHALL"]);
        let backend = if newcomer { open(&server) } else { old.clone() };
        assert!(is_recovering(&backend, Duration::from_secs(60)).await, "newcomer: {newcomer}");
        assert_ne!(old.epoch().await.unwrap(), epoch);
    }
}

#[tokio::test]
async fn after_a_flush_grants_come_when_the_longest_lease_is_over() {
    let server = crate::start();
    let backend = open(&server);
    backend.epoch().await.unwrap();
    must(&server, &["FLUSHALL"]);
    let lost = std::time::Instant::now();
    until("a grant", async || !is_recovering(&backend, BRIEF).await).await;
    assert!(lost.elapsed() >= BRIEF);
}

/// A server that began with a clock that was a day ahead: nobody waits until then.
#[tokio::test]
async fn a_loss_that_lies_ahead_is_taken_for_one_of_now() {
    let server = crate::start();
    let backend = open(&server);
    backend.epoch().await.unwrap();
    must(&server, &["FLUSHALL"]);
    assert!(is_recovering(&backend, BRIEF).await);
    // Where the record says when the loss was found, in microseconds.
    let tomorrow = ((now().as_millis() + 86_400_000) * 1000) as f64;
    server.command(&[b"SETRANGE".as_slice(), b"{test}:epoch", b"28", &tomorrow.to_le_bytes()]);
    until("a grant", async || !is_recovering(&backend, BRIEF).await).await;
}

/// A snapshot that is older than the last claim, as after a crash or a failover.
#[tokio::test]
async fn a_restart_with_old_data_repeats_no_tick_that_runs_at_most_once() {
    let server = crate::start();
    let backend = open(&server);
    let old = next_tick(&backend, "report").await;
    must(&server, &["SAVE"]);
    run(&backend, "report", old).await;
    let other = next_tick(&backend, "again").await;
    server.kill();
    server.restart();
    until("a connection", async || backend.epoch().await.is_ok()).await;
    assert!(!enroll(&backend, "report").await.created, "it came back with the old mark");
    assert!(enroll(&backend, "report").await.last.mark < old);
    let stale = attempt(&backend, &claim("report", old, ONCE)).await.unwrap();
    assert!(matches!(stale, Reply::Stale { done: true, .. }), "{stale:?}");
    until("the end of the wait", async || !is_recovering(&backend, BRIEF).await).await;
    let stale = attempt(&backend, &claim("report", old, ONCE)).await.unwrap();
    assert!(matches!(stale, Reply::Stale { done: true, .. }), "{stale:?}");
    // At least once means that it may run again, once nobody can hold it any more.
    let mut again = claim("report", old, AGAIN);
    again.longest_ttl = BRIEF;
    win(&backend, &again).await;
    // What is due after the loss is claimed as ever.
    enroll(&backend, "again").await;
    let tick = Mark::from_millis(now().as_millis().max(other.as_millis()) + 2);
    until_due(&backend, "again", tick).await;
    let mut fresh = claim("again", tick, ONCE);
    fresh.longest_ttl = BRIEF;
    win(&backend, &fresh).await;
}

/// A policy that runs every tick in turn is not sent back to ticks that it may not have.
#[tokio::test]
async fn after_a_loss_a_tick_in_turn_is_not_behind_what_was_skipped() {
    let server = crate::builder().append_only().start();
    let backend = open(&server);
    let first = next_tick(&backend, "report").await;
    run(&backend, "report", first).await;
    server.restart();
    until("the end of the wait", async || {
        matches!(attempt(&backend, &with_ttl("another", BRIEF)).await, Ok(Reply::Won(_)))
    })
    .await;
    let tick = Mark::from_millis(now().as_millis() + 2);
    until_due(&backend, "report", tick).await;
    let mut request = claim("report", tick, ONCE);
    request.longest_ttl = BRIEF;
    if let Some(claim) = &mut request.claim {
        claim.after = Some(Mark::from_millis(first.as_millis() + 1));
    }
    win(&backend, &request).await;
}

#[tokio::test]
async fn a_restart_of_a_server_that_is_trusted_changes_nothing() {
    let server = crate::builder().append_only().start();
    let backend = client(&server.url()).trusted_persistence(true).build().unwrap();
    let tick = next_tick(&backend, "report").await;
    run(&backend, "report", tick).await;
    let (epoch, last) = (backend.epoch().await.unwrap(), enroll(&backend, "report").await.last);
    server.restart();
    until("a connection", async || backend.epoch().await.is_ok()).await;
    assert_eq!(
        (backend.epoch().await.unwrap(), enroll(&backend, "report").await.last),
        (epoch, last)
    );
    assert!(!is_recovering(&backend, Duration::from_secs(60)).await);
    // A flush is a loss all the same.
    must(&server, &["FLUSHALL"]);
    assert!(is_recovering(&backend, Duration::from_secs(60)).await);
}

#[tokio::test]
async fn a_replica_that_takes_over_is_a_loss() {
    let primary = RedisServer::builder().password(PASSWORD).start();
    // As the replica of a fleet: with the password of its primary.
    let replica = RedisServer::builder().replica_of(&primary).password(PASSWORD).start();
    let proxy = Proxy::start(primary.address());
    let backend = client(&crate::through(&proxy, &primary)).build().unwrap();
    let epoch = backend.epoch().await.unwrap();
    let held = win(&backend, &plain("report")).await;
    must(&replica, &["REPLICAOF", "NO", "ONE"]);
    proxy.redirect(replica.address());
    proxy.sever();
    until("the other server", async || backend.epoch().await.is_ok_and(|now| now != epoch)).await;
    assert!(is_recovering(&backend, Duration::from_secs(60)).await);
    drop(held);
}

#[tokio::test]
async fn a_deleted_record_repeats_no_tick() {
    let server = crate::start();
    let backend = open(&server);
    let tick = next_tick(&backend, "report").await;
    run(&backend, "report", tick).await;
    must(&server, &["DEL", &backend.redis_key(&crate::key("report"))]);
    let error = attempt(&backend, &claim("report", tick, AGAIN)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotEnrolled);
    assert!(enroll(&backend, "report").await.created);
    let stale = attempt(&backend, &claim("report", tick, AGAIN)).await.unwrap();
    assert!(matches!(stale, Reply::Stale { .. }), "{stale:?}");
}

/// Somebody deletes the one key that says how old this memory is.
#[tokio::test]
async fn a_deleted_epoch_is_a_loss() {
    let server = crate::start();
    let backend = open(&server);
    let before = backend.epoch().await.unwrap();
    must(&server, &["DEL", &format!("{{{}}}:epoch", crate::NAMESPACE)]);
    assert!(is_recovering(&backend, Duration::from_secs(60)).await);
    assert_ne!(backend.epoch().await.unwrap(), before);
}
