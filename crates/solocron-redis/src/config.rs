//! Options, checked in one place before anything is sent.

use std::fmt;
use std::time::Duration;

use redis::{ProtocolVersion, RedisConnectionInfo};
use solocron::Invalid;

use crate::backend::RedisBackend;
use crate::names::Names;
use crate::route::{Route, Target};

/// Options of a [`RedisBackend`].
///
/// ```
/// use std::time::Duration;
/// use solocron_redis::RedisBackend;
///
/// let backend = RedisBackend::builder("redis://10.0.0.7:6379/2")
///     .namespace("billing")
///     .credentials("billing", "from a secret store")
///     .request_timeout(Duration::from_millis(500))
///     .build()?;
/// # Ok::<(), solocron::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisBuilder {
    url: String,
    credentials: Option<(String, String)>,
    sentinel_credentials: Option<(String, String)>,
    namespace: String,
    request_timeout: Duration,
    trusted: bool,
    evicting: bool,
    replicas: u32,
    #[cfg(feature = "tls")]
    tls: RedisTls,
}

/// Checked options.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) route: Route,
    pub(crate) login: RedisConnectionInfo,
    pub(crate) sentinel_login: Option<(String, String)>,
    /// What to call the server in a message.
    pub(crate) address: String,
    pub(crate) names: Names,
    pub(crate) request_timeout: Duration,
    pub(crate) trusted: bool,
    pub(crate) evicting: bool,
    pub(crate) replicas: u32,
    #[cfg(feature = "tls")]
    pub(crate) tls: RedisTls,
}

impl RedisBuilder {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            credentials: None,
            sentinel_credentials: None,
            namespace: "solocron".to_owned(),
            request_timeout: Duration::from_secs(1),
            trusted: false,
            evicting: false,
            replicas: 0,
            #[cfg(feature = "tls")]
            tls: RedisTls::default(),
        }
    }

    /// What the locks share their names with. Default `solocron`.
    ///
    /// Two programs with the same namespace in the same database share their locks; give each fleet its own. All keys of a
    /// namespace begin with `{namespace}:` and live in one hash slot.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The ACL user and its password, instead of those in the URL. An empty user is the default one.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// The user and the password of the sentinels, where `redis-sentinel://` is used and they ask for one. Default: none.
    #[must_use]
    pub fn sentinel_credentials(
        mut self,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.sentinel_credentials = Some((user.into(), password.into()));
        self
    }

    /// How long connecting may take, and one request. Default 1 s.
    ///
    /// Larger: a hung server is noticed later. Smaller: a slow one is taken for a hung one. The options of a lock bound its
    /// requests as well ([`LockOptions::request_timeout`](solocron::lock::LockOptions::request_timeout)).
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// Believes that this server never loses an acknowledged write, not by a restart and not by a failover (`appendfsync always`
    /// on one server that is never replaced). Default: not believed.
    ///
    /// Without it, a server process that was not seen before counts as a loss of memory: nothing is granted for the longest ttl,
    /// and at-most-once ticks due before then are skipped. With it, only a missing epoch record does.
    #[must_use]
    pub fn trusted_persistence(mut self, trusted: bool) -> Self {
        self.trusted = trusted;
        self
    }

    /// Accepts a server whose `maxmemory-policy` evicts keys. Default: refused.
    ///
    /// Such a server deletes locks when its memory is short: two may hold one, and marks are lost.
    #[must_use]
    pub fn allow_eviction(mut self, allow: bool) -> Self {
        self.evicting = allow;
        self
    }

    /// How many replicas must have a grant before it is handed out (`WAIT`). Default 0.
    ///
    /// An attempt whose grant too few replicas acknowledged within a quarter of the request timeout fails with an unknown effect: it is
    /// sent again with the same nonce, which waits again, and revoked in the end. It makes a failover lose fewer grants; it does not
    /// make Redis a consensus store. Costs a second connection, on which grants wait for each other.
    #[must_use]
    pub fn replicas(mut self, count: u32) -> Self {
        self.replicas = count;
        self
    }

    /// Certificates for `rediss://`. Default: the system's authorities, and no client certificate.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(mut self, tls: RedisTls) -> Self {
        self.tls = tls;
        self
    }

    /// Checks the options. Sends nothing: the server is connected to by the first call.
    ///
    /// # Errors
    ///
    /// [`solocron::Error::Invalid`] where the URL, the namespace or a certificate cannot be used. No message holds a password.
    pub fn build(self) -> solocron::Result<RedisBackend> {
        Ok(RedisBackend::new(self.check()?))
    }

    /// The same, and connects.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`solocron::Error::Backend`] where the server does not let us in, evicts keys, or is a
    /// replica.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(self) -> solocron::Result<RedisBackend> {
        let backend = self.build()?;
        backend.opened().await.map_err(|source| solocron::Error::Backend {
            doing: "connect to redis",
            key: None,
            source,
        })?;
        Ok(backend)
    }

    pub(crate) fn check(self) -> Result<Settings, Invalid> {
        let names = Names::of(&self.namespace)?;
        if self.request_timeout.is_zero() {
            return Err(Invalid::new(
                "request_timeout",
                "0s",
                "it must be longer than zero: leave it out for its default",
            ));
        }
        let Target { route, mut login } = Target::read(&self.url)?;
        if let Some((user, password)) = &self.credentials {
            if !user.is_empty() {
                login = login.set_username(user);
            }
            login = login.set_password(password);
        }
        if login.db() < 0 {
            return Err(Invalid::new(
                "redis database",
                login.db(),
                "databases are numbered from 0",
            ));
        }
        let settings = Settings {
            address: route.name(login.db()),
            route,
            login: login.set_lib_name("solocron", env!("CARGO_PKG_VERSION")),
            sentinel_login: self.sentinel_credentials,
            names,
            request_timeout: self.request_timeout,
            trusted: self.trusted,
            evicting: self.evicting,
            replicas: self.replicas,
            #[cfg(feature = "tls")]
            tls: self.tls,
        };
        let address = match &settings.route {
            Route::Server(address) => address,
            Route::Cluster(addresses) | Route::Sentinel(addresses, _) => &addresses[0],
        };
        settings.client(address, ProtocolVersion::RESP3).map_err(|_| {
            let why = "the certificates or the key are no PEM that fit each other: see that each begins with -----BEGIN";
            Invalid::new("redis tls", &settings.address, why)
        })?;
        Ok(settings)
    }
}

impl Settings {
    /// Replaces what nobody may read by stars: old servers repeat a command that they do not know, arguments and all.
    pub(crate) fn scrub(&self, text: String) -> String {
        let sentinel = self.sentinel_login.as_ref().map(|(_, password)| password.as_str());
        [self.login.password(), sentinel]
            .into_iter()
            .flatten()
            .filter(|password| !password.is_empty())
            .fold(text, |text, password| text.replace(password, "***"))
    }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("namespace", &self.namespace)
            .field("request_timeout", &self.request_timeout)
            .field("trusted_persistence", &self.trusted)
            .field("allow_eviction", &self.evicting)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("address", &self.address)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Certificates for `rediss://`, as PEM.
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
#[derive(Clone, Default)]
pub struct RedisTls {
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

#[cfg(feature = "tls")]
impl RedisTls {
    /// The system's authorities, no client certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these authorities, and no others.
    #[must_use]
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// Shows this certificate (with its chain) to the server, and proves it with this key.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }
}

#[cfg(feature = "tls")]
impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("authority", &self.authority.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}
