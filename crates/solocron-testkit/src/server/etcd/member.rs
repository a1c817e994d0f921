//! One member of an etcd.

use std::io;
use std::net::SocketAddr;
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
    pub(super) client: Port,
    pub(super) peer: Port,
    pub(super) name: String,
}

impl Member {
    /// A place for a member. Nothing runs yet.
    pub(super) fn new(number: usize) -> Self {
        Self {
            process: Mutex::new(None),
            dir: scratch(),
            client: Port::claim(),
            peer: Port::claim(),
            name: format!("member-{number}"),
        }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.client.address())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.client.address()
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
        post(self.client.address(), path, token, json, patience)
    }
}
