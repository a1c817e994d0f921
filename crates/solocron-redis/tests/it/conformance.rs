//! The laws that every backend must keep.

use std::time::Duration;

use solocron::lock::{LockKey, Reply};
use solocron_redis::RedisBackend;
use solocron_testkit::Harness;
use solocron_testkit::fleet::{Member, as_child, reply, this_test};
use solocron_testkit::server::{Proxy, RedisServer};

use crate::{PATIENCE, attempt, client, with_ttl};

/// A server behind a proxy.
struct Store {
    server: RedisServer,
    proxy: Proxy,
}

impl Store {
    fn url(&self) -> String {
        crate::through(&self.proxy, &self.server)
    }
}

impl Harness for Store {
    type Backend = RedisBackend;

    async fn start() -> Self {
        // A restart keeps the data.
        let server = crate::builder().append_only().start();
        let proxy = Proxy::start(server.address());
        Self { server, proxy }
    }

    fn connect(&self) -> RedisBackend {
        client(&self.url()).build().expect("a good url")
    }

    async fn forget(&self) -> bool {
        self.server.command(&["FLUSHALL"]);
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        // A millionth of a second into 1970, where the record says until when it is held.
        let name = self.connect().redis_key(key);
        let until = 1f64.to_le_bytes();
        self.server.command(&[b"SETRANGE".as_slice(), name.as_bytes(), b"13", &until]);
        true
    }

    async fn replace(&self, key: &LockKey) -> bool {
        self.server.command(&["DEL", &self.connect().redis_key(key)]);
        true
    }

    async fn hold_and_die(&self, key: &LockKey) -> bool {
        let role = format!("{} {}", self.url(), key.as_str());
        let mut member =
            Member::start("holder", this_test("conformance::holds", &role).unwrap()).unwrap();
        member.expect("holding", PATIENCE).unwrap();
        member.kill().unwrap();
        member.wait(PATIENCE).unwrap();
        true
    }

    async fn restart(&self) -> bool {
        self.server.restart();
        true
    }

    async fn freeze(&self) -> bool {
        self.server.freeze();
        true
    }

    async fn thaw(&self) {
        self.server.thaw();
    }

    async fn sever(&self) -> bool {
        self.proxy.sever();
        true
    }

    fn link(&self) -> Option<(Proxy, RedisBackend)> {
        let proxy = Proxy::start(self.server.address());
        let backend = client(&crate::through(&proxy, &self.server)).build().expect("a good url");
        Some((proxy, backend))
    }
}

/// Takes a lock and holds it until it is killed.
#[test]
fn holds() {
    as_child(|role, mut parent| {
        let mut words = role.splitn(2, ' ');
        let mut word = || words.next().unwrap();
        let backend = client(word()).build().unwrap();
        let key = LockKey::new(word()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let reply = attempt(&backend, &with_ttl(key.as_str(), Duration::from_secs(1))).await;
            assert!(matches!(reply, Ok(Reply::Won(_))), "{reply:?}");
        });
        reply("holding").unwrap();
        parent.next();
    });
}

solocron_testkit::conformance!(Store);
