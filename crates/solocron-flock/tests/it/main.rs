//! Every promise of the flock backend, against real files and real processes.

mod bad;
mod chaos;
mod child;
mod conformance;
mod fleet;
mod guests;
mod leader;
mod leases;
mod measure;
mod processes;
mod wake;

use std::path::{Path, PathBuf};
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, Delivery, Enrolment, Grant, LockBackend, LockKey, Mark, NodeId, Nonce, Reply, Request,
};
use solocron::{BackendError, LeaseInstant};
use solocron_flock::{FlockBackend, FlockLease};

/// For events that come within milliseconds: long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lock directory of a test's own.
struct Dir {
    tmp: tempfile::TempDir,
}

impl Dir {
    fn new() -> Self {
        Self { tmp: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.tmp.path().join("locks")
    }

    /// Another handle, as another process would have it.
    fn open(&self) -> FlockBackend {
        FlockBackend::open(self.path()).unwrap()
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
    backend: &FlockBackend,
    request: &Request,
) -> Result<Reply<FlockLease>, BackendError> {
    backend.try_acquire(std::slice::from_ref(request)).await.remove(0)
}

async fn win(backend: &FlockBackend, request: &Request) -> Grant<FlockLease> {
    match attempt(backend, request).await.unwrap() {
        Reply::Won(grant) => grant,
        other => panic!("not won: {other:?}"),
    }
}

async fn enroll(backend: &FlockBackend, name: &str) -> Mark {
    let job = Enrolment { key: key(name), fingerprint: 7 };
    backend.enroll(&[job]).await.remove(0).unwrap().last.mark
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[expect(clippy::print_stdout, reason = "a test that cannot run here says so")]
fn skip(why: &str) {
    println!("skipped: {why}");
}
