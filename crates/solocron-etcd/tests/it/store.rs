//! Real servers: one that all tests of this process share, and those of a test's own, with a proxy in front.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use solocron::lock::LockKey;
use solocron_etcd::EtcdBackend;
use solocron_testkit::server::{EtcdServer, Proxy};

/// A server, with a proxy in front of it, and a namespace on it.
pub(crate) struct Store {
    pub(crate) server: Arc<EtcdServer>,
    pub(crate) proxy: Proxy,
    pub(crate) namespace: String,
}

impl Store {
    /// A namespace of its own on the server that all tests of this process share, and that ends with it.
    pub(crate) fn shared() -> Self {
        static SHARED: OnceLock<Arc<EtcdServer>> = OnceLock::new();
        Self::on(Arc::clone(SHARED.get_or_init(|| Arc::new(EtcdServer::start()))))
    }

    /// A server of its own.
    pub(crate) fn alone() -> Self {
        Self::on(Arc::new(EtcdServer::start()))
    }

    pub(crate) fn on(server: Arc<EtcdServer>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let namespace = format!("test/{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let proxy = Proxy::start(server.address());
        Self { server, proxy, namespace }
    }

    /// One more client, as another process would have it.
    pub(crate) fn connect(&self) -> EtcdBackend {
        self.through(&self.proxy)
    }

    /// One more client, which reaches the server through this proxy only.
    pub(crate) fn through(&self, proxy: &Proxy) -> EtcdBackend {
        let endpoint = format!("http://{}", proxy.address());
        EtcdBackend::builder(&self.namespace, [endpoint]).build().unwrap()
    }
}

/// What an operator does, through etcd's JSON gateway, past the client under test.
impl Store {
    pub(crate) fn lock_key(&self, key: &LockKey) -> String {
        format!("solocron/{}/lock/{}", self.namespace, key.slug())
    }

    pub(crate) fn delete_lock(&self, key: &LockKey) {
        let key = base64(self.lock_key(key).as_bytes());
        let deleted = self.server.command("/v3/kv/deleterange", &format!(r#"{{"key": "{key}"}}"#));
        assert!(deleted.unwrap().contains(r#""deleted":"1""#), "there was a lock");
    }

    /// The lease id of the session that holds the lock.
    pub(crate) fn session_of(&self, key: &LockKey) -> String {
        let key = base64(self.lock_key(key).as_bytes());
        let kept = self.server.command("/v3/kv/range", &format!(r#"{{"key": "{key}"}}"#)).unwrap();
        let (_, lease) = kept.split_once(r#""lease":""#).expect("somebody holds the lock");
        lease.split('"').next().unwrap().to_owned()
    }

    pub(crate) fn revoke_session(&self, key: &LockKey) {
        let lease = self.session_of(key);
        self.server.command("/v3/lease/revoke", &format!(r#"{{"ID": "{lease}"}}"#)).unwrap();
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for digit in 0..4 {
            text.push(if digit <= three.len() {
                char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])
            } else {
                '='
            });
        }
    }
    text
}
