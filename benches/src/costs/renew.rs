//! Leases renewed in one call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Pipeline;
use redis::aio::MultiplexedConnection;
use solocron::lock::{LockBackend, LockKey, MemoryBackend, NodeId, Nonce, Renewal, Reply, Request};
use solocron::{Clock as _, SystemClock};
use solocron_redis::RedisBackend;

use super::{Group, Missing, Operation, Role, Subject, redis as server};

/// How many leases.
const SIZES: [(usize, [&str; 2]); 3] = [
    (1, ["renew, redis, 1 lease", "renew, memory, 1 lease"]),
    (100, ["renew, redis, 100 leases", "renew, memory, 100 leases"]),
    (10_000, ["renew, redis, 10,000 leases", "renew, memory, 10,000 leases"]),
];
const TTL: Duration = Duration::from_secs(600);

pub(super) async fn groups() -> Result<Vec<Group>, Missing> {
    let mut groups = Vec::new();
    for (count, [_, name]) in SIZES {
        let mut records: HashMap<LockKey, Instant> =
            keys("floor", count).map(|key| (key, Instant::now())).collect();
        let keys: Vec<_> = records.keys().cloned().collect();
        let floor = move || {
            let until = Instant::now() + TTL;
            for key in &keys {
                *records.get_mut(key).expect("it is there") = until;
            }
        };
        let subjects = vec![
            Subject::plain("a write each in a map", Role::Floor, 1, floor).units(count as u64),
            Subject::new("renew", Role::Ours, 1, Renewals::of(MemoryBackend::new(), count).await)
                .units(count as u64),
        ];
        groups.push(Group::new(name, subjects, ()));
    }
    let redis = server::server()?;
    let connection = server::connect(&redis).await.connection;
    for (count, [name, _]) in SIZES {
        let backend = RedisBackend::connect(&redis.url()).await.expect("the server lets us in");
        let floor = Expiries::of(connection.clone(), count).await;
        let subjects = vec![
            Subject::new("PEXPIRE each, pipelined", Role::Floor, 1, floor).units(count as u64),
            Subject::new("renew", Role::Ours, 1, Renewals::of(backend, count).await)
                .units(count as u64),
        ];
        groups.push(server::counted(Group::new(name, subjects, ()), &redis));
    }
    Ok(groups)
}

fn keys(prefix: &str, count: usize) -> impl Iterator<Item = LockKey> {
    (0..count).map(move |at| LockKey::new(format!("{prefix}-{count}-{at}")).expect("a name"))
}

/// All leases of a backend, renewed with one call.
struct Renewals<B: LockBackend> {
    backend: B,
    leases: Vec<Arc<B::Lease>>,
}

impl<B: LockBackend> Renewals<B> {
    async fn of(backend: B, count: usize) -> Self {
        let (node, sent) = (NodeId::unique(), SystemClock.lease_now());
        let requests: Vec<_> = keys("renewed", count)
            .map(|key| Request::new(key, Nonce::random(), node.clone(), TTL, sent))
            .collect();
        let replies = backend.try_acquire(&requests).await.into_iter();
        let leases = replies.map(|reply| match reply.expect("the store answers") {
            Reply::Won(grant) => Arc::new(grant.lease),
            other => panic!("nobody else is here, but {other:?}"),
        });
        Self { leases: leases.collect(), backend }
    }
}

impl<B: LockBackend> Operation for Renewals<B> {
    async fn once(&mut self) {
        let leases: Vec<_> = self.leases.iter().map(|lease| &**lease).collect();
        let answers = self.backend.renew(&leases, SystemClock.lease_now()).await;
        assert_eq!(answers.len(), leases.len());
        for answer in answers {
            assert!(matches!(answer, Ok(Renewal::Extended(_))), "{answer:?}");
        }
    }
}

/// The least that keeps keys alive; it does not ask whose they are.
struct Expiries {
    connection: MultiplexedConnection,
    keys: Vec<String>,
}

impl Expiries {
    async fn of(mut connection: MultiplexedConnection, count: usize) -> Self {
        let keys: Vec<_> = (0..count).map(|at| format!("expiry-{count}-{at}")).collect();
        let mut pipeline = Pipeline::with_capacity(count);
        for key in &keys {
            pipeline.cmd("SET").arg(key).arg("nonce").ignore();
        }
        pipeline.query_async::<()>(&mut connection).await.expect("the server answers");
        Self { connection, keys }
    }
}

impl Operation for Expiries {
    async fn once(&mut self) {
        let mut pipeline = Pipeline::with_capacity(self.keys.len());
        for key in &self.keys {
            pipeline.cmd("PEXPIRE").arg(key).arg(TTL.as_millis() as u64);
        }
        let set: Vec<i64> =
            pipeline.query_async(&mut self.connection).await.expect("the server answers");
        assert!(set.iter().all(|set| *set == 1) && set.len() == self.keys.len());
    }
}
