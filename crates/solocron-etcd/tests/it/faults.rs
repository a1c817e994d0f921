//! Answers that are cut off, holders that are killed, and what etcd itself refuses afterwards.

use std::time::{Duration, Instant};

use solocron::lock::{Claim, ClaimReply, ClaimState, Delivery, LockBackend, Locks, Mark};
use solocron_etcd::EtcdBackend;
use solocron_testkit::server::Direction;

use crate::client::{due_tick, key, locks, plain, soon, win};
use crate::holder;
use crate::store::{Store, base64, patient};

async fn claim(node: &Locks, tick: Mark) -> solocron::Result<ClaimReply> {
    let claim = Claim { tick, after: None, delivery: Delivery::AtMostOnce };
    node.claim("job", claim).await
}

/// Once more for every byte of the answer to a claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "how often which end came")]
async fn a_claim_whose_answer_is_cut_off_anywhere_is_won_once_or_taken_back() {
    let store = Store::shared();
    let observer = patient(EtcdBackend::builder(&store.namespace, [store.server.endpoint()]));
    let observer = observer.build().unwrap();
    let backend = store.connect();
    let node = locks(&backend, 60);
    let last = async || -> ClaimState {
        let job = solocron::lock::Enrolment { key: key("job"), fingerprint: 7 };
        observer.enroll(&[job]).await.remove(0).unwrap().last
    };
    // A warm connection, and how long an answer is.
    let tick = due_tick(&backend, "job").await;
    let before = store.proxy.bytes(Direction::Down);
    let warm = claim(&node, tick).await.unwrap().won().unwrap();
    let answer = store.proxy.bytes(Direction::Down) - before;
    warm.lease.release().await.unwrap();
    let (mut won, mut undone) = (0, 0);
    for cut in 0..answer + 8 {
        let before = last().await;
        let tick = Mark::from_millis(before.mark.as_millis() + 1);
        store.proxy.cut_after(Direction::Down, cut);
        match claim(&node, tick).await {
            Ok(reply) => {
                let claimed =
                    reply.won().unwrap_or_else(|| panic!("cut at {cut}: it is nobody else's"));
                assert_eq!((claimed.tick, claimed.attempt), (tick, 1), "cut at {cut}");
                store.proxy.heal();
                claimed.lease.release().await.ok();
                soon("a settled node", node.settled()).await;
                won += 1;
            }
            Err(error) => {
                store.proxy.heal();
                soon("a settled node", node.settled()).await;
                assert_eq!(last().await, before, "cut at {cut}: the mark is where it was: {error}");
                assert!(!store.is_held(&key("job")), "cut at {cut}");
                let other = claim(&locks(&observer, 60), tick).await.unwrap().won();
                other.expect("the tick is still to be had").lease.release().await.unwrap();
                undone += 1;
            }
        }
        let now = last().await;
        assert_eq!((now.mark, now.done, now.attempts), (tick, true, 1), "cut at {cut}");
    }
    println!("of {answer} cuts {won} were won again and {undone} taken back");
    assert!(
        won > undone,
        "the same nonce finds its own grant: {won} were won again, {undone} taken back"
    );
}

#[test]
fn a_killed_holder_is_followed_within_its_ttl_and_a_bit() {
    const TTL: Duration = Duration::from_secs(3);
    let store = Store::shared();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let waiter = locks(&store.connect(), 3);
        for round in 0..3 {
            let name = format!("lock-{round}");
            let mut holder = holder::start(&store.server.endpoint(), &store.namespace, &name, TTL);
            let waiting = tokio::spawn({
                let (waiter, name) = (waiter.clone(), name.clone());
                async move { waiter.lock(name, Duration::from_secs(60)).await }
            });
            holder.kill().unwrap();
            let killed = Instant::now();
            let guard = soon("the lock", waiting).await.unwrap().unwrap();
            let took = killed.elapsed();
            // The session lives a second longer than its locks; etcd looks for dead ones every half second; this machine is loaded.
            let latest = TTL + Duration::from_millis(1_500) + Duration::from_secs(3);
            assert!(took <= latest, "taken over after {took:?}");
            guard.release().await.unwrap();
        }
    });
}

#[tokio::test]
async fn a_holder_that_ends_well_leaves_nothing_behind() {
    let store = Store::alone();
    let mut holder =
        holder::start(&store.server.endpoint(), &store.namespace, "lock", Duration::from_secs(10));
    assert!(store.is_held(&key("lock")));
    holder.send("end").unwrap();
    holder.expect("released", Duration::from_secs(30)).unwrap();
    assert!(!store.is_held(&key("lock")), "free before the process has ended");
}

#[tokio::test]
async fn etcd_itself_refuses_whoever_has_lost_the_lock() {
    let store = Store::shared();
    let backend = store.connect();
    let grant = win(&backend, &plain("lock", Duration::from_secs(60))).await;
    let compare = backend.fence_compare(&key("lock"), grant.fence);
    let write = |value: &str| {
        let txn = format!(
            r#"{{"compare": [{{"key": "{}", "target": "CREATE", "result": "EQUAL", "create_revision": "{}"}}],
                "success": [{{"request_put": {{"key": "{}", "value": "{}"}}}}]}}"#,
            base64(&compare.key),
            compare.create_revision,
            base64(b"the resource"),
            base64(value.as_bytes()),
        );
        store.server.command("/v3/kv/txn", &txn).unwrap().contains(r#""succeeded":true"#)
    };
    assert!(write("by the holder"));
    store.delete_lock(&key("lock"));
    assert!(!write("by whoever held it"));
    let next = win(&store.connect(), &plain("lock", Duration::from_secs(60))).await;
    assert!(next.fence > grant.fence);
    assert!(!write("by whoever held it before"));
    assert_eq!(store.value("the resource"), "by the holder");
}

#[cfg(feature = "client-types")]
#[tokio::test]
async fn the_fence_is_a_compare_of_etcd_client() {
    use etcd_client::{Client, Compare, Txn, TxnOp};

    let store = Store::shared();
    let backend = store.connect();
    let guard = locks(&backend, 60).try_lock("lock").await.unwrap().won().unwrap();
    let fence: Compare = backend.fence_compare(guard.key(), guard.fence()).into();
    let mut client = Client::connect([store.server.endpoint()], None).await.unwrap();
    let write = || Txn::new().when([fence.clone()]).and_then([TxnOp::put("k", "v", None)]);
    assert!(client.txn(write()).await.unwrap().succeeded());
    guard.release().await.unwrap();
    assert!(!client.txn(write()).await.unwrap().succeeded());
}
