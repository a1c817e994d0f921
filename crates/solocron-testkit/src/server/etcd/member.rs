//! One member of an etcd.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::server::http::post;
use crate::server::port::Port;
use crate::server::process::Process;
use crate::server::scratch::scratch;

#[derive(Debug)]
pub(super) struct Member {
    // Dropped in this order: first the process, then its directory, then its ports.
    process: Mutex<Option<Process>>,
    pub(super) dir: TempDir,
    client: Port,
    pub(super) peer: Port,
    /// Where it is driven without TLS, if its clients need TLS.
    pub(super) control: Option<Port>,
    pub(super) name: String,
}

impl Member {
    /// A place for a member. Nothing runs yet.
    pub(super) fn new(number: usize, tls: bool) -> Self {
        Self {
            process: Mutex::new(None),
            dir: scratch(),
            client: Port::claim(),
            peer: Port::claim(),
            control: tls.then(Port::claim),
            name: format!("member-{number}"),
        }
    }

    pub(super) fn endpoint(&self) -> String {
        let scheme = if self.control.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.client.address())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.client.address()
    }

    /// Where its data is.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn runs(&self) -> bool {
        self.process().as_mut().is_some_and(|process| process.ended().is_none())
    }

    pub(super) fn log(&self) -> String {
        self.process().as_ref().map(Process::log).unwrap_or_default()
    }

    pub(super) fn post(
        &self,
        path: &str,
        token: Option<&str>,
        json: &str,
        patience: Duration,
    ) -> io::Result<(u16, String)> {
        let to = self.control.as_ref().unwrap_or(&self.client).address();
        post(to, path, token, json, patience)
    }
}
