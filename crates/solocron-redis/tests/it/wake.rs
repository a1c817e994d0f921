//! Who is woken by a release: the next one in line, wherever it is, and nobody else.

use std::time::Duration;

use solocron::lock::{LockBackend, MarkAfter, Reply, Watch};
use solocron::{Clock, SystemClock};
use solocron_redis::RedisBackend;
use solocron_testkit::fleet::{Member, as_child, reply, this_test};
use solocron_testkit::server::RedisServer;

use crate::{PATIENCE, attempt, calls, client, key, must, open, plain, until, win};

/// A watch that stands in line for news. The lock is held.
async fn watch(backend: &RedisBackend) -> Box<dyn Watch> {
    in_line_for(backend, "report").await
}

async fn in_line_for(backend: &RedisBackend, name: &str) -> Box<dyn Watch> {
    let mut watch = backend.watch(&key(name)).await.unwrap().unwrap();
    let seen = backend.epoch().await.unwrap();
    // It gets in line when it is asked for news. What is sent after that is answered after that.
    let quiet = async {
        for _ in 0..3 {
            assert_eq!(backend.epoch().await.unwrap(), seen);
        }
    };
    tokio::select! {
        biased;
        () = watch.changed() => panic!("news of a lock that is held"),
        () = quiet => {}
    }
    watch
}

async fn news(watch: &mut Box<dyn Watch>) {
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("news");
}

fn in_line(server: &RedisServer) -> i64 {
    let line = format!("{{{}}}:wait:{}", crate::NAMESPACE, key("report").slug());
    must(server, &["ZCARD", &line]).as_int().unwrap()
}

#[tokio::test]
async fn a_release_wakes_the_next_in_line_and_nobody_else() {
    let server = crate::start();
    let holder = open(&server);
    let mut grant = win(&holder, &plain("report")).await;
    let mut line = Vec::new();
    for _ in 0..8 {
        let backend = open(&server);
        let watch = watch(&backend).await;
        line.push((backend, watch));
    }
    let mut holder = holder;
    let (waiters, begun) = (line.len() as u64, SystemClock.lease_now());
    let before = calls(&server, "publish");
    while !line.is_empty() {
        let (next, mut first) = line.remove(0);
        holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
        news(&mut first).await;
        grant = win(&next, &plain("report")).await;
        holder = next;
    }
    let (told, took) =
        (calls(&server, "publish") - before, SystemClock.lease_now().saturating_since(begun));
    // Once a second each looks whether the lock is free; whoever meets one of its free moments is told, and passes on a wake-up
    // that comes too late. To tell all each time would take 36.
    assert!(told <= waiters * (1 + took.as_secs()) + waiters, "{told} told in {took:?}");
}

#[test]
fn waits() {
    as_child(|role, mut parent| {
        let backend = client(role).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _watch = runtime.block_on(watch(&backend));
        reply("waiting").unwrap();
        parent.next();
    });
}

fn waiter(server: &RedisServer) -> Member {
    let mut member =
        Member::start("waiter", this_test("wake::waits", &server.url()).unwrap()).unwrap();
    member.expect("waiting", PATIENCE).unwrap();
    member
}

#[tokio::test]
async fn a_dead_waiter_is_passed_over() {
    let server = crate::start();
    let (holder, living) = (open(&server), open(&server));
    let grant = win(&holder, &plain("report")).await;
    let mut dead = waiter(&server);
    dead.kill().unwrap();
    dead.wait(PATIENCE).unwrap();
    let mut watch = watch(&living).await;
    assert_eq!(in_line(&server), 2, "the dead one is first");
    let everybody = format!("{{{}}}:nodes", crate::NAMESPACE);
    until("the end of its connection", async || {
        must(&server, &["PUBSUB", "NUMSUB", &everybody]).to_string().ends_with(", Int(2)]")
    })
    .await;
    let before = calls(&server, "publish");
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    assert_eq!(calls(&server, "publish") - before, 2, "told both, and only one heard");
    news(&mut watch).await;
}

#[tokio::test]
async fn a_waiter_that_is_woken_and_does_nothing_is_followed_by_the_next_one() {
    let server = crate::start();
    let (holder, living) = (open(&server), open(&server));
    let grant = win(&holder, &plain("report")).await;
    let mut stopped = waiter(&server);
    stopped.stop().unwrap();
    let mut watch = watch(&living).await;
    let before = calls(&server, "publish");
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    assert_eq!(calls(&server, "publish") - before, 1, "the stopped one heard it");
    news(&mut watch).await;
    win(&living, &plain("report")).await;
    stopped.kill().unwrap();
    stopped.wait(PATIENCE).unwrap();
}

#[tokio::test]
async fn a_wake_up_that_nobody_uses_is_passed_on() {
    let server = crate::start();
    for leaves in [true, false] {
        let (holder, first, second) = (open(&server), open(&server), open(&server));
        let grant = win(&holder, &plain("report")).await;
        let mut first_watch = watch(&first).await;
        let mut second_watch = watch(&second).await;
        holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
        news(&mut first_watch).await;
        let kept = if leaves {
            drop(first_watch);
            None
        } else {
            // It waits on without having tried.
            Some(tokio::spawn(async move { first_watch.changed().await }))
        };
        news(&mut second_watch).await;
        let grant = win(&second, &plain("report")).await;
        second.release(&grant.lease, MarkAfter::Done).await.unwrap();
        if let Some(kept) = kept {
            tokio::time::timeout(PATIENCE, kept).await.expect("its turn came again").unwrap();
        }
    }
}

#[tokio::test]
async fn whoever_is_beaten_to_it_keeps_its_place() {
    let server = crate::start();
    let (a, first, second, quick) = (open(&server), open(&server), open(&server), open(&server));
    let grant = win(&a, &plain("report")).await;
    let (mut first_watch, second_watch) = (watch(&first).await, watch(&second).await);
    a.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let taken = win(&quick, &plain("report")).await;
    news(&mut first_watch).await;
    assert!(matches!(attempt(&first, &plain("report")).await, Ok(Reply::Busy { .. })));
    let mut waiting = tokio::spawn(async move {
        first_watch.changed().await;
        first_watch
    });
    until("both in line", async || in_line(&server) == 2).await;
    quick.release(&taken.lease, MarkAfter::Done).await.unwrap();
    let _first_watch =
        tokio::time::timeout(PATIENCE, &mut waiting).await.expect("first again").unwrap();
    win(&first, &plain("report")).await;
    drop(second_watch);
}

#[tokio::test]
async fn whoever_stops_waiting_leaves_the_line() {
    let server = crate::start();
    let (holder, other) = (open(&server), open(&server));
    let _grant = win(&holder, &plain("report")).await;
    let watches = [watch(&other).await, watch(&other).await];
    assert_eq!(in_line(&server), 1, "a process stands in line once");
    let [first, second] = watches;
    drop(first);
    drop(second);
    until("an empty line", async || in_line(&server) == 0).await;
}

#[tokio::test]
async fn a_new_connection_wakes_all_its_waiters() {
    let server = crate::start();
    let (holder, other) = (open(&server), open(&server));
    let _grant = win(&holder, &plain("report")).await;
    let _else = win(&holder, &plain("else")).await;
    let mut one = watch(&other).await;
    let mut two = in_line_for(&other, "else").await;
    must(&server, &["CLIENT", "KILL", "TYPE", "normal"]);
    must(&server, &["CLIENT", "KILL", "TYPE", "pubsub"]);
    news(&mut one).await;
    news(&mut two).await;
    // And it hears again.
    let grant = loop {
        match attempt(&holder, &plain("third")).await {
            Ok(Reply::Won(grant)) => break grant,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let mut third = in_line_for(&other, "third").await;
    holder.release(&grant.lease, MarkAfter::Done).await.unwrap();
    news(&mut third).await;
}
