//! Connections: their settings, and what the server at the other end says of itself.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::Stream;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, RedisError, RedisResult, Value,
};
use solocron::{BackendError, Kind};
use tokio::task::AbortHandle;

use crate::config::Settings;
use crate::error::{self, Sent};
use crate::link::Link;
use crate::route::{self, Route};

impl Settings {
    /// A client of the server at `address` that has not connected yet.
    pub(crate) fn client(
        &self,
        address: &ConnectionAddr,
        protocol: ProtocolVersion,
    ) -> RedisResult<Client> {
        self.client_as(address, self.login.clone().set_protocol(protocol))
    }

    fn client_as(
        &self,
        address: &ConnectionAddr,
        login: RedisConnectionInfo,
    ) -> RedisResult<Client> {
        let info = address.clone().into_connection_info()?;
        let info = info.set_redis_settings(login).set_tcp_settings(tcp(self.request_timeout));
        #[cfg(feature = "tls")]
        if matches!(address, ConnectionAddr::TcpTls { .. }) {
            return self.tls.client(info);
        }
        Client::open(info)
    }

    /// Connects to `address`. `pushes`: who hears messages, and of the end of the connection.
    pub(crate) async fn dial(
        &self,
        address: &ConnectionAddr,
        protocol: ProtocolVersion,
        pushes: Option<(Weak<Link>, u64)>,
    ) -> RedisResult<MultiplexedConnection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.request_timeout))
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
        self.client(address, protocol)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Asks sentinels, one after the other, where the primary is.
    pub(crate) async fn primary(
        &self,
        sentinels: &[ConnectionAddr],
        name: &str,
    ) -> Result<ConnectionAddr, BackendError> {
        let mut unknown = None;
        for sentinel in sentinels {
            match self.ask(sentinel, name).await {
                Ok(Some((host, port))) => return Ok(route::beside(sentinel, &host, port)),
                Ok(None) => unknown = unknown.or(Some(Ok(sentinel))),
                Err(error) => unknown = Some(Err(error)),
            }
        }
        Err(match unknown {
            Some(Err(error)) => {
                error::failed(self, "ask sentinels for the primary", &error, Sent::No)
            }
            _ => BackendError::new(
                Kind::Misconfigured,
                format!(
                    "redis sentinels {} watch no primary {name:?}: see SENTINEL MASTERS",
                    self.address
                ),
            ),
        })
    }

    async fn ask(
        &self,
        sentinel: &ConnectionAddr,
        name: &str,
    ) -> RedisResult<Option<(String, u16)>> {
        let login = match &self.sentinel_login {
            Some((user, password)) if user.is_empty() => {
                RedisConnectionInfo::default().set_password(password)
            }
            Some((user, password)) => {
                RedisConnectionInfo::default().set_username(user).set_password(password)
            }
            None => RedisConnectionInfo::default(),
        };
        let limit = Some(self.request_timeout);
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
        let client = self.client_as(sentinel, login)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(name)
            .query_async(&mut connection)
            .await
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

/// The second connection of a server that cannot push. Ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Subscriber(AbortHandle);

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Subscriber {
    /// A connection of its own for messages. Its end is the end of the session.
    pub(crate) async fn start(
        link: &Arc<Link>,
        number: u64,
        address: &ConnectionAddr,
    ) -> RedisResult<Self> {
        let mut messages =
            link.settings().client(address, ProtocolVersion::RESP2)?.get_async_pubsub().await?;
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
        Ok(Self(listening.abort_handle()))
    }
}

/// What a server says of itself.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The process; empty where it does not tell.
    pub(crate) run: String,
    policy: Option<String>,
    replica: bool,
}

impl Said {
    /// Asks, and refuses a server that cannot keep locks.
    pub(crate) async fn of(
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
        // A replica in a cluster names its primary when it is asked for a key.
        if said.replica && !matches!(settings.route, Route::Cluster(_)) {
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
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(|value| value.trim().to_owned())
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
    fn client(&self, info: redis::ConnectionInfo) -> RedisResult<Client> {
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
