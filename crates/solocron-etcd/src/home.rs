//! One cluster and namespace, as this process sees it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use solocron::lock::{Keeper, LockKey};
use solocron::{BackendError, Clock, Kind, LeaseInstant, SystemClock};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::bells::Bells;
use crate::config::Config;
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::seen::Memory;
use crate::session::{SLACK, Session};
use crate::watch::Watched;
use crate::wire::Wire;
use crate::{beat, watch as watching};

#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) pid: u32,
    pub(crate) wire: Arc<Wire>,
    pub(crate) keys: Keys,
    pub(crate) keeper: Keeper,
    pub(crate) ledger: Ledger,
    pub(crate) memory: Memory,
    pub(crate) bells: Bells,
    /// The living session of each ttl.
    sessions: Mutex<HashMap<Duration, Arc<Session>>>,
    /// Whoever makes one.
    making: tokio::sync::Mutex<()>,
    /// The lease of records that only refuse nonces, and until when it lives at least.
    pub(crate) passing: tokio::sync::Mutex<Option<(i64, LeaseInstant)>>,
    pub(crate) watched: watch::Sender<Watched>,
    /// Nobody needs this any more.
    pub(crate) closed: CancellationToken,
}

/// The names of a lock's two keys.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) lock: Vec<u8>,
    pub(crate) state: Vec<u8>,
}

impl Home {
    pub(crate) fn new(config: Config) -> io::Result<Arc<Self>> {
        let keeper = Keeper::thread()?;
        Ok(Arc::new(Self {
            pid: std::process::id(),
            keys: Keys::of(&config.namespace),
            wire: Wire::new(config, keeper.clone()),
            keeper,
            ledger: Ledger::default(),
            memory: Memory::default(),
            bells: Bells::default(),
            sessions: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            passing: tokio::sync::Mutex::default(),
            watched: watch::Sender::default(),
            closed: CancellationToken::new(),
        }))
    }

    pub(crate) fn names(&self, key: &LockKey) -> Names {
        Names { lock: self.keys.lock(key), state: self.keys.state(key) }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Duration, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living sessions.
    pub(crate) fn living_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions().values().filter(|session| session.over().is_none()).cloned().collect()
    }

    /// The living session of this lease id.
    pub(crate) fn session_of(&self, lease: i64) -> Option<Arc<Session>> {
        self.living_sessions().into_iter().find(|session| session.id == lease)
    }

    fn living_session(&self, ttl: Duration) -> Option<Arc<Session>> {
        self.sessions().get(&ttl).filter(|session| session.over().is_none()).cloned()
    }

    /// The session for locks of this ttl; makes one if there is none.
    ///
    /// Made on the keeper's thread: whoever gives up waiting for it finds it the next time.
    pub(crate) async fn session(
        self: &Arc<Self>,
        ttl: Duration,
    ) -> Result<Arc<Session>, BackendError> {
        if let Some(session) = self.living_session(ttl) {
            return Ok(session);
        }
        let (tell, told) = oneshot::channel();
        let home = Arc::clone(self);
        self.keeper.spawn(async move {
            let made = home.make_session(ttl).await;
            let _ = tell.send(made);
        });
        told.await.unwrap_or_else(|_| {
            Err(BackendError::new(
                Kind::Unavailable,
                "no thread is left to make a session with etcd",
            ))
        })
    }

    async fn make_session(self: &Arc<Self>, ttl: Duration) -> Result<Arc<Session>, BackendError> {
        let _first = self.making.lock().await;
        if let Some(session) = self.living_session(ttl) {
            return Ok(session);
        }
        watching::begin(self);
        let sent = SystemClock.lease_now();
        let granted = self.wire.grant_lease(ttl + SLACK).await?;
        let session = Arc::new(Session::new(granted.id, ttl, granted.ttl, sent));
        self.sessions().insert(ttl, Arc::clone(&session));
        self.keeper.spawn(beat::keep(Arc::clone(self), Arc::clone(&session)));
        Ok(session)
    }

    /// The session is over: the next lock makes another.
    pub(crate) fn forget_session(&self, session: &Session) {
        self.sessions().retain(|_, known| known.id != session.id);
    }
}
