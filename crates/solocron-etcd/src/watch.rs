//! One watch for all locks of the namespace: it wakes who waits, and tells who lost a lock.
//!
//! ```text
//!   begin ──► open (from now on) ──► look at what was missed: audit every session, ring every bell ──► deletions ──┐
//!               ▲                                                                                                  │
//!               └──────── the stream broke, the member changed, the server canceled (compaction) ──────────────────┘
//! ```
//!
//! It is never asked for the past, so that a compaction has nothing to say, and because etcd serves a watch of the past in steps of
//! 100 ms.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use solocron::lock::Watch;
use solocron::{BackendError, Clock, Kind, SystemClock};
use tokio::sync::watch;

use crate::beat::audit;
use crate::home::Home;
use crate::wire::Deleted;

/// Starts the watch, if it was not started yet.
pub(crate) fn begin(home: &Arc<Home>) {
    let first = home.watched.send_if_modified(|watched| {
        let first = watched.is_none();
        *watched = Some(watched.unwrap_or(false));
        first
    });
    if first {
        home.keeper.spawn(run(Arc::clone(home)));
    }
}

/// Returns when no deletion is missed any more.
pub(crate) async fn established(home: &Arc<Home>) -> Result<(), BackendError> {
    begin(home);
    let mut watched = home.watched.subscribe();
    tokio::select! {
        Ok(_) = watched.wait_for(|watched| *watched == Some(true)) => Ok(()),
        else => Err(BackendError::new(Kind::Unavailable, "the watch has ended")),
    }
}

async fn run(home: Arc<Home>) {
    const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];
    let mut pause = PAUSES[0];
    while !home.closed.is_cancelled() {
        let watched = tokio::select! {
            () = home.closed.cancelled() => return,
            watched = watch_once(&home, &mut pause, PAUSES[0]) => watched,
        };
        home.watched.send_replace(Some(false));
        if let Err(error) = watched {
            tracing::debug!(%error, "the watch of etcd is interrupted");
        }
        SystemClock.sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

/// Watches until something goes wrong.
async fn watch_once(
    home: &Arc<Home>,
    pause: &mut Duration,
    shortest: Duration,
) -> Result<(), BackendError> {
    let mut watching = home.wire.watch(home.keys.locks()).await?;
    *pause = shortest;
    home.watched.send_replace(Some(true));
    for session in home.living_sessions() {
        if !home.ledger.living(&session).is_empty() {
            home.keeper.spawn(audit(Arc::clone(home), session));
        }
    }
    home.bells.ring_all();
    loop {
        for Deleted { key, revision } in watching.next().await? {
            home.ledger.deleted(&key, revision);
            home.memory.freed(&key, revision);
            home.bells.ring(&key);
        }
    }
}

/// Waits for one lock.
#[derive(Debug)]
pub(crate) struct EtcdWatch {
    news: watch::Receiver<()>,
    /// While it lives, so does the watch.
    _home: Arc<crate::backend::Handle>,
}

impl EtcdWatch {
    pub(crate) fn new(news: watch::Receiver<()>, home: Arc<crate::backend::Handle>) -> Self {
        Self { news, _home: home }
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn changed(&mut self) {
        if self.news.changed().await.is_err() {
            // Its bell is gone, and with it the backend.
            std::future::pending::<()>().await;
        }
    }
}
