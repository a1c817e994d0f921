//! The laws that every backend must keep.

use solocron::lock::{LockBackend, LockKey, Reply, Request};
use solocron_redis::RedisBackend;
use solocron_testkit::Harness;
use solocron_testkit::fleet::{Member, as_child, reply, this_test};
use solocron_testkit::server::{Proxy, RedisServer};

use crate::{client, fresh_namespace, shared};

/// One namespace of a server, which may be this law's own, behind a proxy.
struct Store {
    alone: Option<(RedisServer, Proxy)>,
    url: String,
    namespace: String,
}

impl Store {
    fn server(&self) -> &RedisServer {
        match &self.alone {
            Some((server, _)) => server,
            None => shared(),
        }
    }
}

impl Harness for Store {
    type Backend = RedisBackend;

    async fn start() -> Self {
        Self::start_alone().await
    }

    async fn start_alone() -> Self {
        // A restart keeps the data.
        let server = RedisServer::builder().append_only().start();
        let proxy = Proxy::start(server.address());
        let url = format!("redis://{}", proxy.address());
        Self { alone: Some((server, proxy)), url, namespace: fresh_namespace() }
    }

    fn connect(&self) -> RedisBackend {
        client(&self.url, &self.namespace).build().expect("a good url")
    }

    async fn forget(&self) -> bool {
        self.server().command(&["FLUSHALL"]);
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        let (server, name) = (self.server(), self.connect().redis_key(key));
        let holder = server.command(&["HGET", &name, "h"]).to_string();
        let mut words: Vec<_> = holder.splitn(3, ' ').collect();
        words[1] = "1"; // a millionth of a second into 1970
        server.command(&["HSET", &name, "h", &words.join(" ")]);
        true
    }

    async fn replace(&self, key: &LockKey) -> bool {
        self.server().command(&["DEL", &self.connect().redis_key(key)]);
        true
    }

    async fn hold_and_die(&self, key: &LockKey) -> bool {
        let role = format!("{} {} {}", self.url, self.namespace, key.as_str());
        let mut member =
            Member::start("holder", this_test("conformance::holds", &role).unwrap()).unwrap();
        member.expect("holding", crate::PATIENCE).unwrap();
        member.kill().unwrap();
        member.wait(crate::PATIENCE).unwrap();
        true
    }

    async fn restart(&self) -> bool {
        self.server().restart();
        true
    }

    async fn freeze(&self) -> bool {
        self.server().freeze();
        true
    }

    async fn thaw(&self) {
        self.server().thaw();
    }

    async fn sever(&self) -> bool {
        let Some((_, proxy)) = &self.alone else { return false };
        proxy.sever();
        true
    }

    fn link(&self) -> Option<(Proxy, RedisBackend)> {
        let proxy = Proxy::start(self.server().address());
        let url = format!("redis://{}", proxy.address());
        let backend = client(&url, &self.namespace).build().expect("a good url");
        Some((proxy, backend))
    }
}

/// Takes a lock and holds it until it is killed.
#[test]
fn holds() {
    as_child(|role, mut parent| {
        let mut words = role.splitn(3, ' ');
        let mut word = || words.next().unwrap();
        let backend = client(word(), word()).build().unwrap();
        let key = LockKey::new(word()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ttl = std::time::Duration::from_secs(1);
            let node = solocron::lock::NodeId::unique();
            let now = solocron::Clock::lease_now(&solocron::SystemClock);
            let request = Request::new(key, solocron::lock::Nonce::random(), node, ttl, now);
            let reply = backend.try_acquire(&[request]).await.remove(0).unwrap();
            assert!(matches!(reply, Reply::Won(_)));
        });
        reply("holding").unwrap();
        parent.next();
    });
}

solocron_testkit::conformance!(Store);
