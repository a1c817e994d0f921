//! Real servers: one that all tests of this process share, and those of a test's own, with a proxy in front.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use solocron::lock::LockKey;
use solocron_etcd::EtcdBackend;
use solocron_testkit::server::{EtcdServer, EtcdVersion, Proxy};

/// A server, with a proxy in front of it, and a namespace on it.
pub(crate) struct Store {
    pub(crate) server: Arc<EtcdServer>,
    pub(crate) proxy: Proxy,
    pub(crate) namespace: String,
}

impl Store {
    /// A namespace of its own on the server that all tests of this process share, and that ends with it.
    pub(crate) fn shared() -> Self {
        Self::shared_of(EtcdVersion::Debian)
    }

    pub(crate) fn shared_of(version: EtcdVersion) -> Self {
        static SHARED: [OnceLock<Arc<EtcdServer>>; 2] = [const { OnceLock::new() }; 2];
        let shared = &SHARED[usize::from(version == EtcdVersion::Distro)];
        Self::on(Arc::clone(shared.get_or_init(|| start(version))))
    }

    /// A server of its own.
    pub(crate) fn alone() -> Self {
        Self::alone_of(EtcdVersion::Debian)
    }

    pub(crate) fn alone_of(version: EtcdVersion) -> Self {
        Self::on(start(version))
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

fn start(version: EtcdVersion) -> Arc<EtcdServer> {
    Arc::new(EtcdServer::builder().version(version).start())
}

/// What an operator does, through etcd's JSON gateway, past the client under test.
impl Store {
    pub(crate) fn lock_key(&self, key: &LockKey) -> String {
        format!("solocron/{}/lock/{}", self.namespace, key.slug())
    }

    pub(crate) fn state_key(&self, key: &LockKey) -> String {
        format!("solocron/{}/state/{}", self.namespace, key.slug())
    }

    /// Puts a value, on a lease or (0) without.
    pub(crate) fn put(&self, key: &str, value: &str, lease: &str) {
        let (key, value) = (base64(key.as_bytes()), base64(value.as_bytes()));
        let put = format!(r#"{{"key": "{key}", "value": "{value}", "lease": "{lease}"}}"#);
        self.server.command("/v3/kv/put", &put).unwrap();
    }

    /// Whether the lock key is there.
    pub(crate) fn is_held(&self, key: &LockKey) -> bool {
        let key = base64(self.lock_key(key).as_bytes());
        let kept = self.server.command("/v3/kv/range", &format!(r#"{{"key": "{key}"}}"#)).unwrap();
        kept.contains(r#""kvs""#)
    }

    /// What a key holds, as text.
    pub(crate) fn value(&self, key: &str) -> String {
        let key = base64(key.as_bytes());
        let kept = self.server.command("/v3/kv/range", &format!(r#"{{"key": "{key}"}}"#)).unwrap();
        let (_, value) = kept.split_once(r#""value":""#).expect("the key is there");
        String::from_utf8(unbase64(value.split('"').next().unwrap())).unwrap()
    }

    /// The revision of the server.
    pub(crate) fn revision(&self) -> u64 {
        let answer = self.server.command("/v3/kv/range", r#"{"key": "AA=="}"#).unwrap();
        number(&answer, "revision").expect("every answer has a revision")
    }

    /// All leases that the server has.
    pub(crate) fn sessions(&self) -> usize {
        let leases = self.server.command("/v3/lease/leases", "{}").unwrap();
        leases.matches(r#""ID""#).count()
    }

    pub(crate) fn delete_lock(&self, key: &LockKey) {
        let key = base64(self.lock_key(key).as_bytes());
        let deleted = self.server.command("/v3/kv/deleterange", &format!(r#"{{"key": "{key}"}}"#));
        assert!(deleted.unwrap().contains(r#""deleted":"1""#), "there was a lock");
    }

    /// The lease id of the session that holds the lock.
    pub(crate) fn session_of(&self, key: &LockKey) -> String {
        self.lease_of(&self.lock_key(key)).expect("somebody holds the lock")
    }

    /// The lease id of a key, if it is on one.
    pub(crate) fn lease_of(&self, key: &str) -> Option<String> {
        let key = base64(key.as_bytes());
        let kept = self.server.command("/v3/kv/range", &format!(r#"{{"key": "{key}"}}"#)).unwrap();
        assert!(kept.contains(r#""kvs""#), "the key is there");
        let (_, lease) = kept.split_once(r#""lease":""#)?;
        Some(lease.split('"').next().unwrap().to_owned())
    }

    pub(crate) fn revoke_lease(&self, lease: &str) {
        self.server.command("/v3/lease/revoke", &format!(r#"{{"ID": "{lease}"}}"#)).unwrap();
    }

    pub(crate) fn revoke_session(&self, key: &LockKey) {
        self.revoke_lease(&self.session_of(key));
    }
}

/// A number in JSON, which etcd writes as a text.
fn number(json: &str, name: &str) -> Option<u64> {
    let (_, rest) = json.split_once(&format!(r#""{name}":""#))?;
    rest.split('"').next()?.parse().ok()
}

/// What a server was sent, by the name of the call: messages, also on streams.
pub(crate) fn received(server: SocketAddr) -> BTreeMap<String, u64> {
    let mut stream = TcpStream::connect(server).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let counts = answer.lines().filter_map(|line| {
        let rest = line.strip_prefix("grpc_server_msg_received_total{grpc_method=\"")?;
        let (method, rest) = rest.split_once('"')?;
        let count: f64 = rest.rsplit(' ').next()?.parse().ok()?;
        Some((method.to_owned(), count as u64))
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

/// What was sent between two countings.
pub(crate) fn sent_between(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let new = after
        .iter()
        .map(|(method, count)| (method.clone(), count - before.get(method).copied().unwrap_or(0)));
    new.filter(|(_, count)| *count > 0).collect()
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn unbase64(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter_map(|c| DIGITS.iter().position(|digit| *digit == c));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0usize, 0);
    for digit in digits {
        (bits, count) = (bits << 6 | digit, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

pub(crate) fn base64(bytes: &[u8]) -> String {
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
