//! A real `etcd`, of one member or more.

mod builder;
mod cluster;
mod member;

use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::path::PathBuf;

pub use self::builder::{EtcdBuilder, EtcdVersion};
pub use self::cluster::EtcdCluster;

/// An etcd of one member, of this test's own, on free ports of the loopback interface. Dropping it ends it and removes its data; so
/// does the death of this process.
///
/// ```no_run
/// use solocron_testkit::server::EtcdServer;
///
/// let etcd = EtcdServer::start();
/// // The JSON gateway takes keys and values in base64.
/// etcd.command("/v3/kv/put", r#"{"key": "YQ==", "value": "MQ=="}"#).expect("it writes");
/// etcd.restart(); // it forgets nothing
/// assert!(etcd.command("/v3/kv/range", r#"{"key": "YQ=="}"#).expect("it reads").contains("MQ=="));
/// println!("connect to {}", etcd.endpoint());
/// ```
///
/// # Panics
///
/// Every method panics where the server does not do what it should, with the server's own log.
#[derive(Debug)]
pub struct EtcdServer {
    cluster: EtcdCluster,
}

impl EtcdServer {
    /// A plain server: no certificates, no users.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with more to it.
    #[must_use]
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// Where clients connect, as `http://127.0.0.1:4711`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.cluster.endpoint(0)
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.cluster.address(0)
    }

    /// The certificate of the authority that has signed the server's.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.cluster.ca_file()
    }

    /// A certificate for clients, signed by the same authority.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        self.cluster.certificate_file()
    }

    /// The key that belongs to [`certificate_file`](Self::certificate_file).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.cluster.key_file()
    }

    /// Posts `json` to a `path` of the JSON gateway, as root where there are users, past whatever proxies and certificates there are.
    ///
    /// # Errors
    ///
    /// What etcd answers where it refuses.
    pub fn command(&self, path: &str, json: &str) -> Result<String, String> {
        self.cluster.command(path, json)
    }

    /// Stops it (SIGSTOP): it accepts connections and answers nothing until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.cluster.freeze(0);
    }

    /// Ends a [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.cluster.thaw(0);
    }

    /// Kills it (SIGKILL): connections are reset and new ones refused until [`restart`](Self::restart).
    pub fn kill(&self) {
        self.cluster.kill(0);
    }

    /// Ends it in good order, if it runs, and starts it again with the same ports and data. It answers again when this returns.
    pub fn restart(&self) {
        self.cluster.restart(0);
    }

    /// Replaces it by an empty one at the same address, whose revisions begin at 1 again: what restoring a backup from before
    /// everything would do.
    pub fn wipe(&self) {
        self.cluster.wipe();
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.cluster.pid(0)
    }

    /// What it has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.cluster.log(0)
    }
}
