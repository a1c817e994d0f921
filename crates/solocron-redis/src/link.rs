//! The way to the server: one connection that is made again for as long as the backend lives.
//!
//! Everything that waits on a socket runs on the keeper's thread; a caller only hands a command over and awaits its answer. So
//! a runtime that is blocked, or gone, stops no renewal of anybody else.
//!
//! ```text
//!   fresh ──► connecting ──► up ──► lost (told by the server, or by a PING that nobody answered) ──► connecting ─ ...
//!                 └────────► down: transient ── after 20 ms to 1 s, or when somebody calls ──► connecting
//!                              └── a person must act ── after 1 s to 30 s, when somebody calls ──► connecting
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join;
use redis::{Cmd, Value};
use solocron::jiff::Timestamp;
use solocron::lock::{Keeper, Nonce};
use solocron::{BackendError, Effect, Kind};
use tokio::sync::{Notify, watch};

use crate::config::Settings;
use crate::error::{self, Sent};
use crate::memory::Memory;
use crate::record::Bytes;
use crate::reply::{self, Odd};
use crate::script::Script;
use crate::session::Session;
use crate::turns;
use crate::waiters::{self, Waiters};
use crate::wire::{self, Call, Message};

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    settings: Arc<Settings>,
    memory: Memory,
    waiters: Waiters,
    state: Mutex<State>,
    /// How the last attempt to connect has ended.
    attempts: watch::Sender<Option<BackendError>>,
    bell: Arc<Notify>,
    doubting: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// The process that all this belongs to: a forked child has a name and a connection of its own.
    pid: u32,
    node: String,
    phase: Phase,
    sessions: u64,
    /// The last connection that was lost, perhaps before it was up.
    lost: u64,
    supervised: bool,
}

impl State {
    fn new(sessions: u64) -> Self {
        Self {
            pid: std::process::id(),
            node: format!("{:032x}", Nonce::random().as_u128()),
            phase: Phase::Connecting,
            sessions,
            lost: 0,
            supervised: false,
        }
    }
}

#[derive(Debug)]
enum Phase {
    Connecting,
    Up(Box<Session>),
    Down { error: BackendError, not_before: Instant },
}

/// How long to leave a server alone.
struct Patience {
    transient: Duration,
    lasting: Duration,
}

impl Link {
    const FIRST: Patience =
        Patience { transient: Duration::from_millis(20), lasting: Duration::from_secs(1) };
    const LAST: Patience =
        Patience { transient: Duration::from_secs(1), lasting: Duration::from_secs(30) };

    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings: Arc::new(settings),
            memory: Memory::default(),
            waiters: Waiters::default(),
            state: Mutex::new(State::new(0)),
            attempts: watch::Sender::new(None),
            bell: Arc::default(),
            doubting: AtomicBool::new(false),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// The name of this node's channel, without what all channels begin with.
    pub(crate) fn node(&self) -> String {
        self.state().node.clone()
    }

    /// What this node hears: what is for it alone, and (as a sign of life) what is for all.
    pub(crate) fn channels(&self) -> [String; 2] {
        [
            format!("{}{}", self.settings.names.channels(), self.node()),
            self.settings.names.everybody(),
        ]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pid != std::process::id() {
            let child = State::new(state.sessions);
            // The parent's connection is not ours to close, and its runtime is not in here.
            std::mem::forget(std::mem::replace(&mut *state, child));
        }
        state
    }

    /// The connection, made now if there is none. One attempt for all who ask at the same time.
    pub(crate) async fn session(self: &Arc<Self>) -> Result<Session, BackendError> {
        self.session_within(self.settings.request_timeout).await
    }

    /// The same, with more patience for an attempt to connect.
    pub(crate) async fn session_within(
        self: &Arc<Self>,
        limit: Duration,
    ) -> Result<Session, BackendError> {
        let mut attempts = self.attempts.subscribe();
        let supervise = {
            let mut state = self.state();
            match &state.phase {
                Phase::Up(session) => return Ok(session.by_lane(&self.settings)),
                Phase::Down { error, not_before } if Instant::now() < *not_before => {
                    return Err(error.clone());
                }
                Phase::Down { .. } => self.bell.notify_one(),
                Phase::Connecting => {}
            }
            !std::mem::replace(&mut state.supervised, true)
        };
        if supervise {
            self.supervise()?;
        }
        let ended = tokio::time::timeout(limit, attempts.changed()).await;
        if let Phase::Up(session) = &self.state().phase {
            return Ok(session.by_lane(&self.settings));
        }
        let failure = if ended.is_ok() { attempts.borrow().clone() } else { None };
        Err(failure.unwrap_or_else(|| {
            let why = format!(
                "redis {} is not connected after {limit:?}: see the server and the network",
                self.settings.address
            );
            BackendError::new(Kind::Unavailable, why)
        }))
    }

    /// Keeps the connection up from now on, for as long as anybody has this link.
    fn supervise(self: &Arc<Self>) -> Result<(), BackendError> {
        let keeper = keeper()?;
        let (link, bell) = (Arc::downgrade(self), Arc::clone(&self.bell));
        keeper.spawn(async move {
            let mut pause = Self::FIRST;
            loop {
                let Some(link) = link.upgrade() else { return };
                let wait = match link.next_session() {
                    Some(number) => {
                        let outcome = Session::open(&link, number).await;
                        link.settle(outcome, &mut pause)
                    }
                    None => None,
                };
                drop(link);
                match wait {
                    Some(wait) => drop(tokio::time::timeout(wait, bell.notified()).await),
                    None => bell.notified().await,
                }
            }
        });
        Ok(())
    }

    /// The number of a connection to be made; `None` where one is up.
    fn next_session(&self) -> Option<u64> {
        let mut state = self.state();
        match state.phase {
            Phase::Up(_) => return None,
            Phase::Down { not_before, .. } if Instant::now() < not_before => return None,
            Phase::Down { .. } | Phase::Connecting => {}
        }
        state.sessions += 1;
        state.phase = Phase::Connecting;
        Some(state.sessions)
    }

    /// An attempt to connect has ended. How long to wait for the next one; `None`: until somebody asks.
    fn settle(
        &self,
        outcome: Result<Session, BackendError>,
        pause: &mut Patience,
    ) -> Option<Duration> {
        let mut wait = None;
        let failure = outcome.as_ref().err().cloned();
        let phase = match outcome {
            Ok(session) if session.number == self.state().lost => {
                wait = Some(Duration::ZERO);
                Phase::Connecting
            }
            Ok(session) => {
                *pause = Self::FIRST;
                Phase::Up(Box::new(session))
            }
            Err(error) => {
                let not_before;
                if error.kind().is_transient() {
                    wait = Some(pause.transient);
                    not_before = Instant::now();
                    pause.transient = (pause.transient * 2).min(Self::LAST.transient);
                    tracing::debug!(%error, "no connection to redis; trying again");
                } else {
                    not_before = Instant::now() + pause.lasting;
                    pause.lasting = (pause.lasting * 2).min(Self::LAST.lasting);
                    tracing::warn!(%error, "no connection to redis; a person must act");
                }
                Phase::Down { error, not_before }
            }
        };
        if matches!(&phase, Phase::Up(session) if session.number > 1) {
            // Whatever was published meanwhile is lost, and so may be our places in line. Before anybody gets in line again.
            self.waiters.all_woken();
        }
        self.state().phase = phase;
        self.attempts.send_replace(failure);
        wait
    }

    /// This connection is of no more use.
    pub(crate) fn lost(&self, number: u64) {
        {
            let mut state = self.state();
            state.lost = state.lost.max(number);
            match &state.phase {
                Phase::Up(session) if session.number == number => state.phase = Phase::Connecting,
                _ => return,
            }
        }
        tracing::debug!(address = %self.settings.address, "the connection to redis is lost; connecting again");
        self.bell.notify_one();
    }

    /// A message for this node.
    pub(crate) fn heard(self: &Arc<Self>, payload: Option<&Value>) {
        match reply::bytes(payload, "message").and_then(Message::read) {
            // The trial of a new connection.
            Ok(Message::Free("")) => {}
            Ok(Message::Free(slug)) => {
                if !self.waiters.woken(slug) {
                    waiters::leave(self, slug, "", true);
                }
            }
            Ok(Message::FreeFor(slug, nonce)) => {
                if !self.waiters.woken_as(nonce) {
                    waiters::leave(self, slug, "", true);
                }
            }
            Ok(Message::Granted(nonce, at, record)) => {
                if !self.waiters.granted(nonce, at, record) {
                    turns::refuse(self, nonce, record);
                }
            }
            Err(Odd(part)) => tracing::warn!(
                address = %self.settings.address,
                "a {part} from redis cannot be read: see that every program of this namespace runs one release"
            ),
        }
    }

    /// What we know of the store's memory, as it should stand on the server that we are connected to; nothing where we are not.
    pub(crate) fn known(&self) -> Arc<[u8]> {
        match &self.state().phase {
            Phase::Up(session) => self.memory.known(&session.run),
            _ => Arc::default(),
        }
    }

    /// The beginning of an answer: the store's time, and its epoch. From now on this is the one that we know.
    pub(crate) fn learn_from(&self, answer: &mut Bytes<'_>) -> Result<Timestamp, BackendError> {
        let (now, epoch) = wire::opened(answer)?;
        if self.memory.learn(epoch)? {
            tracing::warn!(
                address = %self.settings.address,
                namespace = self.settings.names.namespace(),
                "redis may have lost what it knew: nothing is granted for the longest ttl, and at-most-once ticks of before are skipped"
            );
        }
        Ok(now)
    }

    /// Sends a script on this connection, within the request timeout.
    pub(crate) async fn send(
        self: &Arc<Self>,
        session: &Session,
        script: &Script,
        call: &Call,
    ) -> Result<Value, BackendError> {
        Ok(self.exchange(session, script, call, 0).await?.0)
    }

    /// The same, for a script that grants something: also answers with how many replicas have it, at most as many as were asked for.
    pub(crate) async fn grant(
        self: &Arc<Self>,
        session: &Session,
        script: &Script,
        call: &Call,
    ) -> Result<(Value, u32), BackendError> {
        self.exchange(session, script, call, self.settings.replicas).await
    }

    /// Sends a plain command that only reads.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        session: &Session,
        doing: &str,
        command: &Cmd,
    ) -> Result<Value, BackendError> {
        self.within(session, doing, session.send(command)).await
    }

    async fn exchange(
        self: &Arc<Self>,
        session: &Session,
        script: &Script,
        call: &Call,
        replicas: u32,
    ) -> Result<(Value, u32), BackendError> {
        // Waiting for replicas ends well before the request does, also where the script must be sent twice, so that there is an answer.
        let limit = self.settings.request_timeout / 4;
        let sending = async {
            let mut answer = None;
            if session.knows(script) {
                let short = command("EVALSHA", script.hash(), call);
                answer = match session.send_and_replicate(&short, replicas, limit).await {
                    Err(error) if error.code() == Some("NOSCRIPT") => None,
                    other => Some(other),
                };
            }
            let answer = match answer {
                Some(answer) => answer,
                None => {
                    let whole = command("EVAL", script.source(), call);
                    session.send_and_replicate(&whole, replicas, limit).await
                }
            };
            session.told(script, answer.is_ok());
            answer
        };
        self.within(session, script.doing, sending).await
    }

    async fn within<T>(
        self: &Arc<Self>,
        session: &Session,
        doing: &str,
        sending: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, BackendError> {
        let limit = self.settings.request_timeout;
        let mut doubt = Doubt { link: self, session, answered: false };
        let answer = tokio::time::timeout(limit, sending).await;
        doubt.answered = answer.is_ok();
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if error::is_elsewhere(&error)
                    || error.is_unrecoverable_error() && !session.leave_lane()
                {
                    self.lost(session.number);
                }
                Err(error::failed(&self.settings, doing, &error, Sent::Yes))
            }
            Err(_) => {
                let why = format!(
                    "failed to {} at redis {}: no answer within {limit:?}",
                    doing, self.settings.address
                );
                Err(BackendError::new(Kind::Timeout, why).effect_unknown())
            }
        }
    }

    /// Sends a script that may be carried out twice as well as once: again on a new connection, if this one broke.
    pub(crate) async fn repeat(
        self: &Arc<Self>,
        script: &Script,
        call: &Call,
    ) -> Result<Value, BackendError> {
        let session = self.session().await?;
        self.repeat_on(&session, script, call).await
    }

    /// The same, on this connection first.
    pub(crate) async fn repeat_on(
        self: &Arc<Self>,
        session: &Session,
        script: &Script,
        call: &Call,
    ) -> Result<Value, BackendError> {
        match self.send(session, script, call).await {
            Err(error)
                if error.effect() == Effect::Unknown && error.kind() == Kind::Unavailable =>
            {
                let session = self.session().await?;
                self.send(&session, script, call).await
            }
            other => other,
        }
    }

    /// Asks whether the other end still lives, and gives the connection up if nobody answers.
    fn doubt(self: &Arc<Self>, session: &Session) {
        if self.doubting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (link, session) = (Arc::clone(self), session.clone());
        let asking = async move {
            let ping = redis::cmd("PING");
            let limit = link.settings.request_timeout;
            let own = async {
                if tokio::time::timeout(limit, session.answers(&ping)).await.is_err() {
                    link.lost(session.number);
                }
            };
            let lane = async {
                // Its runtime may be blocked, which is no reason to disturb the others.
                if tokio::time::timeout(limit, session.lane_answers(&ping)).await.is_err() {
                    session.leave_lane();
                }
            };
            join(own, lane).await;
            link.doubting.store(false, Ordering::Release);
        };
        match keeper() {
            Ok(keeper) => keeper.spawn(asking),
            Err(_) => self.doubting.store(false, Ordering::Release),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The supervisor finds it gone.
        self.bell.notify_one();
    }
}

/// A request that has no answer yet. If it never gets one, dropped or too late, the connection is put to the test.
struct Doubt<'a> {
    link: &'a Arc<Link>,
    session: &'a Session,
    answered: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.link.doubt(self.session);
        }
    }
}

/// A script call as a command.
pub(crate) fn command(verb: &str, code: &str, call: &Call) -> Cmd {
    let mut command = redis::cmd(verb);
    command.arg(code).arg(call.keys.len());
    for key in &call.keys {
        command.arg(key);
    }
    for argument in &call.arguments {
        command.arg(argument);
    }
    command
}

/// The thread that outlives the caller's runtime.
pub(crate) fn keeper() -> Result<Keeper, BackendError> {
    Keeper::thread().map_err(|error| BackendError::new(Kind::Unavailable, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RedisBackend;

    /// A fork copies the memory and no thread. There is no other way to one without `unsafe` than to say that the process was another.
    #[test]
    fn a_forked_child_has_a_name_and_a_connection_of_its_own() {
        let link = Link::new(RedisBackend::builder("redis://127.0.0.1:1").check().unwrap());
        let (parent, again) = (link.node(), link.node());
        assert_eq!(parent, again);
        {
            let mut state = link.state();
            state.pid = state.pid.wrapping_add(1);
            state.sessions = 7;
            state.supervised = true;
            let error = BackendError::new(Kind::Unavailable, "the parent's");
            state.phase = Phase::Down { error, not_before: Instant::now() };
        }
        assert_ne!(link.node(), parent, "wake-ups of the parent are not for the child");
        let state = link.state();
        assert!(matches!(state.phase, Phase::Connecting) && !state.supervised);
        assert_eq!((state.pid, state.sessions), (std::process::id(), 7));
    }
}
