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

use crate::backend::Handle;
use crate::beat::audit;
use crate::home::Home;
use crate::session::Session;
use crate::wire::Deleted;

/// How the watch is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watched {
    begun: bool,
    /// Whether deletions are being heard of now.
    now: bool,
    /// How often that changed.
    changes: u64,
}

impl Watched {
    fn set(home: &Home, now: bool) {
        home.watched.send_modify(|watched| {
            watched.changes += u64::from(watched.now != now);
            watched.now = now;
        });
    }
}

/// Starts the watch, if it was not started yet.
pub(crate) fn begin(home: &Arc<Home>) {
    let first =
        home.watched.send_if_modified(|watched| !std::mem::replace(&mut watched.begun, true));
    if first {
        home.keeper.spawn(run(Arc::clone(home)));
    }
}

/// Nobody watches.
#[cfg(all(test, unix))]
pub(crate) fn never(home: &Home) {
    home.watched.send_modify(|watched| watched.begun = true);
}

/// Returns when no deletion is missed any more.
pub(crate) async fn established(home: &Arc<Home>) -> Result<(), BackendError> {
    begin(home);
    let mut watched = home.watched.subscribe();
    tokio::select! {
        Ok(_) = watched.wait_for(|watched| watched.now) => Ok(()),
        else => Err(BackendError::new(Kind::Unavailable, "the watch has ended")),
    }
}

/// A number that stays the same for as long as every deletion is heard of; `None`: at the moment none is.
pub(crate) fn unbroken(home: &Home) -> Option<u64> {
    let watched = *home.watched.borrow();
    watched.now.then_some(watched.changes)
}

/// Looks at what this session holds as soon as deletions are heard of again.
pub(crate) fn audit_when_watched(home: &Arc<Home>, session: &Arc<Session>) {
    let (home, session) = (Arc::clone(home), Arc::clone(session));
    home.keeper.clone().spawn(async move {
        tokio::select! {
            Ok(()) = established(&home) => audit(home, session).await,
            () = home.closed.cancelled() => {}
        }
    });
}

async fn run(home: Arc<Home>) {
    const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];
    let mut pause = PAUSES[0];
    while !home.closed.is_cancelled() {
        let watched = tokio::select! {
            () = home.closed.cancelled() => return,
            watched = watch_once(&home, &mut pause, PAUSES[0]) => watched,
        };
        Watched::set(&home, false);
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
    Watched::set(home, true);
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
    pub(crate) news: watch::Receiver<()>,
    /// While it lives, so does the watch.
    pub(crate) _backend: Arc<Handle>,
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
