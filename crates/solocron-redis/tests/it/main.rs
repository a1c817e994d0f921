//! Every promise of the redis backend, against real servers.

mod conformance;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use solocron_redis::{RedisBackend, RedisBuilder};
use solocron_testkit::server::RedisServer;

/// A server that many tests share, each with a namespace of its own.
fn shared() -> &'static RedisServer {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    SERVER.get_or_init(RedisServer::start)
}

/// A namespace that nobody else uses.
fn fresh_namespace() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A client of this server, by its url.
fn client(url: &str, namespace: &str) -> RedisBuilder {
    RedisBackend::builder(url).namespace(namespace)
}

/// For events that come within milliseconds: long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
