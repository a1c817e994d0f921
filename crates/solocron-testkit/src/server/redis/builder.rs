//! How a `redis-server` is set up.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use super::{IN_USE, RedisServer, program, socket};
use crate::server::port::Port;
use crate::server::process::Process;
use crate::server::scratch::scratch;
#[cfg(feature = "tls")]
use crate::server::tls;

/// A [`RedisServer`] to be. Everything is off unless it is named here.
#[derive(Debug, Clone, Default)]
pub struct RedisBuilder {
    pub(super) password: Option<String>,
    options: Vec<(String, Vec<String>)>,
    by_socket: bool,
    master: Option<SocketAddr>,
    cluster: bool,
    #[cfg(feature = "tls")]
    tls: bool,
    #[cfg(feature = "tls")]
    client_certificates: bool,
}

impl RedisBuilder {
    /// Clients must give this password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// One more user, with rules as in `ACL SETUSER`: `"~app:* +get +set"`.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, rules: &str) -> Self {
        let mut words = vec![name.to_owned(), "on".to_owned(), format!(">{password}")];
        words.extend(rules.split_whitespace().map(str::to_owned));
        self.options.push(("user".to_owned(), words));
        self
    }

    /// TCP only with TLS, by a certificate for `localhost` and `127.0.0.1` of a [`ca_file`](RedisServer::ca_file) of its own.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// As [`tls`](Self::tls), and clients must show a [certificate](RedisServer::certificate_file) as well.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self.tls()
    }

    /// [`url`](RedisServer::url) leads to the unix socket.
    #[must_use]
    pub fn unix_socket(mut self) -> Self {
        self.by_socket = true;
        self
    }

    /// Every write is on disk before it is answered, so that a restart or a kill forgets nothing.
    #[must_use]
    pub fn append_only(self) -> Self {
        self.set("appendonly", "yes").set("appendfsync", "always")
    }

    /// A replica of this server, which must be without TLS. It is in step with it when [`start`](Self::start) returns.
    #[must_use]
    pub fn replica_of(mut self, master: &RedisServer) -> Self {
        if let Some(password) = &master.setup.password {
            self = self.set("masterauth", password);
        }
        self.replica_at(master.address())
    }

    /// A replica of what listens at `master`, which may be a [`Proxy`](crate::server::Proxy) in front of it.
    #[must_use]
    pub fn replica_at(mut self, master: SocketAddr) -> Self {
        self.master = Some(master);
        self
    }

    /// A node of a cluster, which knows no others yet.
    pub(super) fn of_cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// Any option of `redis.conf`. The last one of a name counts.
    #[must_use]
    pub fn set(mut self, option: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((option.into(), vec![value.into()]));
        self
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If there is no `redis-server`, or it does not answer; with its log.
    #[must_use]
    pub fn start(self) -> RedisServer {
        const TRIES: usize = 5;
        for left in (0..TRIES).rev() {
            let (dir, port) = (scratch(), Port::claim());
            let bus = self.cluster.then(Port::claim);
            #[cfg(feature = "tls")]
            if self.tls {
                tls::issue(dir.path());
            }
            let process = Mutex::new(self.spawn(&port, bus.as_ref(), dir.path()));
            let server = RedisServer { process, dir, port, bus, setup: self.clone() };
            match server.ready() {
                Ok(()) => {
                    if self.master.is_some() {
                        server.await_lines(&["INFO", "replication"], &["master_link_status:up"]);
                    }
                    return server;
                }
                Err(why) if why.contains(IN_USE) && left > 0 => {}
                Err(why) => server.fail(&why),
            }
        }
        unreachable!("the last try returns or panics")
    }

    pub(super) fn spawn(&self, port: &Port, bus: Option<&Port>, dir: &Path) -> Process {
        let mut arguments = Vec::new();
        let mut set = |option: &str, values: &[&str]| {
            arguments.push(format!("--{option}"));
            arguments.extend(values.iter().map(|&value| value.to_owned()));
        };
        let number = port.number().to_string();
        set("bind", &["127.0.0.1"]);
        set("port", &[if self.has_tls() { "0" } else { &number }]);
        set("dir", &[&dir.display().to_string()]);
        set("unixsocket", &[&socket(dir).display().to_string()]);
        set("save", &[""]);
        set("repl-diskless-sync-delay", &["0"]); // or each replica waits 5 s for others that want the same copy
        #[cfg(feature = "tls")]
        if self.tls {
            set("tls-port", &[&number]);
            set("tls-ca-cert-file", &[&tls::ca(dir).display().to_string()]);
            set("tls-cert-file", &[&tls::server_certificate(dir).display().to_string()]);
            set("tls-key-file", &[&tls::server_key(dir).display().to_string()]);
            set("tls-auth-clients", &[if self.client_certificates { "yes" } else { "no" }]);
        }
        if let Some(password) = &self.password {
            set("requirepass", &[password]);
        }
        if let Some(master) = self.master {
            set("replicaof", &[&master.ip().to_string(), &master.port().to_string()]);
        }
        if let Some(bus) = bus {
            set("cluster-enabled", &["yes"]);
            set("cluster-port", &[&bus.number().to_string()]);
        }
        for (option, values) in &self.options {
            set(option, &values.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Process::start(&program(), &arguments, dir)
    }

    pub(super) fn url(&self, server: &RedisServer, user: Option<(&str, &str)>) -> String {
        let (user, password) = match user {
            Some((user, password)) => (user, Some(password)),
            None => ("", self.password.as_deref()),
        };
        if self.by_socket {
            let login = match password {
                Some(password) if user.is_empty() => format!("?pass={password}"),
                Some(password) => format!("?user={user}&pass={password}"),
                None => String::new(),
            };
            return format!("redis+unix://{}{login}", server.socket_path().display());
        }
        let scheme = if self.has_tls() { "rediss" } else { "redis" };
        let login = password.map(|password| format!("{user}:{password}@")).unwrap_or_default();
        format!("{scheme}://{login}{}", server.address())
    }

    fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls;
        #[cfg(not(feature = "tls"))]
        false
    }
}
