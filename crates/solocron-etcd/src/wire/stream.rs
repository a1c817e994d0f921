//! The two streams: beats that keep a session alive, and the deletions of lock keys.

use std::sync::Arc;

use etcd_client::{
    LeaseKeepAliveStream, LeaseKeeper, WatchFilterType, WatchOptions, WatchResponse, WatchStream,
};
use solocron::{BackendError, Kind};

use super::{At, Fault, Wire};

/// Keeps one session lease alive. The stream is opened at the first beat, and again after trouble.
pub(crate) struct Beat {
    id: i64,
    open: Option<(At, LeaseKeeper, LeaseKeepAliveStream)>,
}

impl Beat {
    pub(crate) fn of(id: i64) -> Self {
        Self { id, open: None }
    }
}

/// A lock key that was deleted, and the revision that did it.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) key: Vec<u8>,
    pub(crate) revision: i64,
}

/// An open watch of the deletions below a prefix.
pub(crate) struct Watching {
    wire: Arc<Wire>,
    at: At,
    stream: WatchStream,
}

impl Wire {
    /// One beat. `false`: the lease is over.
    pub(crate) async fn beat(&self, beat: &mut Beat) -> Result<bool, Fault> {
        let at = *self.at.borrow();
        let open = beat.open.take().filter(|(opened_at, ..)| *opened_at == at);
        let Some((_, mut keeper, mut answers)) = open else {
            let id = beat.id;
            // Opening the stream sends the first beat.
            let opened = self
                .call_at(true, |client| {
                    Box::pin(async move { client.lease_client().keep_alive(id).await })
                })
                .await;
            return match opened {
                Ok((at, (keeper, answers))) => {
                    beat.open = Some((at, keeper, answers));
                    Ok(true)
                }
                Err(fault) if fault.no_lease => Ok(false),
                Err(fault) => Err(fault),
            };
        };
        let endpoint = self.endpoint(at);
        let answer = async {
            keeper.keep_alive().await.map_err(|error| Fault::of(&error, endpoint))?;
            let answer = answers.message().await.map_err(|error| Fault::of(&error, endpoint))?;
            answer.ok_or_else(|| Fault::ended(endpoint))
        };
        // A lease that is over is no error on an open stream.
        let lives = self.bounded(at, answer).await?.ttl() > 0;
        beat.open = Some((at, keeper, answers));
        Ok(lives)
    }

    /// Watches the deletions below `prefix`, from now on: a watch of the past is served up to 100 ms late. When this returns, no
    /// later deletion is missed until [`Watching::next`] says so.
    pub(crate) async fn watch(self: &Arc<Self>, prefix: &[u8]) -> Result<Watching, Fault> {
        // Some servers refuse a watch without saying that it is the token which has expired; a read renews it.
        self.read(&[(prefix.to_vec(), prefix.to_vec())]).await?;
        let at = *self.at.borrow();
        let mut client = self.client(at).await?.watch_client();
        let endpoint = self.endpoint(at);
        let options = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
        let created = async {
            let stream = client.watch(prefix, Some(options)).await;
            let mut stream = stream.map_err(|error| Fault::of(&error, endpoint))?;
            let first = stream.message().await.map_err(|error| Fault::of(&error, endpoint))?;
            let first = first.ok_or_else(|| Fault::ended(endpoint))?;
            if first.canceled() { Err(Fault::canceled(endpoint, &first)) } else { Ok(stream) }
        };
        let stream = self.bounded(at, created).await?;
        Ok(Watching { wire: Arc::clone(self), at, stream })
    }
}

impl Watching {
    /// The next deletions. After an error this watch is over, and may have missed some.
    pub(crate) async fn next(&mut self) -> Result<Vec<Deleted>, Fault> {
        let endpoint = self.wire.endpoint(self.at);
        let mut at = self.wire.at.subscribe();
        loop {
            let answer = tokio::select! {
                answer = self.stream.message() => answer,
                // The member that feeds this stream has failed somebody.
                _ = at.wait_for(|now| *now != self.at) => return Err(Fault::ended(endpoint)),
            };
            let answer = answer
                .map_err(|error| Fault::of(&error, endpoint))
                .and_then(|answer| answer.ok_or_else(|| Fault::ended(endpoint)))
                .inspect_err(|_| self.wire.leave(self.at))?;
            if answer.canceled() {
                return Err(Fault::canceled(endpoint, &answer));
            }
            // A deletion leaves a version of 0.
            let deletions = answer.events().iter().filter_map(|event| event.kv());
            let deletions: Vec<_> = deletions
                .filter(|kv| kv.version() == 0)
                .map(|kv| Deleted { key: kv.key().to_vec(), revision: kv.mod_revision() })
                .collect();
            if !deletions.is_empty() {
                return Ok(deletions);
            }
        }
    }
}

impl Fault {
    /// The member closed the stream.
    fn ended(endpoint: &str) -> Self {
        let why = format!("etcd at {endpoint} ended the stream");
        Self { elsewhere: true, ..Self::new(BackendError::new(Kind::Unavailable, why)) }
    }

    /// The member serves this watch no more: it fell behind a compaction, or the user may not read there.
    fn canceled(endpoint: &str, answer: &WatchResponse) -> Self {
        let (reason, compacted) = (answer.cancel_reason(), answer.compact_revision());
        let kind = if reason.contains("permission") { Kind::Denied } else { Kind::Unavailable };
        let why =
            format!("etcd at {endpoint} canceled the watch: {reason} (compacted: {compacted})");
        Self::new(BackendError::new(kind, why))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use solocron_testkit::server::{Direction, EtcdServer, Proxy};

    use crate::EtcdBackend;

    use super::*;

    #[tokio::test]
    async fn a_stream_belongs_to_the_member_that_opened_it() {
        let server = EtcdServer::start();
        let ways = [Proxy::start(server.address()), Proxy::start(server.address())];
        let endpoints = ways.each_ref().map(|way| format!("http://{}", way.address()));
        let backend = EtcdBackend::builder("test", endpoints)
            .request_timeout(Duration::from_secs(30))
            .build()
            .expect("options");
        let wire = Arc::clone(&backend.home().expect("a home").wire);
        let lease = wire.grant_lease(Duration::from_secs(60)).await.expect("a lease");
        let first = *wire.at.borrow();
        // While the stream is being opened, the member fails somebody else.
        ways[0].black_hole(Direction::Down, true);
        let asked = ways[0].bytes(Direction::Up);
        let mut beat = Beat::of(lease.id);
        let moved = async {
            while ways[0].bytes(Direction::Up) == asked {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            wire.leave(first);
            ways[0].black_hole(Direction::Down, false);
        };
        let (beaten, ()) = tokio::join!(wire.beat(&mut beat), moved);
        assert!(beaten.expect("an answer"), "the lease lives");
        assert_ne!(*wire.at.borrow(), first);
        assert_eq!(beat.open.as_ref().map(|(at, ..)| *at), Some(first));
        // So the next beat goes to the member whose turn it is.
        assert!(wire.beat(&mut beat).await.expect("an answer"), "the lease lives");
        assert_eq!(beat.open.as_ref().map(|(at, ..)| *at), Some(*wire.at.borrow()));
    }
}
