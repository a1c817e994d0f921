//! Three members, of which some fail.

use std::time::{Duration, Instant};

use solocron::Error;
use solocron::lock::{Fence, LockBackend, MarkAfter};
use solocron_etcd::EtcdBackend;
use solocron_testkit::server::EtcdCluster;

use crate::client::{locks, now, plain, soon, win};

const LONG: Duration = Duration::from_secs(60);

/// A client that asks this member first.
fn connect(cluster: &EtcdCluster, first: usize) -> EtcdBackend {
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left(first);
    EtcdBackend::builder("test", endpoints).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_leader_costs_no_lock() {
    let cluster = EtcdCluster::start(3);
    let leader = cluster.leader();
    // One talks to the leader, one to another member.
    for first in [leader, (leader + 1) % 3] {
        let name = format!("lock-{first}");
        let backend = connect(&cluster, first);
        let held = locks(&backend, 10).lock(name.as_str(), LONG).await.unwrap();
        if first == leader {
            cluster.kill(leader);
        }
        let new = locks(&backend, 10).lock("new", LONG).await.expect("two of three will do");
        new.release().await.unwrap();
        held.check().unwrap();
        // Through a whole life of the session.
        let lost = tokio::time::timeout(Duration::from_secs(12), held.lost()).await;
        assert!(lost.is_err(), "{lost:?}");
        held.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_accepts_and_never_answers_is_left_in_time() {
    let cluster = EtcdCluster::start(3);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    // First one that is no leader: nobody else notices. Then the leader: the others elect another.
    for frozen in [follower, leader] {
        cluster.freeze(frozen);
        let backend = connect(&cluster, frozen);
        let begun = Instant::now();
        let guard = locks(&backend, 10).lock("lock", LONG).await.expect("two of three will do");
        // Half a second for the silent member, an election (1 to 2 s) where it was the leader, and a loaded machine.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        guard.release().await.unwrap();
        cluster.thaw(frozen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_lock_and_its_waiter_outlive_the_member_they_talk_to() {
    let cluster = EtcdCluster::start(3);
    let follower = (cluster.leader() + 1) % 3;
    let (a, b) = (connect(&cluster, follower), connect(&cluster, follower));
    let held = locks(&a, 6).try_lock("lock").await.unwrap().won().unwrap();
    let waiter = locks(&b, 6);
    let waiting = tokio::spawn(async move { waiter.lock("lock", LONG).await });
    cluster.freeze(follower);
    let lost = tokio::time::timeout(Duration::from_secs(8), held.lost()).await;
    assert!(lost.is_err(), "a session outlives a member that hangs: {lost:?}");
    held.release().await.unwrap();
    soon("the waiter", waiting).await.unwrap().expect("free").release().await.unwrap();
    cluster.thaw(follower);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_granted_and_a_lock_is_lost_in_time() {
    let cluster = EtcdCluster::start(3);
    let leader = cluster.leader();
    let backend = connect(&cluster, leader);
    let held = locks(&backend, 3).try_lock("held").await.unwrap().won().unwrap();
    for member in 0..3 {
        if member != leader {
            cluster.kill(member);
        }
    }
    let sent = now();
    let lost = soon("the loss", held.lost()).await;
    assert!(held.check().is_err(), "{lost:?}");
    // By its own clock, whatever the server still says: 3 s after the last beat, and that was before.
    assert!(now().saturating_since(sent) < Duration::from_secs(8));
    let error = locks(&backend, 3).try_lock("other").await.unwrap_err();
    let Error::Backend { source, .. } = error else { panic!("{error:?}") };
    assert!(source.kind().is_transient(), "{source:?}");
    cluster.restart((leader + 1) % 3);
    let guard = locks(&backend, 3).lock("other", LONG).await.expect("a quorum again");
    guard.release().await.unwrap();
    let again = locks(&backend, 3).lock("held", LONG).await.expect("free, or given back");
    assert!(again.fence() > held.fence());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_grow_over_every_change_of_the_leader() {
    let cluster = EtcdCluster::start(3);
    let backend = connect(&cluster, 0);
    let mut last = Fence::ZERO;
    for _ in 0..3 {
        let leader = cluster.leader();
        let guard = locks(&backend, 4).lock("lock", LONG).await.unwrap();
        assert!(guard.fence() > last);
        last = guard.fence();
        cluster.kill(leader);
        // Whether or not the first answer is lost on its way.
        drop(guard);
        cluster.restart(leader);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_among_the_endpoints_costs_one_refusal_and_not_one_in_three() {
    let cluster = EtcdCluster::start(3);
    cluster.kill(0);
    assert_ne!(cluster.leader(), 0);
    let backend = connect(&cluster, 0);
    let first = win(&backend, &plain("first", LONG)).await;
    backend.release(&first.lease, MarkAfter::Done).await.unwrap();
    for n in 0..100 {
        let grant = win(&backend, &plain(&format!("lock-{n}"), LONG)).await;
        backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    }
}
