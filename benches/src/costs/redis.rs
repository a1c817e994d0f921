//! Redis: the same work on one connection of the redis crate, whose runtime is the caller's.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use solocron::lock::{
    Claim, Delivery, Enrolment, LockBackend as _, LockKey, Locks, Mark, MarkAfter, NodeId, Nonce,
    Released, Reply, Request,
};
use solocron::{Clock as _, SystemClock};
use solocron_redis::{RedisBackend, RedisLease};
use solocron_testkit::server::RedisServer;

use super::claims::{ClaimAndRelease, LockAndRelease};
use super::{Group, Missing, Operation, Role, Subject};

const RELEASE: &str =
    "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) else return 0 end";
const TTL_MS: u64 = 10_000;
/// As many tasks as the targets speak of.
const TASKS: usize = 64;
/// Jobs that are due at once.
const BURST: usize = 1_000;

/// The groups over one server of their own.
pub(super) async fn groups() -> Result<Vec<Group>, Missing> {
    let server = server()?;
    let floor = connect(&server).await;
    let backend = RedisBackend::connect(&server.url()).await.expect("the server lets us in");
    let locks = Locks::new(backend.clone()).expect("the defaults fit");
    Ok(vec![
        counted(alone(&server, &floor, &locks).await, &server),
        counted(together(&server, &floor, &locks).await, &server),
        counted(burst(&server, &floor, backend).await, &server),
    ])
}

/// A server, where there is one to be had.
pub(super) fn server() -> Result<Arc<RedisServer>, Missing> {
    super::needs("redis-server", "redis-server")?;
    Ok(Arc::new(RedisServer::start()))
}

/// A connection of the redis crate, with the release script loaded.
pub(super) async fn connect(server: &RedisServer) -> Floor {
    let client = redis::Client::open(server.url()).expect("a url");
    let mut connection =
        client.get_multiplexed_async_connection().await.expect("the server lets us in");
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(RELEASE);
    let release: String = load.query_async(&mut connection).await.expect("the server answers");
    Floor { connection, release: release.into() }
}

/// What the server counts: scripts call commands inside, and those are work but no round trips.
pub(super) fn counted(group: Group, server: &Arc<RedisServer>) -> Group {
    let server = Arc::clone(server);
    group.counting(move || {
        let info = server.command(&["INFO", "all"]);
        let info = info.as_str().expect("text").to_owned();
        let number = |name: &str| -> f64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(f64::NAN)
        };
        vec![
            ("server reads", number("total_reads_processed")),
            ("server CPU µs", (number("used_cpu_user") + number("used_cpu_sys")) * 1e6),
        ]
    })
}

#[derive(Clone)]
pub(super) struct Floor {
    pub(super) connection: MultiplexedConnection,
    release: Arc<str>,
}

/// `SET NX PX` and compare-and-delete, by its hash: no fence, no mark, no memory of what was granted.
struct SetAndDelete {
    floor: Floor,
    key: String,
}

impl Operation for SetAndDelete {
    async fn once(&mut self) {
        let nonce = "0123456789abcdef0123456789abcdef";
        let mut set = redis::cmd("SET");
        set.arg(&self.key).arg(nonce).arg("NX").arg("PX").arg(TTL_MS);
        let set: Value = set.query_async(&mut self.floor.connection).await.expect("it answers");
        assert_eq!(set, Value::Okay, "nobody else is here");
        let mut delete = redis::cmd("EVALSHA");
        delete.arg(&*self.floor.release).arg(1).arg(&self.key).arg(nonce);
        let deleted: i64 =
            delete.query_async(&mut self.floor.connection).await.expect("it answers");
        assert_eq!(deleted, 1, "it was ours");
    }
}

struct Ping(MultiplexedConnection);

impl Operation for Ping {
    async fn once(&mut self) {
        let pong: String = redis::cmd("PING").query_async(&mut self.0).await.expect("it answers");
        assert_eq!(pong, "PONG");
    }
}

struct Rslock {
    locks: rslock::LockManager,
    key: String,
}

impl Rslock {
    fn new(server: &RedisServer, key: String) -> Self {
        let mut locks = rslock::LockManager::new(vec![server.url()]);
        locks.set_retry(0, Duration::ZERO); // what was not unlocked shall fail, not wait
        Self { locks, key }
    }
}

impl Operation for Rslock {
    async fn once(&mut self) {
        let lock = self.locks.lock(self.key.as_bytes(), Duration::from_millis(TTL_MS)).await;
        self.locks.unlock(&lock.expect("nobody else is here")).await;
    }
}

async fn alone(server: &RedisServer, floor: &Floor, locks: &Locks) -> Group {
    let pair = SetAndDelete { floor: floor.clone(), key: "floor".into() };
    let subjects = vec![
        Subject::new("SET NX PX + EVALSHA", Role::Floor, 1, pair),
        Subject::new("PING", Role::Other, 1, Ping(floor.connection.clone())),
        Subject::new("try_lock + release", Role::Ours, 1, LockAndRelease::new(locks, "one"))
            .at_most(1.10),
        Subject::new(
            "claim + release",
            Role::Ours,
            1,
            ClaimAndRelease::new(locks, "job", 64).await,
        )
        .at_most(1.10),
        Subject::new("rslock", Role::Rival, 1, Rslock::new(server, "rslock".into())),
    ];
    Group::new("redis, 1 task", subjects, ())
}

async fn together(server: &RedisServer, floor: &Floor, locks: &Locks) -> Group {
    let pair = |task| SetAndDelete { floor: floor.clone(), key: format!("floor-{task}") };
    let lock = |task| LockAndRelease::new(locks, &format!("one-{task}"));
    let mut claims = Vec::new();
    for task in 0..TASKS {
        claims.push(ClaimAndRelease::new(locks, &format!("task-{task}"), 16).await);
    }
    // One manager for all: its connection is shared, as ours is.
    let shared = Rslock::new(server, String::new());
    let rival = |task| Rslock { locks: shared.locks.clone(), key: format!("rslock-{task}") };
    let subjects = vec![
        Subject::many("SET NX PX + EVALSHA", Role::Floor, (0..TASKS).map(pair).collect()),
        Subject::many("try_lock + release", Role::Ours, (0..TASKS).map(lock).collect())
            .at_most(1.5),
        Subject::many("claim + release", Role::Ours, claims).at_most(1.5),
        Subject::many("rslock", Role::Rival, (0..TASKS).map(rival).collect()),
    ];
    Group::new("redis, 64 tasks", subjects, ())
}

/// A thousand `SET NX PX` in one pipeline.
struct SetAll(MultiplexedConnection);

impl SetAll {
    fn keys() -> impl Iterator<Item = String> {
        (0..BURST).map(|job| format!("burst-{job}"))
    }
}

impl Operation for SetAll {
    async fn prepare(&mut self, _times: u64) {
        let mut delete = redis::cmd("DEL");
        delete.arg(Self::keys().collect::<Vec<_>>());
        let _: i64 = delete.query_async(&mut self.0).await.expect("the server answers");
    }

    async fn once(&mut self) {
        let mut pipeline = Pipeline::with_capacity(BURST);
        for key in Self::keys() {
            pipeline.cmd("SET").arg(key).arg("nonce").arg("NX").arg("PX").arg(TTL_MS);
        }
        let set: Vec<Value> = pipeline.query_async(&mut self.0).await.expect("it answers");
        assert!(set.len() == BURST && set.iter().all(|set| *set == Value::Okay));
    }
}

/// A thousand claims in one call; what was won is given back before the next.
struct ClaimAll {
    backend: RedisBackend,
    node: NodeId,
    jobs: Vec<(LockKey, i64)>,
    requests: Vec<Request>,
    held: Vec<RedisLease>,
}

impl ClaimAll {
    async fn new(backend: RedisBackend) -> Self {
        let enrolments: Vec<_> = (0..BURST)
            .map(|job| Enrolment {
                key: LockKey::new(format!("due-{job}")).expect("a name"),
                fingerprint: 0,
            })
            .collect();
        let enrolled = backend.enroll(&enrolments).await;
        let jobs = enrolments.into_iter().zip(enrolled).map(|(job, enrolled)| {
            (job.key, enrolled.expect("the server answers").last.mark.as_millis())
        });
        Self {
            jobs: jobs.collect(),
            backend,
            node: NodeId::unique(),
            requests: Vec::new(),
            held: Vec::new(),
        }
    }
}

impl Operation for ClaimAll {
    async fn prepare(&mut self, _times: u64) {
        let releases = self.held.iter().map(|lease| self.backend.release(lease, MarkAfter::Done));
        for released in futures_util::future::join_all(releases).await {
            assert_eq!(released.expect("the server answers"), Released::Done);
        }
        self.held.clear();
        tokio::time::sleep(Duration::from_millis(2)).await; // every job has a tick in it
        let sent = SystemClock.lease_now();
        self.requests = self
            .jobs
            .iter_mut()
            .map(|(key, tick)| {
                *tick += 1;
                let tick = Mark::from_millis(*tick);
                let claim = Claim { tick, after: None, delivery: Delivery::AtMostOnce };
                let ttl = Duration::from_secs(60);
                Request::new(key.clone(), Nonce::random(), self.node.clone(), ttl, sent)
                    .claiming(claim)
            })
            .collect();
    }

    async fn once(&mut self) {
        for reply in self.backend.try_acquire(&self.requests).await {
            match reply.expect("the server answers") {
                Reply::Won(grant) => self.held.push(grant.lease),
                other => panic!("nobody else is here, but {other:?}"),
            }
        }
        assert_eq!(self.held.len(), BURST);
    }
}

async fn burst(_server: &RedisServer, floor: &Floor, backend: RedisBackend) -> Group {
    let units = BURST as u64;
    let subjects = vec![
        Subject::new(
            "SET NX PX × 1,000, pipelined",
            Role::Floor,
            1,
            SetAll(floor.connection.clone()),
        )
        .units(units),
        Subject::new("1,000 claims in one call", Role::Ours, 1, ClaimAll::new(backend).await)
            .units(units),
    ];
    Group::new("redis, 1,000 due at once", subjects, ())
}
