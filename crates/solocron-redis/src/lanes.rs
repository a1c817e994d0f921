//! Connections for runtimes that ask much: each answers on its own runtime, which saves two hops to the keeper's thread and back with
//! each command.
//!
//! ```text
//!   keeper's thread ─── the session: wake-ups, renewals, and whoever has no lane ──► server
//!   a runtime that has sent enough ─── its lane ───────────────────────────────────► the same process of it
//! ```
//!
//! A lane is a shortcut and nothing else: it is opened beside a session, to the same server process, and ends with it. Whatever is wrong
//! with one, its runtime being blocked or gone included, sends its callers back to the session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{ConnectionAddr, ProtocolVersion};
use solocron::BackendError;
use solocron::lock::{Released, Reply, Request};
use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;

use crate::config::Settings;
use crate::dial::Said;
use crate::error::{self, Sent};
use crate::gather::Gather;
use crate::lease::RedisLease;
use crate::wire::Return;

/// A runtime that sends less than this needs no lane: many live for one call.
const ENOUGH: u32 = 32;

/// From so many on, runtimes that have no lane are forgotten.
const MANY: usize = 64;

/// When one could not be opened.
const PAUSE: Duration = Duration::from_secs(30);

/// The lanes beside one session.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Where the session itself runs.
    home: Option<Id>,
    address: ConnectionAddr,
    protocol: ProtocolVersion,
    /// The server process, where it tells.
    run: String,
    by_runtime: Mutex<HashMap<Id, State>>,
}

#[derive(Debug)]
enum State {
    /// So many calls until now.
    Counting(u32),
    Opening(Arc<Life>),
    Open(Lane, Arc<Life>),
    Refused(Instant),
    /// It drives no I/O.
    Unable,
}

/// Whether a runtime still lives: it holds a task.
#[derive(Debug)]
struct Life {
    task: Weak<()>,
    end: AbortHandle,
}

impl Life {
    fn of(runtime: &Handle) -> Arc<Self> {
        let alive = Arc::new(());
        let task = Arc::downgrade(&alive);
        let waiting = runtime.spawn(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        Arc::new(Self { task, end: waiting.abort_handle() })
    }

    fn lasts(&self) -> bool {
        self.task.strong_count() > 0
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end.abort();
    }
}

impl Lanes {
    /// Beside a session that is being opened here.
    pub(crate) fn new(
        address: ConnectionAddr,
        protocol: ProtocolVersion,
        run: String,
    ) -> Arc<Self> {
        let home = Handle::try_current().ok().map(|handle| handle.id());
        Arc::new(Self { home, address, protocol, run, by_runtime: Mutex::default() })
    }

    fn by_runtime(&self) -> MutexGuard<'_, HashMap<Id, State>> {
        // Every change is one assignment.
        self.by_runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of the current runtime, if it has one. Opens one in the background for a runtime that asks often.
    pub(crate) fn here(self: &Arc<Self>, settings: &Arc<Settings>) -> Option<Lane> {
        // A server that does not tell which process it is cannot be told from another one. What waits for replicas has a connection of
        // its own.
        if self.run.is_empty() || settings.replicas > 0 {
            return None;
        }
        let runtime = Handle::try_current().ok()?;
        let id = runtime.id();
        if Some(id) == self.home {
            return None;
        }
        let mut lanes = self.by_runtime();
        if !lanes.contains_key(&id) {
            let many = lanes.len() >= MANY;
            lanes.retain(|_, state| match state {
                State::Counting(_) => !many,
                // A handle to a runtime that has ended keeps its file descriptors open.
                State::Opening(life) | State::Open(_, life) => life.lasts(),
                State::Refused(_) | State::Unable => true,
            });
        }
        let state = lanes.entry(id).or_insert(State::Counting(0));
        match state {
            State::Open(lane, life) if life.lasts() => return Some(lane.clone()),
            State::Opening(life) if life.lasts() => {}
            // Another runtime with the id of one that is gone.
            State::Open(..) | State::Opening(_) => *state = State::Counting(0),
            State::Counting(calls) if *calls < ENOUGH => *calls += 1,
            State::Refused(since) if since.elapsed() < PAUSE => {}
            State::Unable => {}
            State::Counting(_) | State::Refused(_) => {
                let life = Life::of(&runtime);
                *state = State::Opening(Arc::clone(&life));
                runtime.spawn(Arc::clone(self).open(id, life, Arc::clone(settings)));
            }
        }
        None
    }

    async fn open(self: Arc<Self>, id: Id, life: Arc<Life>, settings: Arc<Settings>) {
        // In a task of its own: where the runtime drives no I/O, tokio says so with a panic.
        let lanes = Arc::clone(&self);
        let connecting = tokio::spawn(async move { lanes.connect(&settings).await });
        let state = match connecting.await {
            Err(panicked) => {
                tracing::debug!(%panicked, "no connection to redis for a runtime of its own");
                State::Unable
            }
            Ok(Ok(connection)) => {
                let (acquires, releases) =
                    (Gather::new(Handle::current()), Gather::new(Handle::current()));
                State::Open(Lane { id, connection, acquires, releases }, life)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no connection to redis for a runtime of its own");
                State::Refused(Instant::now())
            }
        };
        self.by_runtime().insert(id, state);
    }

    async fn connect(&self, settings: &Settings) -> Result<MultiplexedConnection, BackendError> {
        let failed = |error| error::failed(settings, "connect", &error, Sent::No);
        let limit = settings.request_timeout * 2;
        let connecting = async {
            let dialed = settings.dial(&self.address, self.protocol, None).await;
            let connection = dialed.map_err(failed)?;
            // Another process would be another memory: that is for a new session to find out.
            if Said::of(settings, &connection).await?.run != self.run {
                let why = format!("redis {} is another process by now", settings.address);
                return Err(BackendError::new(solocron::Kind::Unavailable, why));
            }
            Ok(connection)
        };
        let elapsed = |_| BackendError::timeout(limit);
        tokio::time::timeout(limit, connecting).await.map_err(elapsed)?
    }

    /// This one is of no more use; the next one is tried a while later.
    pub(crate) fn close(&self, lane: &Lane) {
        let mut lanes = self.by_runtime();
        if let Some(state @ State::Open(..)) = lanes.get_mut(&lane.id)
            && let State::Open(open, _) = state
            && Arc::ptr_eq(&open.acquires, &lane.acquires)
        {
            *state = State::Refused(Instant::now());
        }
    }
}

/// The connection of one runtime.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    id: Id,
    pub(crate) connection: MultiplexedConnection,
    pub(crate) acquires: Arc<Acquires>,
    pub(crate) releases: Arc<Releases>,
}

pub(crate) type Acquires = Gather<Request, Result<Reply<RedisLease>, BackendError>>;
pub(crate) type Releases = Gather<Return, Result<Released, BackendError>>;
