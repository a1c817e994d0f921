//! Clusters and sentinels: the server is found, and found again when it is another one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use solocron::Kind;
use solocron::lock::{LockBackend, Mark, Reply};
use solocron_testkit::server::{RedisCluster, RedisServer, Value};

use crate::reach::works;
use crate::{attempt, client, enroll, key, must, plain, until, win, with_ttl};

fn cluster_url<'a>(nodes: impl IntoIterator<Item = &'a RedisServer>) -> String {
    let nodes: Vec<_> = nodes.into_iter().map(|node| node.address().to_string()).collect();
    format!("redis-cluster://{}", nodes.join(","))
}

#[tokio::test]
async fn a_cluster_is_entered_by_any_node() {
    let cluster = RedisCluster::start(3);
    for (number, node) in cluster.nodes().iter().enumerate() {
        // Its slot may be any node's.
        let namespace = format!("fleet-{number}");
        let backend = client(&cluster_url([node])).namespace(namespace).connect().await.unwrap();
        works(&backend).await;
    }
    // A node that is gone is passed over.
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let url = cluster_url(cluster.nodes()).replace("://", &format!("://{gone},"));
    win(&client(&url).connect().await.unwrap(), &plain("report")).await;
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_and_counts_as_a_loss() {
    let cluster = RedisCluster::start(3);
    let backend = client(&cluster_url(cluster.nodes())).connect().await.unwrap();
    let mark = enroll(&backend, "report").await.last.mark;
    let epoch = backend.epoch().await.unwrap();
    move_slot(&cluster, &format!("{{{}}}", crate::NAMESPACE));
    until("the other node", async || backend.epoch().await.is_ok_and(|now| now != epoch)).await;
    let enrolled = enroll(&backend, "report").await;
    assert_eq!((enrolled.created, enrolled.last.mark), (false, mark), "its data came along");
    let error = attempt(&backend, &plain("other")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Recovering, "{error}");
}

/// Moves the slot of `tag` to another node, with its keys, as `redis-cli --cluster reshard` does.
fn move_slot(cluster: &RedisCluster, tag: &str) {
    let from = cluster.node_of(tag);
    let to = cluster.nodes().iter().find(|node| node.address() != from.address()).unwrap();
    let text = |server: &RedisServer, words: &[&str]| must(server, words).to_string();
    let slot = text(from, &["CLUSTER", "KEYSLOT", tag]);
    let [from_id, to_id] = [from, to].map(|node| text(node, &["CLUSTER", "MYID"]));
    must(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    must(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let Value::Array(keys) = must(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]) else {
        panic!("keys")
    };
    let (host, port) = (to.address().ip().to_string(), to.address().port().to_string());
    for key in keys {
        must(from, &["MIGRATE", &host, &port, key.as_str().unwrap(), "0", "5000"]);
    }
    for node in [to, from] {
        must(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
}

/// A sentinel of one primary. It is killed when this is dropped.
struct Sentinel {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Sentinel {
    fn watching(primary: &RedisServer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sentinel.conf");
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (host, port) = (primary.address().ip(), primary.address().port());
        let text = format!(
            "bind 127.0.0.1\nport {}\nsentinel monitor main {host} {port} 1\nsentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n",
            address.port()
        );
        std::fs::write(&file, text).unwrap();
        let child =
            Command::new("redis-server").arg(&file).arg("--sentinel").stdout(Stdio::null()).spawn();
        let child = child.expect("redis-server is there: apt-get install redis-server");
        Self { child, address, _dir: dir }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn sentinels_say_who_the_primary_is_before_and_after_a_failover() {
    let primary = RedisServer::start();
    let replica = RedisServer::builder().replica_of(&primary).start();
    let sentinel = Sentinel::watching(&primary);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let backend =
        client(&format!("redis-sentinel://{gone},{}/main", sentinel.address)).build().unwrap();
    until("the sentinel", async || backend.epoch().await.is_ok()).await;
    works(&backend).await;
    let mark = enroll(&backend, "report").await.last.mark;
    let epoch = backend.epoch().await.unwrap();
    until("the copy", async || {
        must(&replica, &["EXISTS", &backend.redis_key(&key("report"))]).as_int() == Some(1)
    })
    .await;
    until("a sentinel that knows the replica", async || {
        let mut stream = std::net::TcpStream::connect(sentinel.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        std::io::Write::write_all(&mut stream, b"SENTINEL REPLICAS main\r\n").unwrap();
        let mut answer = [0; 4];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        answer.starts_with(b"*1")
    })
    .await;
    primary.kill();
    until("the other server", async || backend.epoch().await.is_ok_and(|now| now != epoch)).await;
    assert_eq!(enroll(&backend, "report").await.last.mark, mark);
    let brief = Duration::from_millis(300);
    until("the end of the wait", async || {
        matches!(attempt(&backend, &with_ttl("other", brief)).await, Ok(Reply::Won(_)))
    })
    .await;
    let tick = Mark::from_millis(mark.as_millis() + 1);
    let stale =
        attempt(&backend, &crate::claim("report", tick, solocron::lock::Delivery::AtMostOnce))
            .await;
    assert!(matches!(stale, Ok(Reply::Stale { .. })), "{stale:?}");
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_misconfigured() {
    let primary = RedisServer::start();
    let sentinel = Sentinel::watching(&primary);
    let backend = client(&format!("redis-sentinel://{}/other", sentinel.address)).build().unwrap();
    until("an answer", async || {
        attempt(&backend, &plain("report"))
            .await
            .is_err_and(|error| error.kind() == Kind::Misconfigured)
    })
    .await;
}
