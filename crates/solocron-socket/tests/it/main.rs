//! Every promise of the socket backend, against real sockets and real processes.

mod bad;
mod child;
mod conformance;
mod guests;
mod leases;
mod measure;
mod processes;
mod records;
mod scheduling;
mod wake;

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, Delivery, Enrolment, Grant, LockBackend, LockKey, Mark, NodeId, Nonce, Reply, Request,
};
use solocron::{BackendError, LeaseInstant};
use solocron_socket::{SocketBackend, SocketBuilder, SocketLease};

/// For events that come within milliseconds: long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port for each lock, free when it was asked for, below the range of outgoing connections.
#[derive(Debug, Clone, Default)]
struct Ports(Arc<Mutex<HashMap<LockKey, u16>>>);

impl Ports {
    fn of(&self, key: &LockKey) -> u16 {
        let mut ports = self.0.lock().unwrap();
        *ports.entry(key.clone()).or_insert_with(free_port)
    }
}

/// A port that nobody has, and that no other test of this process is given.
fn free_port() -> u16 {
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap();
    // Processes begin at different places, so that two runs of the tests rarely meet.
    let port = next.get_or_insert(RANGE.start + (std::process::id() % 11_000) as u16);
    loop {
        *port = if *port + 1 < RANGE.end { *port + 1 } else { RANGE.start };
        if TcpListener::bind(("127.0.0.1", *port)).is_ok() {
            return *port;
        }
    }
}

/// The sockets of a test's own.
#[derive(Debug)]
struct Place {
    namespace: String,
    ports: Option<Ports>,
    state: Option<tempfile::TempDir>,
}

impl Place {
    fn new() -> Self {
        let namespace = format!("t{:x}", Nonce::random().as_u128() >> 64);
        Self { namespace, ports: None, state: None }
    }

    fn on_ports(mut self) -> Self {
        self.ports = Some(Ports::default());
        self
    }

    fn with_state(mut self) -> Self {
        self.state = Some(tempfile::tempdir().unwrap());
        self
    }

    fn state_dir(&self) -> Option<PathBuf> {
        self.state.as_ref().map(|dir| dir.path().join("state"))
    }

    fn builder(&self) -> SocketBuilder {
        let mut builder = SocketBackend::builder(&*self.namespace);
        if let Some(ports) = self.ports.clone() {
            builder = builder.ports(move |key| Some(ports.of(key)));
        }
        if let Some(dir) = self.state_dir() {
            builder = builder.state_dir(dir);
        }
        builder
    }

    /// Another handle, as another process would have it.
    fn open(&self) -> SocketBackend {
        self.builder().build().unwrap()
    }
}

fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

fn sent() -> LeaseInstant {
    LeaseInstant::from_origin(Duration::ZERO)
}

fn plain(name: &str) -> Request {
    let node = NodeId::named("node");
    Request::new(key(name), Nonce::random(), node, Duration::from_secs(15), sent())
}

fn claim(name: &str, tick: Mark) -> Request {
    plain(name).claiming(Claim { tick, after: None, delivery: Delivery::AtMostOnce })
}

fn now() -> Mark {
    Mark::floor(Timestamp::now())
}

async fn attempt(
    backend: &SocketBackend,
    request: &Request,
) -> Result<Reply<SocketLease>, BackendError> {
    backend.try_acquire(std::slice::from_ref(request)).await.remove(0)
}

async fn win(backend: &SocketBackend, request: &Request) -> Grant<SocketLease> {
    match attempt(backend, request).await.unwrap() {
        Reply::Won(grant) => grant,
        other => panic!("not won: {other:?}"),
    }
}

async fn enroll(backend: &SocketBackend, name: &str) -> Mark {
    let job = Enrolment { key: key(name), fingerprint: 7 };
    backend.enroll(&[job]).await.remove(0).unwrap().last.mark
}

#[expect(clippy::print_stdout, reason = "a test that cannot run here says so")]
fn skip(why: &str) {
    println!("skipped: {why}");
}
