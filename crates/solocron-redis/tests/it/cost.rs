//! What it costs: commands, by the server's own count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{
    Delivery, Enrolment, LockBackend, LockKey, LockOptions, Locks, Mark, Renewal, Reply,
};
use solocron::{Clock, Job, Scheduler, SystemClock};
use solocron_testkit::server::{Direction, Proxy, RedisServer};
use solocron_testkit::{Call, Faulty};

use crate::{PATIENCE, calls, client, open, plain, until, with_ttl};

/// Commands that clients sent. Scripts call others, which the server counts as well.
pub(crate) fn sent(server: &RedisServer) -> u64 {
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

/// A thousand jobs that are due at the same time: every command is on its way before the first answer comes back.
#[tokio::test]
async fn a_thousand_claims_cost_one_round_trip() {
    const JOBS: usize = 1_000;
    let server = crate::start();
    let proxy = Proxy::start(server.address());
    let backend = client(&crate::through(&proxy, &server)).build().unwrap();
    let keys: Vec<_> = (0..JOBS).map(|n| crate::key(&format!("job-{n}"))).collect();
    let job = |key: &LockKey| Enrolment { key: key.clone(), fingerprint: 7 };
    let enrolled = backend.enroll(&keys.iter().map(job).collect::<Vec<_>>()).await;
    let tick = enrolled.last().unwrap().as_ref().unwrap().last.mark;
    let tick = Mark::from_millis(tick.as_millis() + 1);
    crate::until_due(&backend, "job-0", tick).await;
    let claims: Vec<_> =
        keys.iter().map(|key| crate::claim(key.as_str(), tick, Delivery::AtMostOnce)).collect();
    crate::win(&backend, &plain("the script is known")).await;
    let before = sent(&server);
    proxy.black_hole(Direction::Down, true);
    let claiming = tokio::spawn({
        let (backend, claims) = (backend.clone(), claims.clone());
        async move { backend.try_acquire(&claims).await }
    });
    until("every command at the server", async || sent(&server) - before == 4).await;
    assert!(!claiming.is_finished(), "nothing was answered yet");
    claiming.abort();
    proxy.heal();
    // What became of it is asked with the same nonces.
    until("the same grants", async || {
        let replies = backend.try_acquire(&claims).await;
        replies.iter().all(|reply| matches!(reply, Ok(Reply::Won(_))))
    })
    .await;
}

#[tokio::test]
async fn what_many_tasks_ask_at_the_same_time_goes_together() {
    const TASKS: u64 = 64;
    const TURNS: u64 = 50;
    let server = crate::start();
    let options = LockOptions::default().ttl(PATIENCE);
    let locks = Locks::builder(open(&server)).options(options).build().unwrap();
    let before = sent(&server);
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let locks = locks.clone();
            tokio::spawn(async move {
                for _ in 0..TURNS {
                    let guard = locks.try_lock(format!("lock-{n}")).await.unwrap().won().unwrap();
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (cost, alone) = (sent(&server) - before, 2 * TASKS * TURNS);
    assert!(cost < alone / 2, "{cost} commands, and {alone} if each was sent alone");
}

/// However many wait, each acquisition costs the same: nobody is told but the next one in line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_turn_costs_does_not_depend_on_how_many_wait() {
    const NODES: u64 = 8;
    const TASKS: u64 = 8;
    const TURNS: u64 = 4;
    let server = crate::start();
    let options = LockOptions::default().ttl(PATIENCE);
    let (before, begun) = (sent(&server), SystemClock.lease_now());
    let within = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..NODES {
        let locks = Locks::builder(open(&server)).options(options).build().unwrap();
        for _ in 0..TASKS {
            let (locks, within) = (locks.clone(), Arc::clone(&within));
            tasks.push(tokio::spawn(async move {
                for _ in 0..TURNS {
                    let guard = locks.lock("report", PATIENCE).await.unwrap();
                    assert!(!within.swap(true, Ordering::SeqCst), "alone");
                    tokio::task::yield_now().await;
                    within.store(false, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let took = SystemClock.lease_now().saturating_since(begun);
    let (cost, turns) = (sent(&server) - before, NODES * TASKS * TURNS);
    // To try, to get in line, to try again, to try when woken, to release, and to leave a line that was not needed; connecting, and places
    // that are renewed each second.
    let limit = 6 * turns + NODES * (took.as_secs() + 8);
    assert!(cost <= limit, "{cost} commands for {turns} turns in {took:?}");
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
