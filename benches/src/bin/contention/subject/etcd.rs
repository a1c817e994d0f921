//! Floors and rivals on an etcd.

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, EventType, LockOptions, PutOptions, Txn, TxnOp};

use super::{Contender, Place, said};

pub(crate) async fn connect(place: &Place) -> Result<Client, String> {
    Client::connect([&place.address], None).await.map_err(said)
}

/// A lease that is kept until this process ends, also by those who wait.
async fn lease(client: &mut Client, place: &Place) -> Result<i64, String> {
    let ttl = i64::try_from(place.ttl.as_secs()).map_err(said)?;
    let id = client.lease_grant(ttl, None).await.map_err(said)?.id();
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await.map_err(said)?;
    let third = place.ttl / 3;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(third).await;
            if keeper.keep_alive().await.is_err() || !matches!(answers.message().await, Ok(Some(_)))
            {
                eprintln!("contend: etcd no longer renews lease {id}");
                std::process::exit(1);
            }
        }
    });
    Ok(id)
}

/// etcd's own lock service, through the client that ours uses: a session for each task, since tasks on one lease would share the lock.
pub(super) struct LockRpc {
    client: Client,
    name: String,
    lease: i64,
    held: Option<Vec<u8>>,
}

impl LockRpc {
    pub(super) async fn new(mut client: Client, place: &Place) -> Result<Self, String> {
        let lease = lease(&mut client, place).await?;
        Ok(Self { client, name: format!("rpc/{}", place.key), lease, held: None })
    }
}

#[async_trait]
impl Contender for LockRpc {
    async fn take(&mut self) -> Result<(), String> {
        let options = LockOptions::new().with_lease(self.lease);
        let locked = self.client.lock(self.name.as_str(), Some(options)).await.map_err(said)?;
        self.held = Some(locked.key().to_vec());
        Ok(())
    }

    async fn give(&mut self) -> Result<(), String> {
        let key = self.held.take().ok_or("nothing to give")?;
        self.client.unlock(key).await.map(drop).map_err(said)
    }
}

/// The floor of a take-over through etcd: a key on a lease, and a watch that waits for its end.
pub(super) struct KeyAndWatch {
    client: Client,
    key: String,
    lease: i64,
}

impl KeyAndWatch {
    pub(super) async fn connect(place: &Place) -> Result<Self, String> {
        let mut client = connect(place).await?;
        let lease = lease(&mut client, place).await?;
        Ok(Self { client, key: format!("floor/{}", place.key), lease })
    }
}

#[async_trait]
impl Contender for KeyAndWatch {
    async fn take(&mut self) -> Result<(), String> {
        let mut ends = self.client.watch(self.key.as_str(), None).await.map_err(said)?;
        loop {
            let absent = Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0);
            let options = PutOptions::new().with_lease(self.lease);
            let put = TxnOp::put(self.key.as_str(), "", Some(options));
            let txn = Txn::new().when([absent]).and_then([put]);
            if self.client.txn(txn).await.map_err(said)?.succeeded() {
                return Ok(());
            }
            loop {
                let told = ends.message().await.map_err(said)?.ok_or("the watch has ended")?;
                if told.events().iter().any(|event| event.event_type() == EventType::Delete) {
                    break;
                }
            }
        }
    }

    async fn give(&mut self) -> Result<(), String> {
        self.client.delete(self.key.as_str(), None).await.map(drop).map_err(said)
    }
}
