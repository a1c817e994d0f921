//! Waiting in line: a release hands the lock to whoever waited longest, with nothing in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use solocron::lock::{
    Delivery, Grant, LockBackend, LockOptions, Locks, MarkAfter, Nonce, Released, Renewal, Reply,
    Request, TryLock, Validity, Watch,
};
use solocron::{Clock, Kind, SystemClock};
use solocron_redis::{RedisBackend, RedisLease};
use solocron_testkit::fleet::{Member, as_child, reply, this_test};
use solocron_testkit::server::{Direction, Proxy, RedisServer, Value};

use crate::cost::sent;
use crate::{
    NAMESPACE, PATIENCE, attempt, claim, client, enroll, key, must, now, open, plain, through,
    until, until_due, win, with_ttl,
};

/// An acquisition that waits.
struct Waiter {
    backend: RedisBackend,
    request: Request,
    watch: Box<dyn Watch>,
}

impl Waiter {
    /// In line for `report`, which is held.
    async fn begin(backend: &RedisBackend) -> Self {
        let request = plain("report");
        let mut watch = backend.watch(&request.key).await.unwrap().unwrap();
        watch.wait_as(request.nonce);
        let busy = attempt(backend, &request).await;
        assert!(matches!(busy, Ok(Reply::Busy { .. })), "{busy:?}");
        Self { backend: backend.clone(), request, watch }
    }

    async fn news(&mut self) {
        tokio::time::timeout(PATIENCE, self.watch.changed()).await.expect("news");
    }

    /// Its next attempt.
    async fn attempt(&mut self) -> Grant<RedisLease> {
        self.request.first_sent = SystemClock.lease_now();
        win(&self.backend, &self.request).await
    }
}

fn line() -> String {
    format!("{{{NAMESPACE}}}:wait:{}", key("report").slug())
}

fn in_line(server: &RedisServer) -> i64 {
    must(server, &["ZCARD", &line()]).as_int().unwrap()
}

/// Locks whose leases do not run out within a test.
fn locks(backend: RedisBackend) -> Locks {
    let options = LockOptions::default().ttl(PATIENCE * 10);
    Locks::builder(backend).options(options).build().unwrap()
}

#[tokio::test]
async fn a_release_grants_to_whoever_waited_longest_without_another_command() {
    let server = crate::start();
    let (first, quick) = (open(&server), locks(open(&server)));
    let mut grant = win(&first, &plain("report")).await;
    let mut holder = first;
    let mut line = Vec::new();
    for _ in 0..8 {
        line.push(Waiter::begin(&open(&server)).await);
    }
    while !line.is_empty() {
        let mut next = line.remove(0);
        holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
        // Not for a moment is it free for those who do not wait.
        let busy = quick.try_lock("report").await.unwrap();
        assert!(matches!(busy, TryLock::Busy(Some(by)) if by.nonce == Some(next.request.nonce)));
        next.news().await;
        let (before, fence) = (sent(&server), grant.fence);
        grant = next.attempt().await;
        assert_eq!(sent(&server) - before, 0, "it is told, and asks nobody");
        assert!(grant.fence > fence);
        let Validity::Until { since, .. } = grant.validity else { panic!("it has a ttl") };
        assert!(since <= next.request.first_sent, "valid from when it was granted");
        let renewed = next.backend.renew(&[&grant.lease], next.request.first_sent).await;
        assert!(matches!(renewed[..], [Ok(Renewal::Extended(_))]));
        holder = next.backend.clone();
    }
    let released = holder.release(&grant.lease, MarkAfter::Done).await;
    assert_eq!(released.unwrap(), Released::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_costs_two_commands_however_many_wait() {
    const NODES: u64 = 8;
    const TASKS: u64 = 8;
    const TURNS: u64 = 25;
    let server = crate::start();
    let nodes: Vec<_> = (0..NODES).map(|_| locks(open(&server))).collect();
    let within = Arc::new(AtomicBool::new(false));
    let all = async |turns: u64| {
        let tasks: Vec<_> = (0..NODES * TASKS)
            .map(|task| {
                let (locks, within) = (nodes[(task % NODES) as usize].clone(), Arc::clone(&within));
                tokio::spawn(async move {
                    for _ in 0..turns {
                        let guard = locks.lock("report", PATIENCE).await.unwrap();
                        assert!(!within.swap(true, Ordering::SeqCst), "alone");
                        tokio::task::yield_now().await;
                        within.store(false, Ordering::SeqCst);
                        guard.release().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    };
    // From here on every node knows that it is contended.
    all(2).await;
    let (before, begun) = (sent(&server), SystemClock.lease_now());
    all(TURNS).await;
    let took = SystemClock.lease_now().saturating_since(begun);
    let (cost, turns) = (sent(&server) - before, NODES * TASKS * TURNS);
    // To get in line, and to release. Each second every node that waits renews its place.
    let limit = turns * 21 / 10 + NODES * (took.as_secs() + 2);
    assert!(cost <= limit, "{cost} commands for {turns} turns in {took:?}");
}

#[tokio::test]
async fn a_grant_that_nobody_picks_up_is_given_back() {
    let server = crate::start();
    let holder = open(&server);
    for other_nonce in [false, true] {
        let grant = win(&holder, &plain("report")).await;
        let mut first = Waiter::begin(&open(&server)).await;
        let mut second = Waiter::begin(&open(&server)).await;
        holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
        first.news().await;
        let kept = if other_nonce {
            first.watch.wait_as(Nonce::random());
            Some(first)
        } else {
            drop(first);
            None
        };
        second.news().await;
        let grant = second.attempt().await;
        second.backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
        drop(kept);
    }
    assert_eq!(in_line(&server), 0);
}

/// Whoever stops waiting at any moment leaves nothing behind: each is dropped while it is granted the lock, a little earlier or later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_dropped_at_any_moment_keeps_the_lock_from_nobody() {
    let server = crate::start();
    let (a, b, c) = (locks(open(&server)), locks(open(&server)), locks(open(&server)));
    for round in 0..200_u64 {
        let guard = tokio::time::timeout(PATIENCE, a.lock("report", PATIENCE)).await;
        let guard = guard.unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
        let waiting = tokio::spawn({
            let b = b.clone();
            async move { b.lock("report", PATIENCE).await.map(drop) }
        });
        let behind = tokio::spawn({
            let c = c.clone();
            async move { c.lock("report", PATIENCE).await.unwrap().release().await.unwrap() }
        });
        for _ in 0..round % 40 {
            tokio::task::yield_now().await;
        }
        let releasing = tokio::spawn(guard.release());
        tokio::time::sleep(Duration::from_micros(round * 7 % 600)).await;
        waiting.abort();
        releasing.await.unwrap().unwrap();
        let behind = tokio::time::timeout(PATIENCE, behind).await;
        behind.unwrap_or_else(|_| panic!("round {round}: nobody gets it")).unwrap();
    }
}

/// A copy of an attempt that comes after its waiter has gone puts a place in line that nobody has.
#[tokio::test]
async fn a_place_that_nobody_has_costs_a_moment() {
    let server = crate::start();
    let (holder, living) = (open(&server), open(&server));
    let grant = win(&holder, &plain("report")).await;
    let mut waiter = Waiter::begin(&living).await;
    let Value::Array(places) = must(&server, &["ZRANGE", &line(), "0", "-1"]) else { panic!() };
    let Value::Bulk(place) = &places[0] else { panic!("{places:?}") };
    let at = place.iter().position(|byte| *byte == b'=').unwrap();
    for copy in 0..3_u8 {
        let mut late = place.clone();
        late[at + 1..at + 17].fill(copy + 1);
        server.command(&[b"ZADD".as_slice(), line().as_bytes(), &[b'0' + copy], &late]);
    }
    assert_eq!(in_line(&server), 4);
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    waiter.news().await;
    let grant = waiter.attempt().await;
    assert_eq!(living.release(&grant.lease, MarkAfter::Done).await.unwrap(), Released::Done);
}

/// The same message over an old connection and a new one, or after an attempt was told the same.
#[tokio::test]
async fn a_grant_that_is_told_twice_is_not_given_back() {
    let server = crate::start();
    let (holder, other) = (open(&server), open(&server));
    let grant = win(&holder, &plain("report")).await;
    let mut waiter = Waiter::begin(&other).await;
    let Value::Array(places) = must(&server, &["ZRANGE", &line(), "0", "-1"]) else { panic!() };
    let Value::Bulk(place) = &places[0] else { panic!("{places:?}") };
    let node = String::from_utf8(place[..32].to_vec()).unwrap();
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    waiter.news().await;
    let grant = waiter.attempt().await;
    let Value::Bulk(record) = must(&server, &["GET", &other.redis_key(&key("report"))]) else {
        panic!("no record")
    };
    let message = [
        key("report").slug().as_bytes(),
        b"\0",
        &waiter.request.nonce.as_u128().to_be_bytes(),
        &1.79e15_f64.to_le_bytes(),
        &record,
    ]
    .concat();
    let channel = format!("{{{NAMESPACE}}}:node:{node}");
    let before = sent(&server);
    let tell = || server.command(&[b"PUBLISH".as_slice(), channel.as_bytes(), &message]);
    assert_eq!(tell().as_int(), Some(1));
    let Waiter { watch, request, .. } = waiter;
    drop(watch);
    assert_eq!(tell().as_int(), Some(1));
    // What is sent after that is answered after that.
    for _ in 0..3 {
        let renewed = other.renew(&[&grant.lease], request.first_sent).await;
        assert!(matches!(renewed[..], [Ok(Renewal::Extended(_))]), "{renewed:?}");
    }
    assert_eq!(sent(&server) - before, 3, "three renewals");
    other.release(&grant.lease, MarkAfter::Done).await.unwrap();
}

#[tokio::test]
async fn nothing_is_granted_to_a_line_of_before_a_loss_of_memory() {
    let server = crate::start();
    let (holder, other) = (open(&server), open(&server));
    let grant = win(&holder, &plain("report")).await;
    let mut waiter = Waiter::begin(&other).await;
    must(&server, &["DEL", &format!("{{{NAMESPACE}}}:epoch")]);
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    waiter.news().await;
    let refused = attempt(&other, &waiter.request).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Recovering);
    // Nor is it where the loss is known, and leases of before may live.
    let grant = attempt(&holder, &with_ttl("report", Duration::from_millis(100))).await;
    assert_eq!(grant.unwrap_err().kind(), Kind::Recovering);
}

#[tokio::test]
async fn whoever_wants_replicas_is_woken_and_asks_by_itself() {
    let server = crate::start();
    let holder = open(&server);
    let grant = win(&holder, &plain("report")).await;
    let wants = client(&server.url()).replicas(1).build().unwrap();
    let mut waiter = Waiter::begin(&wants).await;
    assert_eq!(in_line(&server), 0);
    let waiting = tokio::spawn(async move {
        waiter.news().await;
        waiter
    });
    until("a place in line", async || in_line(&server) == 1).await;
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let waiter = waiting.await.unwrap();
    assert!(holder.holders("").await.unwrap().unwrap().is_empty(), "free, and it knows");
    drop(waiter);
}

#[tokio::test]
async fn whoever_wants_news_and_whoever_waits_have_their_turns_in_one_line() {
    let server = crate::start();
    let (holder, fires, waits) = (open(&server), open(&server), open(&server));
    enroll(&holder, "report").await;
    let grant = win(&holder, &plain("report")).await;
    let mut watch = fires.watch(&key("report")).await.unwrap().unwrap();
    let woken = tokio::spawn(async move {
        watch.changed().await;
        watch
    });
    until("a place in line", async || in_line(&server) == 1).await;
    let mut waiter = Waiter::begin(&waits).await;
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let watch = tokio::time::timeout(PATIENCE, woken).await.expect("first").unwrap();
    let tick = now();
    until_due(&fires, "report", tick).await;
    let grant = win(&fires, &claim("report", tick, Delivery::AtMostOnce)).await;
    fires.release(&grant.lease, MarkAfter::Done).await.unwrap();
    waiter.news().await;
    let grant = waiter.attempt().await;
    assert_eq!(waits.release(&grant.lease, MarkAfter::Done).await.unwrap(), Released::Done);
    drop(watch);
}

#[tokio::test]
async fn who_is_cut_off_as_it_is_granted_finds_its_grant_again() {
    let server = crate::start();
    let proxy = Proxy::start(server.address());
    let ttl = PATIENCE * 10;
    let holder = open(&server);
    let grant = win(&holder, &plain("report")).await;
    let cut_off = locks(client(&through(&proxy, &server)).build().unwrap());
    let waiting = tokio::spawn({
        let cut_off = cut_off.clone();
        async move { cut_off.lock("report", ttl).await.unwrap() }
    });
    until("a place in line", async || in_line(&server) == 1).await;
    proxy.black_hole(Direction::Down, true);
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let other = locks(open(&server));
    assert!(other.try_lock("report").await.unwrap().won().is_none(), "it looks alive");
    proxy.sever();
    proxy.heal();
    let guard = tokio::time::timeout(PATIENCE, waiting).await.expect("told anew").unwrap();
    guard.check().unwrap();
    guard.release().await.unwrap();
}

/// Waits for `report` as often as it is told, with the ttl of its role.
#[test]
fn waits() {
    as_child(|role, parent| {
        let (millis, url) = role.split_once(' ').unwrap();
        let ttl = Duration::from_millis(millis.parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = LockOptions::default().ttl(ttl);
            let backend = client(url).build().unwrap();
            let locks = Locks::builder(backend).options(options).build().unwrap();
            for _ in parent {
                let guard = locks.lock("report", PATIENCE * 10).await.unwrap();
                guard.check().unwrap();
                reply("won").unwrap();
                guard.release().await.unwrap();
            }
        });
    });
}

async fn child(server: &RedisServer, ttl: Duration) -> Member {
    let role = format!("{} {}", ttl.as_millis(), server.url());
    let before = in_line(server);
    let mut member = Member::start("waiter", this_test("lines::waits", &role).unwrap()).unwrap();
    member.send("wait").unwrap();
    until("a place in line", async || in_line(server) == before + 1).await;
    member
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_was_killed_is_passed_over() {
    let server = crate::start();
    let (holder, living) = (open(&server), open(&server));
    let grant = win(&holder, &plain("report")).await;
    let mut dead = child(&server, PATIENCE * 10).await;
    let mut waiter = Waiter::begin(&living).await;
    dead.kill().unwrap();
    dead.wait(PATIENCE).unwrap();
    // Its connections end with it, as soon as the server has looked.
    let everybody = format!("{{{NAMESPACE}}}:nodes");
    until("two clients", async || {
        let heard = must(&server, &["PUBSUB", "NUMSUB", &everybody]);
        matches!(heard, Value::Array(heard) if heard[1].as_int() == Some(2))
    })
    .await;
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    waiter.news().await;
    waiter.attempt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_is_stopped_has_the_lock_until_its_ttl_is_over_and_no_longer() {
    let server = crate::start();
    let ttl = Duration::from_millis(1_500);
    let holder = open(&server);
    let grant = win(&holder, &plain("report")).await;
    let mut stopped = child(&server, ttl).await;
    let next = locks(open(&server));
    let behind = tokio::spawn({
        let next = next.clone();
        async move { next.lock("report", PATIENCE).await.unwrap() }
    });
    until("both in line", async || in_line(&server) == 2).await;
    stopped.stop().unwrap();
    let granted = SystemClock.lease_now();
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let guard = tokio::time::timeout(PATIENCE, behind).await.expect("its turn").unwrap();
    let after = SystemClock.lease_now().saturating_since(granted);
    assert!(
        after + Duration::from_millis(2) >= ttl,
        "it was granted to the stopped one: {after:?}"
    );
    // It finds its grant over, and goes to the end of the line.
    stopped.cont().unwrap();
    until("it waits anew", async || in_line(&server) == 1).await;
    guard.check().unwrap();
    guard.release().await.unwrap();
    stopped.expect("won", PATIENCE).unwrap();
    stopped.kill().unwrap();
    stopped.wait(PATIENCE).unwrap();
}
