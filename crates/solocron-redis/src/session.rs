//! One connection, from the first packet to the moment it is of no more use.
//!
//! ```text
//!   TCP, TLS or unix ─► HELLO 3 AUTH ─► SELECT ─► INFO: run id, eviction, role ─► confirm the epoch ─► SUBSCRIBE ─► up
//!                         └ refused: AUTH, RESP2, and a second connection for the messages
//! ```
//!
//! A connection cannot outlive the server process that it was made to. So the run id is read once, and every script that grants
//! something is told it: no `INFO` inside a script, and still no grant from a process that was not looked at.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::Stream;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
};
use solocron::{BackendError, Kind};
use tokio::task::AbortHandle;

use crate::config::Settings;
use crate::error::{self, Sent};
use crate::link::{Link, command};
use crate::reply;
use crate::script::{self, Script};
use crate::wire::{self, Call};

/// A connection that is up.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Counts the connections of a link.
    pub(crate) number: u64,
    /// The server process at the other end; empty where it does not tell, or need not be compared.
    pub(crate) run: Arc<str>,
    main: MultiplexedConnection,
    /// Where grants wait for their replicas, and nothing else does.
    grants: Option<MultiplexedConnection>,
    _subscriber: Option<Arc<Subscriber>>,
}

/// The second connection of a server that cannot push. Ends when this is dropped.
#[derive(Debug)]
struct Subscriber(AbortHandle);

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a server says of itself.
#[derive(Debug, Default)]
struct Said {
    run: String,
    policy: Option<String>,
    replica: bool,
}

impl Settings {
    /// A client that has not connected yet.
    pub(crate) fn client(&self) -> redis::RedisResult<Client> {
        self.client_with(ProtocolVersion::RESP3)
    }

    fn client_with(&self, protocol: ProtocolVersion) -> redis::RedisResult<Client> {
        let info = self.info.clone();
        let login = info.redis_settings().clone().set_protocol(protocol);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp(self.request_timeout));
        #[cfg(feature = "tls")]
        if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            return self.tls.client(info);
        }
        Client::open(info)
    }
}

/// A peer that is gone without a word is noticed within about three request timeouts, idle or not.
fn tcp(limit: Duration) -> TcpSettings {
    let second = limit.max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(second);
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "macos",
        target_os = "ios",
        target_os = "freebsd"
    ))]
    let keepalive = keepalive.with_interval(second).with_retries(2);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let settings = settings.set_user_timeout(second * 2);
    settings
}

impl Session {
    /// Connects, looks the server over, confirms the epoch and subscribes.
    pub(crate) async fn open(link: &Arc<Link>, number: u64) -> Result<Self, BackendError> {
        let limit = link.settings().request_timeout * 2;
        match tokio::time::timeout(limit, Self::opening(link, number)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let address = &link.settings().address;
                let why = format!(
                    "failed to connect to redis {address}: no answer within {limit:?}: see the server and the network"
                );
                Err(BackendError::new(Kind::Unavailable, why))
            }
        }
    }

    async fn opening(link: &Arc<Link>, number: u64) -> Result<Self, BackendError> {
        let settings = link.settings();
        let failed = |doing: &'static str| {
            move |error: RedisError| error::failed(settings, doing, &error, Sent::No)
        };
        let mut protocol = ProtocolVersion::RESP3;
        let main = match dial(settings, protocol, Some((Arc::downgrade(link), number))).await {
            Err(error) if error::speaks_no_resp3(&error) => {
                protocol = ProtocolVersion::RESP2;
                dial(settings, protocol, None).await
            }
            other => other,
        };
        let main = main.map_err(failed("connect"))?;
        let run = Said::of(settings, &main).await?.run;
        let mut grants = None;
        if settings.replicas > 0 {
            let second = dial(settings, protocol, None).await.map_err(failed("connect"))?;
            if Said::of(settings, &second).await?.run != run {
                let why = format!(
                    "redis {} was replaced while we connected: trying again",
                    settings.address
                );
                return Err(BackendError::new(Kind::Unavailable, why));
            }
            grants = Some(second);
        }
        let run = if settings.trusted { "".into() } else { run.into() };
        let mut session = Self { number, run, main, grants, _subscriber: None };
        // Before subscribing: whoever else listens to this namespace has been here before.
        let call = wire::open(&settings.names, &session.run, link.memory().known());
        let answer =
            session.tell(&script::OPEN, &call).await.map_err(failed(script::OPEN.doing))?;
        link.learn(wire::opened(&reply::array(answer, "epoch")?)?);
        let channels = link.channels();
        if protocol == ProtocolVersion::RESP3 {
            for channel in &channels {
                session.main.subscribe(channel).await.map_err(failed("subscribe"))?;
            }
        } else {
            let subscriber = subscribe(link, number).await.map_err(failed("subscribe"))?;
            session._subscriber = Some(Arc::new(subscriber));
        }
        let call = wire::ready(&settings.names, &channels[0]);
        session.tell(&script::READY, &call).await.map_err(failed(script::READY.doing))?;
        Ok(session)
    }

    /// Sends a script whole: nobody knows yet whether the server has it.
    async fn tell(&self, script: &Script, call: &Call) -> redis::RedisResult<Value> {
        self.send(&command("EVAL", script.source(), call)).await
    }

    /// Sends one command. Server errors are errors.
    pub(crate) async fn send(&self, command: &Cmd) -> redis::RedisResult<Value> {
        let mut connection = self.main.clone();
        connection.send_packed_command(command).await?.extract_error()
    }

    /// Returns when every connection that is waited on has answered `command`, with whatever.
    pub(crate) async fn answers(&self, command: &Cmd) {
        for connection in [Some(&self.main), self.grants.as_ref()].into_iter().flatten() {
            // A broken one is told of elsewhere; what matters here is one that says nothing.
            drop(connection.clone().send_packed_command(command).await);
        }
    }

    /// Sends one command and waits until so many replicas have it, or the time is over. Answers with how many
    /// have it.
    pub(crate) async fn send_and_replicate(
        &self,
        command: &Cmd,
        replicas: u32,
        limit: Duration,
    ) -> redis::RedisResult<(Value, u32)> {
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

async fn dial(
    settings: &Settings,
    protocol: ProtocolVersion,
    pushes: Option<(Weak<Link>, u64)>,
) -> redis::RedisResult<MultiplexedConnection> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.request_timeout))
        .set_response_timeout(None); // ours are outside
    if let Some((link, number)) = pushes {
        config = config.set_push_sender(move |push: PushInfo| {
            let link = link.upgrade().ok_or(())?;
            match push.kind {
                PushKind::Disconnection => link.lost(number),
                PushKind::Message => link.heard(push.data.last()),
                _ => {}
            }
            Ok::<(), ()>(())
        });
    }
    settings.client_with(protocol)?.get_multiplexed_async_connection_with_config(&config).await
}

/// A connection of its own for messages. Its end is the end of the session.
async fn subscribe(link: &Arc<Link>, number: u64) -> redis::RedisResult<Subscriber> {
    let mut messages =
        link.settings().client_with(ProtocolVersion::RESP2)?.get_async_pubsub().await?;
    for channel in link.channels() {
        messages.subscribe(channel).await?;
    }
    let link = Arc::downgrade(link);
    let listening = tokio::spawn(async move {
        let mut messages = pin!(messages.into_on_message());
        while let Some(message) = poll_fn(|cx| messages.as_mut().poll_next(cx)).await {
            let Some(link) = link.upgrade() else { return };
            link.heard(Some(&Value::BulkString(message.get_payload_bytes().to_vec())));
        }
        if let Some(link) = link.upgrade() {
            link.lost(number);
        }
    });
    Ok(Subscriber(listening.abort_handle()))
}

impl Said {
    async fn of(
        settings: &Settings,
        connection: &MultiplexedConnection,
    ) -> Result<Self, BackendError> {
        let mut connection = connection.clone();
        let answer: Result<String, RedisError> =
            redis::cmd("INFO").query_async(&mut connection).await;
        let said = match answer {
            Ok(info) => Self::read(&info),
            Err(error)
                if error.code() == Some("NOPERM")
                    || error.to_string().contains("unknown command") =>
            {
                tracing::warn!(
                    address = %settings.address,
                    "this user may not ask redis for INFO: a restart with old data is not noticed, nor a policy that evicts locks"
                );
                return Ok(Self::default());
            }
            Err(error) => return Err(error::failed(settings, "ask for INFO", &error, Sent::No)),
        };
        if said.replica {
            let why =
                format!("redis {} is a replica: give the address of the primary", settings.address);
            return Err(BackendError::new(Kind::Unavailable, why));
        }
        match &said.policy {
            Some(policy) if policy != "noeviction" && !settings.evicting => {
                let why = format!(
                    "redis {} has maxmemory-policy {policy}, which deletes locks when its memory is short: set noeviction, or accept it with allow_eviction",
                    settings.address
                );
                Err(BackendError::new(Kind::Misconfigured, why))
            }
            _ => Ok(said),
        }
    }

    fn read(info: &str) -> Self {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        Self {
            run: field("run_id").unwrap_or_default(),
            policy: field("maxmemory_policy"),
            replica: field("role").is_some_and(|role| role == "slave" || role == "replica"),
        }
    }
}

#[cfg(feature = "tls")]
impl crate::config::RedisTls {
    fn client(&self, info: redis::ConnectionInfo) -> redis::RedisResult<Client> {
        // Read without a complaint, it would trust nobody.
        const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
        if self
            .authority
            .as_ref()
            .is_some_and(|pem| !pem.windows(BEGIN.len()).any(|window| window == BEGIN))
        {
            return Err((
                redis::ErrorKind::InvalidClientConfig,
                "the authority is no PEM certificate",
            )
                .into());
        }
        // rustls needs one provider for the process and panics without; whoever chose one before us keeps it.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client_tls = self
            .identity
            .clone()
            .map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
        Client::build_with_tls(
            info,
            redis::TlsCertificates { client_tls, root_cert: self.authority.clone() },
        )
    }
}
