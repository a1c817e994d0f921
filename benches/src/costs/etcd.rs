//! etcd: a transaction to take and one to give back, against two plain writes on the same kind of connection.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, LockOptions, PutOptions};
use solocron::lock::{Keeper, Locks};
use solocron_etcd::EtcdBackend;
use solocron_testkit::server::EtcdServer;

use super::claims::{ClaimAndRelease, LockAndRelease};
use super::{Group, Missing, Operation, Role, Subject};

const TASKS: usize = 64;

pub(super) async fn groups() -> Result<Vec<Group>, Missing> {
    super::needs("etcd", "etcd-server")?;
    let etcd = Arc::new(EtcdServer::start());
    let mut client = Client::connect([etcd.endpoint()], None).await.expect("etcd lets us in");
    let lease = client.lease_grant(3600, None).await.expect("etcd answers").id();
    let backend = EtcdBackend::builder("costs", [etcd.endpoint()]).build().expect("a namespace");
    let locks = Locks::new(backend).expect("the defaults fit");

    let put = |key: String| PutAndDelete { client: client.clone(), lease, key };
    let afar = connect_afar(etcd.endpoint()).await;
    let put_afar = |key: String| PutAndDelete { client: afar.clone(), lease, key };
    let rpc = |key: String| LockRpc { client: client.clone(), lease, key };
    let ours = |key: String| LockAndRelease::new(&locks, &key);
    let alone = vec![
        Subject::new("put + delete", Role::Floor, 1, put("floor".into())),
        Subject::new(AFAR, Role::Other, 1, put_afar("afar".into())),
        Subject::new("try_lock + release", Role::Ours, 1, ours("one".into())).at_most(1.2),
        Subject::new(
            "claim + release",
            Role::Ours,
            1,
            ClaimAndRelease::new(&locks, "job", 16).await,
        ),
        Subject::new("etcd's Lock and Unlock, shared lease", Role::Rival, 1, rpc("rpc".into())),
    ];
    let each = |prefix: &'static str| (0..TASKS).map(move |task| format!("{prefix}-{task}"));
    let together = vec![
        Subject::many("put + delete", Role::Floor, each("floor").map(put).collect()),
        Subject::many(AFAR, Role::Other, each("afar").map(put_afar).collect()),
        Subject::many("try_lock + release", Role::Ours, each("many").map(ours).collect())
            .at_most(1.2),
        Subject::many(
            "etcd's Lock and Unlock, shared lease",
            Role::Rival,
            each("rpc").map(rpc).collect(),
        ),
    ];
    tokio::time::sleep(Duration::from_millis(100)).await; // the first beats and watches are through
    Ok(vec![
        Group::new("etcd, 1 task", alone, Arc::clone(&etcd)),
        Group::new("etcd, 64 tasks", together, etcd),
    ])
}

/// A connection that is carried as ours is: by a thread of its own, so that no job can starve its beats.
const AFAR: &str = "put + delete, connection on another thread";

async fn connect_afar(endpoint: String) -> Client {
    let (tell, told) = tokio::sync::oneshot::channel();
    Keeper::thread().expect("a thread").spawn(async move {
        let _ = tell.send(Client::connect([endpoint], None).await);
    });
    told.await.expect("the keeper runs what it is given").expect("etcd lets us in")
}

/// Two writes of what a lock would write, with a lease on them: no question asked.
struct PutAndDelete {
    client: Client,
    lease: i64,
    key: String,
}

impl Operation for PutAndDelete {
    async fn once(&mut self) {
        let options = PutOptions::new().with_lease(self.lease);
        self.client.put(&*self.key, "nonce", Some(options)).await.expect("etcd answers");
        let deleted = self.client.delete(&*self.key, None).await.expect("etcd answers");
        assert_eq!(deleted.deleted(), 1);
    }
}

struct LockRpc {
    client: Client,
    lease: i64,
    key: String,
}

impl Operation for LockRpc {
    async fn once(&mut self) {
        let options = LockOptions::new().with_lease(self.lease);
        let lock = self.client.lock(&*self.key, Some(options)).await.expect("etcd answers");
        self.client.unlock(lock.key()).await.expect("etcd answers");
    }
}
