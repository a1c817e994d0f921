//! What cannot be forced from outside: what happens between two steps of this process, on a real server.

use std::sync::Arc;
use std::time::Duration;

use solocron::lock::{
    Claim, Delivery, Enrolment, LockBackend, LockKey, Lost, Mark, MarkAfter, NodeId, Nonce, Reply,
    Request,
};
use solocron::{Clock, SystemClock};
use solocron_testkit::server::EtcdServer;

use crate::EtcdBackend;
use crate::beat::{audit, compare};
use crate::home::Home;
use crate::lease::{Lease, State};
use crate::watch;

const LONG: Duration = Duration::from_secs(60);

/// One process. Its tasks end with the backend.
struct Node {
    backend: EtcdBackend,
    home: Arc<Home>,
}

impl Node {
    fn of(server: &EtcdServer) -> Self {
        let backend = EtcdBackend::builder("test", [server.endpoint()]).build().expect("options");
        let home = backend.home().expect("a home");
        Self { backend, home }
    }

    async fn ask(&self, request: &Request) -> Reply<crate::EtcdLease> {
        self.home.acquire(request).await.expect("an answer")
    }

    async fn win(&self, request: &Request) -> Arc<Lease> {
        match self.ask(request).await {
            Reply::Won(grant) => grant.lease.0,
            other => panic!("not won: {other:?}"),
        }
    }

    /// Enrolls the job. A tick that nobody claimed yet.
    async fn tick(&self, name: &str) -> Mark {
        let job = Enrolment { key: key(name), fingerprint: 7 };
        let enrolled = self.backend.enroll(&[job]).await.remove(0).expect("an answer");
        Mark::from_millis(enrolled.last.mark.as_millis() + 1)
    }

    /// The create revision of the lock key; 0: nobody holds the lock.
    async fn held_by(&self, name: &str) -> i64 {
        let key = key(name);
        self.home.read(&key, &self.home.names(&key)).await.expect("an answer").created()
    }
}

fn key(name: &str) -> LockKey {
    LockKey::new(name).expect("a name")
}

fn plain(name: &str, ttl: Duration) -> Request {
    let now = SystemClock.lease_now();
    Request::new(key(name), Nonce::random(), NodeId::named("node"), ttl, now)
}

fn claim(name: &str, tick: Mark) -> Request {
    plain(name, LONG).claiming(Claim { tick, after: None, delivery: Delivery::AtMostOnce })
}

#[tokio::test]
async fn a_tick_that_was_granted_is_not_undone_while_its_lock_is_being_given_up() {
    let server = EtcdServer::start();
    let (here, elsewhere) = (Node::of(&server), Node::of(&server));
    let tick = here.tick("job").await;
    let lease = here.win(&claim("job", tick)).await;
    // Its time is over, and the deletion of its key has not got through yet.
    assert!(here.home.ledger.lose(&lease, Lost::Expired, false));
    audit(Arc::clone(&here.home), Arc::clone(&lease.session)).await;
    assert_eq!(here.held_by("job").await, 0, "the lock is freed");
    let reply = elsewhere.ask(&claim("job", tick)).await;
    assert!(matches!(reply, Reply::Stale { done: false, .. }), "the tick was run: {reply:?}");
}

#[tokio::test]
async fn a_lock_that_has_become_somebody_elses_is_not_taken_back() {
    let server = EtcdServer::start();
    let (here, elsewhere) = (Node::of(&server), Node::of(&server));
    let session = Arc::clone(&here.win(&plain("ours", LONG)).await.session);
    let theirs = elsewhere.win(&plain("lock", LONG)).await;
    // What this session kept when it was looked at is theirs by now.
    let kept = [theirs.lock_key.clone()];
    compare(&here.home, &session, &[], &kept).await.expect("an answer");
    assert_eq!(here.held_by("lock").await, theirs.fence);
}

#[tokio::test]
async fn a_lock_that_a_member_leaves_out_is_lost_only_if_its_key_is_gone() {
    let server = EtcdServer::start();
    let here = Node::of(&server);
    let (a, b) = (here.win(&plain("a", LONG)).await, here.win(&plain("b", LONG)).await);
    let held = here.home.ledger.living(&a.session);
    // A member that has not heard of either yet.
    compare(&here.home, &a.session, &held, &[]).await.expect("an answer");
    assert!(a.until().is_some() && b.until().is_some(), "both are there");
    // Another process frees one of them, and somebody takes it, before the watch says so: it is another key.
    let moved = Lease::new(
        key("b"),
        b.lock_key.clone(),
        b.nonce,
        b.fence - 1,
        false,
        LONG,
        SystemClock.lease_now() + LONG,
        Arc::clone(&b.session),
    );
    compare(&here.home, &a.session, &[Arc::clone(&moved)], &[]).await.expect("an answer");
    assert_eq!(moved.state(), State::Lost(Lost::ForceReleased));
}

#[tokio::test]
async fn an_audit_that_failed_is_made_up_for_with_the_next_beat() {
    let server = EtcdServer::start();
    let here = Node::of(&server);
    // Nothing else would find out.
    watch::never(&here.home);
    let lease = here.win(&plain("lock", Duration::from_secs(3))).await;
    server.kill();
    audit(Arc::clone(&here.home), Arc::clone(&lease.session)).await;
    assert!(lease.session.is_to_be_looked_at());
    assert!(!lease.session.is_to_be_looked_at(), "once");
}

#[tokio::test]
async fn a_key_that_is_deleted_is_a_loss_although_nobody_can_watch() {
    let server = EtcdServer::start();
    let (here, elsewhere) = (Node::of(&server), Node::of(&server));
    watch::never(&here.home);
    let lease = here.win(&plain("lock", Duration::from_secs(2))).await;
    elsewhere.home.revoke(&lease.key, lease.nonce, MarkAfter::Undo).await.expect("an answer");
    let kept_alive = async {
        loop {
            let sent = SystemClock.lease_now();
            here.home.renew(&[&crate::EtcdLease(Arc::clone(&lease))], sent).await;
            SystemClock.sleep(Duration::from_millis(100)).await;
        }
    };
    let told = async {
        tokio::select! { why = lease.lost() => why, () = kept_alive => unreachable!() }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    assert_eq!(told.expect("news of it"), Lost::ForceReleased);
}
