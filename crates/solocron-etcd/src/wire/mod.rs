//! The one module that knows `etcd_client`: requests in plain types, each within its time, each to one member.
//!
//! ```text
//!   one member at a time ── answers ──► stays
//!        │                └ refuses, breaks, says nothing in time ──► the next member, over a fresh connection
//!        │                    nothing was carried out, or it may be carried out twice: this call goes on there
//!        └────────────────    else the caller is told "unknown"; its next call goes there
//! ```
//!
//! `etcd_client` would spread calls over all members, and go on sending to one that is dead or hangs; it also has no timeouts of its
//! own. So there is a client for each member, and who is asked is decided here. Streams (keepalive, watch) end when the member
//! changes, and are opened again at the new one.
//!
//! Connections live on the keeper's thread, so that a job which blocks its runtime cannot starve a keepalive.

mod connect;
mod fault;
mod member;
mod probe;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, LeaseTimeToLiveOptions, PutOptions,
    ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use futures_util::future::BoxFuture;
use solocron::lock::Keeper;
use tokio::sync::watch;

pub(crate) use self::fault::{Fault, without_effect};
use self::member::Member;
pub(crate) use self::stream::{Beat, Deleted};
use crate::config::Config;

/// A cluster.
#[derive(Debug)]
pub(crate) struct Wire {
    config: Config,
    keeper: Keeper,
    members: Vec<Arc<Member>>,
    at: watch::Sender<At>,
    past: Mutex<Past>,
}

/// Which member is asked, and how often that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    member: usize,
    moves: u64,
}

/// What the answers so far have shown of the cluster.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    cluster: u64,
    revision: i64,
    /// How often it was another cluster, or went back to an earlier revision.
    losses: u64,
}

/// The two keys of a lock, and what they must still be.
#[derive(Debug)]
pub(crate) struct Guarded<'a> {
    pub(crate) lock: &'a [u8],
    pub(crate) state: &'a [u8],
    /// Its create revision; 0: absent; `None`: whatever it is.
    pub(crate) lock_is: Option<i64>,
    /// Its modification revision; 0: absent; `None`: whatever it is.
    pub(crate) state_is: Option<i64>,
}

/// A change of one of the two keys.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    PutLock {
        value: Vec<u8>,
        lease: i64,
    },
    DeleteLock,
    /// `lease`: it ends with this one; 0: it stays.
    PutState {
        value: Vec<u8>,
        lease: i64,
    },
}

/// What became of a transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was carried out, as this revision.
    Done(i64),
    /// The keys are not what they were to be, but this. Nothing was changed.
    Otherwise(Both),
}

/// The two keys of a lock, as of one revision.
#[derive(Debug)]
pub(crate) struct Both {
    pub(crate) revision: i64,
    pub(crate) lock: Option<Kept>,
    pub(crate) state: Option<Kept>,
}

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) value: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) modified: i64,
    pub(crate) lease: i64,
}

impl Kept {
    fn of(kv: &KeyValue) -> Self {
        Self {
            value: kv.value().to_vec(),
            created: kv.create_revision(),
            modified: kv.mod_revision(),
            lease: kv.lease(),
        }
    }
}

/// A session lease, as the server granted it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted {
    pub(crate) id: i64,
    pub(crate) ttl: Duration,
}

/// A session lease, as the server has it.
#[derive(Debug)]
pub(crate) struct LeaseState {
    pub(crate) remaining: Duration,
    /// The keys that it keeps alive, if they were asked for.
    pub(crate) keys: Vec<Vec<u8>>,
}

/// A call of a client, ready to be sent.
type Call<'a, T> = BoxFuture<'a, Result<T, Error>>;

impl Wire {
    pub(crate) fn new(config: Config, keeper: Keeper) -> Arc<Self> {
        let members =
            config.endpoints.iter().map(|endpoint| Arc::new(Member::new(endpoint))).collect();
        let at = watch::Sender::new(At { member: 0, moves: 0 });
        Arc::new(Self { config, keeper, members, at, past: Mutex::default() })
    }

    /// Carries the writes out, in one step, if the keys are what they are to be.
    pub(crate) async fn commit(
        &self,
        guarded: &Guarded<'_>,
        writes: &[Write],
    ) -> Result<Outcome, Fault> {
        let Guarded { lock, state, lock_is, state_is } = *guarded;
        let when: Vec<_> = [
            lock_is.map(|rev| Compare::create_revision(lock, CompareOp::Equal, rev)),
            state_is.map(|rev| Compare::mod_revision(state, CompareOp::Equal, rev)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let then: Vec<_> = writes
            .iter()
            .map(|write| match write {
                Write::PutLock { value, lease } => {
                    let bound = PutOptions::new().with_lease(*lease);
                    TxnOp::put(lock, value.clone(), Some(bound))
                }
                Write::DeleteLock => TxnOp::delete(lock, None),
                Write::PutState { value, lease: 0 } => TxnOp::put(state, value.clone(), None),
                Write::PutState { value, lease } => {
                    let bound = PutOptions::new().with_lease(*lease);
                    TxnOp::put(state, value.clone(), Some(bound))
                }
            })
            .collect();
        let txn = Txn::new().when(when).and_then(then).or_else(look_at(lock, state));
        let known = self.past().revision;
        let answer = self.call(false, |client| send(client, txn.clone())).await?;
        let revision = self.note(answer.header(), known);
        if answer.succeeded() {
            return Ok(Outcome::Done(revision));
        }
        let mut found = both(&answer);
        Ok(Outcome::Otherwise(found.next().unwrap_or(Both { revision, lock: None, state: None })))
    }

    /// The keys of some locks, as of one revision: `(lock, state)` of each.
    pub(crate) async fn read(&self, keys: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<Both>, Fault> {
        let look: Vec<_> = keys.iter().flat_map(|(lock, state)| look_at(lock, state)).collect();
        let txn = Txn::new().and_then(look);
        let known = self.past().revision;
        let answer = self.call(true, |client| send(client, txn.clone())).await?;
        self.note(answer.header(), known);
        Ok(both(&answer).collect())
    }

    /// All keys that begin with `prefix`.
    pub(crate) async fn list(&self, prefix: &[u8]) -> Result<Vec<Kept>, Fault> {
        let known = self.past().revision;
        let answer = self
            .call(true, |client| {
                let prefix = prefix.to_vec();
                Box::pin(async move {
                    let all = GetOptions::new().with_prefix();
                    client.kv_client().get(prefix, Some(all)).await
                })
            })
            .await?;
        self.note(answer.header(), known);
        Ok(answer.kvs().iter().map(Kept::of).collect())
    }

    pub(crate) async fn grant_lease(&self, ttl: Duration) -> Result<Granted, Fault> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // A second one, of a lost answer, has no keys and ends by itself.
        let answer = self
            .call(true, |client| {
                Box::pin(async move { client.lease_client().grant(seconds, None).await })
            })
            .await?;
        Ok(Granted { id: answer.id(), ttl: seconds_of(answer.ttl()) })
    }

    pub(crate) async fn revoke_lease(&self, id: i64) -> Result<(), Fault> {
        self.call(true, |client| Box::pin(async move { client.lease_client().revoke(id).await }))
            .await
            .map(drop)
            .or_else(|fault| if fault.no_lease { Ok(()) } else { Err(fault) })
    }

    /// `None`: the lease is over.
    pub(crate) async fn look_at_lease(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<Option<LeaseState>, Fault> {
        let answer = self
            .call(true, |client| {
                Box::pin(async move {
                    let options = LeaseTimeToLiveOptions::new();
                    let options = if keys { options.with_keys() } else { options };
                    client.lease_client().time_to_live(id, Some(options)).await
                })
            })
            .await;
        match answer {
            Ok(answer) if answer.ttl() < 0 => Ok(None),
            Ok(answer) => Ok(Some(LeaseState {
                remaining: seconds_of(answer.ttl()),
                keys: answer.keys().to_vec(),
            })),
            Err(fault) if fault.no_lease => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The id of the cluster, 0 before its first answer, and how often it forgot something.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let Past { cluster, losses, .. } = self.past();
        (cluster, losses)
    }

    fn past(&self) -> Past {
        *self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from an answer that is at least as new as revision `known`: etcd's reads and writes are linearizable, so an older one
    /// comes from a cluster that was restored from a backup.
    fn note(&self, header: Option<&ResponseHeader>, known: i64) -> i64 {
        let Some(header) = header else { return 0 };
        let (cluster, revision) = (header.cluster_id(), header.revision());
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let another = past.cluster != 0 && past.cluster != cluster;
        if another || revision < known.min(past.revision) {
            tracing::error!(revision, known, another, "etcd went back to an earlier state");
            past.losses += 1;
            past.revision = revision;
        }
        past.cluster = cluster;
        past.revision = past.revision.max(revision);
        revision
    }

    /// Sends a call to the member whose turn it is, and to others where that fails and it may be sent again: because nothing was
    /// carried out, or because it is `repeatable`.
    async fn call<'a, T>(
        &self,
        repeatable: bool,
        make: impl Fn(Arc<Client>) -> Call<'a, T>,
    ) -> Result<T, Fault> {
        self.call_at(repeatable, make).await.map(|(_, answer)| answer)
    }

    /// The same, and who answered: while a call is under way, another may have moved on.
    async fn call_at<'a, T>(
        &self,
        repeatable: bool,
        make: impl Fn(Arc<Client>) -> Call<'a, T>,
    ) -> Result<(At, T), Fault> {
        let mut tried = 0;
        loop {
            let at = *self.at.borrow();
            let fault = match self.once(at, &make).await {
                Ok(answer) => return Ok((at, answer)),
                Err(fault) => fault,
            };
            tried += 1;
            let harmless = repeatable || fault.error.effect() == solocron::Effect::None;
            if tried >= self.members.len() || !fault.elsewhere || !harmless {
                return Err(fault);
            }
        }
    }

    async fn once<'a, T>(
        &self,
        at: At,
        make: &impl Fn(Arc<Client>) -> Call<'a, T>,
    ) -> Result<T, Fault> {
        let client = self.client(at).await?;
        let answer =
            async { make(client).await.map_err(|error| Fault::of(&error, self.endpoint(at))) };
        match self.bounded(at, answer).await {
            Err(fault) => Err(self.explained(at, fault).await),
            answer => answer,
        }
    }
}

fn send<'a>(client: Arc<Client>, txn: Txn) -> Call<'a, TxnResponse> {
    Box::pin(async move { client.kv_client().txn(txn).await })
}

fn look_at(lock: &[u8], state: &[u8]) -> [TxnOp; 2] {
    [TxnOp::get(lock, None), TxnOp::get(state, None)]
}

/// The answers to [`look_at`], in pairs.
fn both(answer: &TxnResponse) -> impl Iterator<Item = Both> + use<> {
    let revision = answer.header().map_or(0, ResponseHeader::revision);
    let mut kept = answer.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(got) => got.kvs().first().map(Kept::of),
        _ => None,
    });
    std::iter::from_fn(move || Some(Both { revision, lock: kept.next()?, state: kept.next()? }))
}

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
