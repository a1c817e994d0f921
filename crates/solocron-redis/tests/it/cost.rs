//! What it costs: commands, by the server's own count.

use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{LockBackend, LockOptions, Locks, Renewal, Reply};
use solocron::{Clock, Job, Scheduler, SystemClock};
use solocron_testkit::server::RedisServer;
use solocron_testkit::{Call, Faulty};

use crate::{PATIENCE, calls, open, plain, until, with_ttl};

/// Commands that clients sent. Scripts call others, which the server counts as well.
fn sent(server: &RedisServer) -> u64 {
    ["evalsha", "eval", "ping", "subscribe", "scan"]
        .iter()
        .map(|command| calls(server, command))
        .sum()
}

#[tokio::test]
async fn a_held_lock_costs_its_renewals_and_nothing_else() {
    let server = crate::start();
    let ttl = Duration::from_millis(900);
    let locks =
        Locks::builder(open(&server)).options(LockOptions::default().ttl(ttl)).build().unwrap();
    let guard = locks.try_lock("report").await.unwrap().won().unwrap();
    let (before, begun) = (sent(&server), SystemClock.lease_now());
    tokio::time::sleep(ttl * 3).await;
    let (cost, took) = (sent(&server) - before, SystemClock.lease_now().saturating_since(begun));
    guard.check().unwrap();
    let renewals = took.as_millis() / (ttl / 3).as_millis() + 1;
    assert!(u128::from(cost) <= renewals, "{cost} commands in {took:?}, for {renewals} renewals");
    assert!(cost >= 4, "it is renewed: {cost}");
    guard.release().await.unwrap();
    // Nothing is held: nothing is sent.
    let before = sent(&server);
    tokio::time::sleep(ttl * 2).await;
    assert_eq!(sent(&server), before);
}

#[tokio::test]
async fn an_idle_scheduler_confirms_the_epoch_once_a_second() {
    let server = crate::start();
    let backend = Faulty::new(open(&server));
    let locks = Locks::new(backend.clone()).unwrap();
    let tomorrow = (Timestamp::now() + Duration::from_secs(86_400))
        .round(solocron::jiff::Unit::Second)
        .unwrap();
    let job = Job::new("report", solocron::trigger::At::new(tomorrow).unwrap(), |_| async {});
    let scheduler = Scheduler::builder(locks).job(job).build().unwrap();
    let stopper = scheduler.stopper();
    let running = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
    until("a confirmation", async || backend.calls(Call::Epoch) > 1).await;
    let (before, begun) = (sent(&server), SystemClock.lease_now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (cost, took) = (sent(&server) - before, SystemClock.lease_now().saturating_since(begun));
    let stats = server.command(&["INFO", "commandstats"]);
    assert!(cost <= took.as_secs() + 1, "{cost} commands in {took:?}: {stats}");
    assert!(cost >= 1, "none in {took:?}");
    stopper.stop();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn ten_thousand_leases_are_taken_and_renewed_with_few_round_trips() {
    const LEASES: usize = 10_000;
    let server = crate::start();
    let backend = open(&server);
    let requests: Vec<_> =
        (0..LEASES).map(|n| with_ttl(&format!("lock-{n}"), PATIENCE * 10)).collect();
    let before = sent(&server);
    let replies = backend.try_acquire(&requests).await;
    let grants: Vec<_> = replies
        .into_iter()
        .map(|reply| match reply {
            Ok(Reply::Won(grant)) => grant,
            other => panic!("{other:?}"),
        })
        .collect();
    let taken = sent(&server) - before;
    assert!(taken <= 48, "{taken} commands to take them");
    let leases: Vec<_> = grants.iter().map(|grant| &grant.lease).collect();
    let before = sent(&server);
    let renewed = backend.renew(&leases, SystemClock.lease_now()).await;
    assert!(renewed.iter().all(|renewed| matches!(renewed, Ok(Renewal::Extended(_)))));
    let cost = sent(&server) - before;
    assert!(cost <= 24, "{cost} commands to renew them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_waiters_of_a_process_make_one_attempt_for_a_release() {
    const WAITERS: usize = 1_000;
    let server = crate::start();
    let options = LockOptions::default().ttl(PATIENCE);
    let other = Locks::builder(open(&server)).options(options).build().unwrap();
    let faulty = Faulty::new(open(&server));
    let locks = Locks::builder(faulty.clone()).options(options).build().unwrap();
    let guard = other.try_lock("report").await.unwrap().won().unwrap();
    let (won, mut winners) = tokio::sync::mpsc::unbounded_channel();
    let waiting: Vec<_> = (0..WAITERS)
        .map(|_| {
            let (locks, won) = (locks.clone(), won.clone());
            tokio::spawn(async move {
                let guard = locks.lock("report", PATIENCE).await.unwrap();
                won.send(guard).unwrap();
            })
        })
        .collect();
    until("a waiter in line", async || {
        faulty.calls(Call::TryAcquire) == 2 && faulty.calls(Call::Watch) == 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = faulty.calls(Call::TryAcquire);
    assert_eq!(before, 2, "one of a thousand asks");
    guard.release().await.unwrap();
    let guard = winners.recv().await.unwrap();
    // The next in line begins as soon as this one has it: two attempts, and then it waits.
    assert!(
        faulty.calls(Call::TryAcquire) - before <= 3,
        "{} attempts",
        faulty.calls(Call::TryAcquire) - before
    );
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    drop(guard);
}

#[tokio::test]
async fn a_plain_lock_is_forgotten_in_the_end_and_a_job_is_not() {
    let server = crate::start();
    let backend = open(&server);
    let request = with_ttl("plain", Duration::from_secs(10));
    crate::win(&backend, &request).await;
    let ttl = |name: &str| {
        crate::must(&server, &["PTTL", &backend.redis_key(&crate::key(name))]).as_int().unwrap()
    };
    assert!(ttl("plain") > 300_000 && ttl("plain") <= 370_000, "{}", ttl("plain"));
    crate::enroll(&backend, "plain").await;
    assert_eq!(ttl("plain"), -1);
    crate::win(&backend, &plain("noted")).await;
    backend.set_note(&crate::key("noted"), 0, b"paused").await.unwrap();
    assert_eq!(ttl("noted"), -1);
    // A nonce that is refused is remembered for a while, and not for ever.
    let request = plain("refused");
    backend.revoke(&request.key, request.nonce, solocron::lock::MarkAfter::Undo).await.unwrap();
    assert!(ttl("refused") > 60_000, "{}", ttl("refused"));
}
