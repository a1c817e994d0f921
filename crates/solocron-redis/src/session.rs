//! One connection, from the first packet to the moment it is of no more use.
//!
//! ```text
//!   TCP, TLS or unix ─► HELLO 3 AUTH ─► SELECT ─► INFO: run id, eviction, role ─► confirm the epoch ─► SUBSCRIBE ─► try waking ─► up
//!          ▲              └ refused: AUTH, RESP2, and a second connection for the messages │
//!          └────────────────────────────── MOVED (cluster) ◄────────────────────────────────┘
//! ```
//!
//! A connection cannot outlive the server process that it was made to. So the run id is read once, and every script that grants
//! something is told it: no `INFO` inside a script, and still no grant from a process that was not looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionAddr, ProtocolVersion, RedisError, RedisResult, Value};
use solocron::{BackendError, Kind};

use crate::config::Settings;
use crate::dial::{Said, Subscriber};
use crate::error::{self, Sent};
use crate::lanes::{Lane, Lanes};
use crate::link::{Link, command};
use crate::record::Bytes;
use crate::route::{self, Route};
use crate::script::{self, Script};
use crate::wire::{self, Call};

/// How often a cluster may send us on.
const HOPS: usize = 5;

/// A connection that is up.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Counts the connections of a link.
    pub(crate) number: u64,
    /// The server process at the other end; empty where it does not tell, or need not be compared.
    pub(crate) run: Arc<str>,
    main: MultiplexedConnection,
    /// Shortcuts to the same server process, and the one that is taken here.
    lanes: Arc<Lanes>,
    pub(crate) lane: Option<Lane>,
    /// The scripts that its server knows.
    scripts: Arc<AtomicU16>,
    /// Where grants wait for their replicas, and nothing else does.
    grants: Option<MultiplexedConnection>,
    /// Kept for as long as the session is.
    _subscriber: Option<Arc<Subscriber>>,
}

/// Why there is no session.
struct Stop {
    error: BackendError,
    /// Another server is the right one.
    moved: Option<ConnectionAddr>,
}

impl From<BackendError> for Stop {
    fn from(error: BackendError) -> Self {
        Self { error, moved: None }
    }
}

impl Session {
    /// Finds the server, connects, looks it over, confirms the epoch and subscribes.
    pub(crate) async fn open(link: &Arc<Link>, number: u64) -> Result<Self, BackendError> {
        let settings = link.settings();
        match &settings.route {
            Route::Server(address) => {
                Self::at(link, number, address).await.map_err(|stop| stop.error)
            }
            Route::Sentinel(sentinels, name) => {
                let address = settings.primary(sentinels, name).await?;
                Self::at(link, number, &address).await.map_err(|stop| stop.error)
            }
            Route::Cluster(nodes) => {
                let mut failure = None;
                for node in nodes {
                    match Self::following(link, number, node).await {
                        Err(error) => failure = Some(error),
                        up => return up,
                    }
                }
                Err(failure.unwrap_or_else(|| {
                    BackendError::new(Kind::Misconfigured, "a cluster without nodes: name one")
                }))
            }
        }
    }

    /// Follows a cluster from one node to the one that has our slot.
    async fn following(
        link: &Arc<Link>,
        number: u64,
        node: &ConnectionAddr,
    ) -> Result<Self, BackendError> {
        let mut next = node.clone();
        for _ in 0..HOPS {
            match Self::at(link, number, &next).await {
                Err(Stop { moved: Some(node), .. }) => next = node,
                outcome => return outcome.map_err(|stop| stop.error),
            }
        }
        let why = format!(
            "redis {} sent us round {HOPS} nodes: wait until its slots are settled",
            link.settings().address
        );
        Err(BackendError::new(Kind::Unavailable, why))
    }

    async fn at(link: &Arc<Link>, number: u64, address: &ConnectionAddr) -> Result<Self, Stop> {
        let limit = link.settings().request_timeout * 2;
        match tokio::time::timeout(limit, Self::opening(link, number, address)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let address = &link.settings().address;
                let why = format!(
                    "failed to connect to redis {address}: no answer within {limit:?}: see the server and the network"
                );
                Err(BackendError::new(Kind::Unavailable, why).into())
            }
        }
    }

    async fn opening(
        link: &Arc<Link>,
        number: u64,
        address: &ConnectionAddr,
    ) -> Result<Self, Stop> {
        let settings = link.settings();
        let failed = |doing: &'static str| {
            move |error: RedisError| error::failed(settings, doing, &error, Sent::No)
        };
        let mut protocol = ProtocolVersion::RESP3;
        let main =
            match settings.dial(address, protocol, Some((Arc::downgrade(link), number))).await {
                Err(error) if error::speaks_no_resp3(&error) => {
                    protocol = ProtocolVersion::RESP2;
                    settings.dial(address, protocol, None).await
                }
                other => other,
            };
        let main = main.map_err(failed("connect"))?;
        let run = Said::of(settings, &main).await?.run;
        let mut grants = None;
        if settings.replicas > 0 {
            let second = settings.dial(address, protocol, None).await.map_err(failed("connect"))?;
            if Said::of(settings, &second).await?.run != run {
                let why = format!(
                    "redis {} was replaced while we connected: trying again",
                    settings.address
                );
                return Err(BackendError::new(Kind::Unavailable, why).into());
            }
            grants = Some(second);
        }
        let lanes = Lanes::new(address.clone(), protocol, run.clone());
        let run = if settings.trusted { "".into() } else { run.into() };
        let scripts = Arc::default();
        let mut session =
            Self { number, run, main, lanes, lane: None, scripts, grants, _subscriber: None };
        // Before subscribing: whoever else listens to this namespace has been here before.
        let call = wire::open(&settings.names, &session.run, &link.memory().known(&session.run));
        let answer = session.tell(&script::OPEN, &call).await.map_err(|error| Stop {
            moved: error.redirect_node().and_then(|(to, _)| route::moved(address, to)),
            error: failed(script::OPEN.doing)(error),
        })?;
        link.learn_from(&mut Bytes::of(&answer, "epoch").map_err(BackendError::from)?)?;
        let channels = link.channels();
        if protocol == ProtocolVersion::RESP3 {
            for channel in &channels {
                session.main.subscribe(channel).await.map_err(failed("subscribe"))?;
            }
        } else {
            let subscriber =
                Subscriber::start(link, number, address).await.map_err(failed("subscribe"))?;
            session._subscriber = Some(Arc::new(subscriber));
        }
        let call = wire::ready(&settings.names, &channels[0]);
        session.tell(&script::READY, &call).await.map_err(failed(script::READY.doing))?;
        Ok(session)
    }

    /// Sends a script whole: nobody knows yet whether the server has it.
    async fn tell(&self, script: &Script, call: &Call) -> RedisResult<Value> {
        self.send(&command("EVAL", script.source(), call)).await
    }

    /// Whether the server has been seen to know this script.
    pub(crate) fn knows(&self, script: &Script) -> bool {
        self.scripts.load(Ordering::Relaxed) & script.bit != 0
    }

    /// The server knows it now, or does not any more.
    pub(crate) fn told(&self, script: &Script, knows: bool) {
        if knows && !self.knows(script) {
            self.scripts.fetch_or(script.bit, Ordering::Relaxed);
        } else if !knows {
            self.scripts.fetch_and(!script.bit, Ordering::Relaxed);
        }
    }

    /// The same session, by way of the current runtime's own connection where there is one.
    pub(crate) fn by_lane(&self, settings: &Arc<Settings>) -> Self {
        Self { lane: self.lanes.here(settings), ..self.clone() }
    }

    /// The connection that this one was told to use broke, or says nothing. True where that was a shortcut: there is another one.
    pub(crate) fn leave_lane(&self) -> bool {
        let lane = self.lane.as_ref();
        lane.inspect(|lane| self.lanes.close(lane)).is_some()
    }

    /// Sends one command. Server errors are errors.
    pub(crate) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let mut connection = self.lane.as_ref().map_or(&self.main, |lane| &lane.connection).clone();
        connection.send_packed_command(command).await?.extract_error()
    }

    /// Returns when every connection of its own that is waited on has answered `command`, with whatever.
    pub(crate) async fn answers(&self, command: &Cmd) {
        for connection in [Some(&self.main), self.grants.as_ref()].into_iter().flatten() {
            // A broken one is told of elsewhere; what matters here is one that says nothing.
            drop(connection.clone().send_packed_command(command).await);
        }
    }

    /// Returns when the shortcut that is taken here has answered, if any.
    pub(crate) async fn lane_answers(&self, command: &Cmd) {
        if let Some(Lane { connection, .. }) = &self.lane {
            drop(connection.clone().send_packed_command(command).await);
        }
    }

    /// Sends one command and waits until so many replicas have it, or the time is over. Answers with how many have it.
    pub(crate) async fn send_and_replicate(
        &self,
        command: &Cmd,
        replicas: u32,
        limit: Duration,
    ) -> RedisResult<(Value, u32)> {
        if replicas == 0 {
            return Ok((self.send(command).await?, 0));
        }
        let mut connection = self.grants.as_ref().unwrap_or(&self.main).clone();
        let mut both = redis::pipe();
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        both.add_command(command.clone()).cmd("WAIT").arg(replicas).arg(limit);
        let mut answers = connection.send_packed_commands(&both, 0, 2).await?.into_iter();
        let mut next = || answers.next().unwrap_or_default().extract_error();
        let answer = next()?;
        // The script was carried out, whatever becomes of the wait: a primary that is demoted meanwhile breaks it off.
        let have = match next() {
            Ok(Value::Int(have)) => u32::try_from(have).unwrap_or(0),
            Ok(_) => 0,
            Err(error) => {
                tracing::warn!(%error, "redis does not wait for replicas: a grant is not handed out");
                0
            }
        };
        Ok((answer, have))
    }
}
