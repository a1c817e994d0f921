//! Every promise of the redis backend, against real servers.

mod amnesia;
mod bad;
mod conformance;
mod cost;
mod lines;
mod reach;
mod secrets;
mod topology;
mod wake;

use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, Delivery, Enrolled, Enrolment, Grant, LockBackend, LockKey, Mark, NodeId, Nonce, Reply,
    Request,
};
use solocron::{BackendError, Clock, SystemClock};
use solocron_redis::{RedisBackend, RedisBuilder, RedisLease};
use solocron_testkit::server::{Proxy, RedisBuilder as ServerBuilder, RedisServer, Value};

/// For events that come within milliseconds: long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

const NAMESPACE: &str = "test";

/// A client of this server, by its url, as patient as a loaded machine needs.
fn client(url: &str) -> RedisBuilder {
    RedisBackend::builder(url).namespace(NAMESPACE).request_timeout(Duration::from_secs(5))
}

/// A server to be. Its password is nobody else's: a client of an earlier test, which still tries to reach a server that is gone,
/// may find this one at that port.
fn builder() -> ServerBuilder {
    RedisServer::builder().password(format!("{:032x}", Nonce::random().as_u128()))
}

fn start() -> RedisServer {
    builder().start()
}

/// The url of this server, through this proxy.
fn through(proxy: &Proxy, server: &RedisServer) -> String {
    server.url().replace(&server.address().to_string(), &proxy.address().to_string())
}

fn open(server: &RedisServer) -> RedisBackend {
    client(&server.url()).build().unwrap()
}

fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

/// A fresh request for a plain lock, with a ttl that does not run out within a test.
fn plain(name: &str) -> Request {
    with_ttl(name, Duration::from_secs(60))
}

fn with_ttl(name: &str, ttl: Duration) -> Request {
    Request::new(key(name), Nonce::random(), NodeId::unique(), ttl, SystemClock.lease_now())
}

fn claim(name: &str, tick: Mark, delivery: Delivery) -> Request {
    plain(name).claiming(Claim { tick, after: None, delivery })
}

fn now() -> Mark {
    Mark::floor(Timestamp::now())
}

async fn attempt(
    backend: &RedisBackend,
    request: &Request,
) -> Result<Reply<RedisLease>, BackendError> {
    backend.try_acquire(std::slice::from_ref(request)).await.remove(0)
}

async fn win(backend: &RedisBackend, request: &Request) -> Grant<RedisLease> {
    match attempt(backend, request).await {
        Ok(Reply::Won(grant)) => grant,
        other => panic!("not won: {other:?}"),
    }
}

async fn enroll(backend: &RedisBackend, name: &str) -> Enrolled {
    backend.enroll(&[Enrolment { key: key(name), fingerprint: 7 }]).await.remove(0).unwrap()
}

/// Waits until the store's clock has passed `mark`.
async fn until_due(backend: &RedisBackend, name: &str, mark: Mark) {
    while Mark::floor(enroll(backend, name).await.store_now.unwrap()) <= mark {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until `what` holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what} in vain"));
}

/// How often each command was called, by the server's own count.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).to_string();
    let line = stats.lines().find_map(|line| {
        line.strip_prefix(&format!("cmdstat_{command}:calls=")).map(str::to_owned)
    });
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

fn must(server: &RedisServer, words: &[&str]) -> Value {
    let answer = server.command(words);
    assert!(!matches!(answer, Value::Error(_)), "{words:?}: {answer}");
    answer
}

/// More configuration, which no option can say.
fn config_file(text: &str) -> tempfile::TempPath {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    file.into_temp_path()
}
