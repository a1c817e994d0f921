//! Ours, over each backend, as its users call it.

use std::time::Duration;

use async_trait::async_trait;
use solocron::Locks;
use solocron::lock::{LockGuard, LockOptions};
use solocron_etcd::EtcdBackend;
use solocron_flock::FlockBackend;
use solocron_redis::RedisBackend;
use solocron_socket::SocketBackend;

use super::{Contender, Place, said};

/// Longer than any measurement.
const PATIENCE: Duration = Duration::from_secs(600);

/// The locks that the tasks of one process share.
pub(crate) async fn locks(subject: &str, place: &Place) -> Result<Locks, String> {
    let address = &place.address;
    let builder = match subject {
        "solocron-flock" => Locks::builder(FlockBackend::open(address).map_err(said)?),
        "solocron-socket" => Locks::builder(SocketBackend::new("bench").map_err(said)?),
        "solocron-redis" => Locks::builder(RedisBackend::connect(address).await.map_err(said)?),
        "solocron-etcd" => {
            let backend = EtcdBackend::builder("bench", [address]).build();
            Locks::builder(backend.map_err(said)?)
        }
        _ => return Err(format!("no subject of the name {subject:?}")),
    };
    builder.options(LockOptions::default().ttl(place.ttl)).build().map_err(said)
}

pub(super) struct Solocron {
    locks: Locks,
    key: String,
    guard: Option<LockGuard>,
}

impl Solocron {
    pub(super) fn new(locks: Locks, place: &Place) -> Self {
        Self { locks, key: place.key.clone(), guard: None }
    }
}

#[async_trait]
impl Contender for Solocron {
    async fn take(&mut self) -> Result<(), String> {
        self.guard = Some(self.locks.lock(self.key.as_str(), PATIENCE).await.map_err(said)?);
        Ok(())
    }

    async fn give(&mut self) -> Result<(), String> {
        let guard = self.guard.take().ok_or("nothing to give")?;
        guard.release().await.map(drop).map_err(said)
    }
}
