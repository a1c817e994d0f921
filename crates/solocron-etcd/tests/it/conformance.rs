//! The laws that every backend must keep.

use std::time::Duration;

use solocron::lock::LockKey;
use solocron_etcd::EtcdBackend;
use solocron_testkit::Harness;
use solocron_testkit::server::{EtcdVersion, Proxy};

use crate::holder;
use crate::store::Store;

/// A namespace of a server, which may be this law's own.
struct Etcd<const DISTRO: bool>(Store);

impl<const DISTRO: bool> Etcd<DISTRO> {
    const VERSION: EtcdVersion = if DISTRO { EtcdVersion::Distro } else { EtcdVersion::Debian };
}

impl<const DISTRO: bool> Harness for Etcd<DISTRO> {
    type Backend = EtcdBackend;

    async fn start() -> Self {
        Self(Store::shared_of(Self::VERSION))
    }

    async fn start_alone() -> Self {
        Self(Store::alone_of(Self::VERSION))
    }

    fn connect(&self) -> EtcdBackend {
        self.0.connect()
    }

    /// A log on disk, and consensus.
    fn never_forgets(&self) -> bool {
        true
    }

    /// Takes the session of the holder away.
    async fn expire(&self, key: &LockKey) -> bool {
        self.0.revoke_session(key);
        true
    }

    /// An operator deletes the key.
    async fn replace(&self, key: &LockKey) -> bool {
        self.0.delete_lock(key);
        true
    }

    async fn hold_and_die(&self, key: &LockKey) -> bool {
        let endpoint = self.0.server.endpoint();
        let mut holder =
            holder::start(&endpoint, &self.0.namespace, key.as_str(), Duration::from_secs(2));
        holder.kill().is_ok()
    }

    async fn restart(&self) -> bool {
        self.0.server.restart();
        true
    }

    async fn freeze(&self) -> bool {
        self.0.server.freeze();
        true
    }

    async fn thaw(&self) {
        self.0.server.thaw();
    }

    async fn sever(&self) -> bool {
        self.0.proxy.sever();
        true
    }

    fn link(&self) -> Option<(Proxy, EtcdBackend)> {
        let proxy = Proxy::start(self.0.server.address());
        let backend = self.0.through(&proxy);
        Some((proxy, backend))
    }
}

// 3.4, as Debian has it, and 3.5.
solocron_testkit::conformance!(Etcd<false>);
solocron_testkit::conformance!(on_3_5, Etcd<true>);
