//! How a `redis-server` is set up.

use std::path::Path;
use std::sync::Mutex;

use super::{IN_USE, RedisServer, program, socket};
use crate::server::port::Port;
use crate::server::process::Process;
use crate::server::scratch::scratch;

/// A [`RedisServer`] to be. Everything is off unless it is named here.
#[derive(Debug, Clone, Default)]
pub struct RedisBuilder {
    pub(super) password: Option<String>,
    options: Vec<(String, String)>,
    by_socket: bool,
}

impl RedisBuilder {
    /// Clients must give this password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
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

    /// Any option of `redis.conf`. The last one of a name counts.
    #[must_use]
    pub fn set(mut self, option: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((option.into(), value.into()));
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
            let process = Mutex::new(self.spawn(&port, dir.path()));
            let server = RedisServer { process, dir, port, setup: self.clone() };
            match server.ready() {
                Ok(()) => return server,
                Err(why) if why.contains(IN_USE) && left > 0 => {}
                Err(why) => server.fail(&why),
            }
        }
        unreachable!("the last try returns or panics")
    }

    pub(super) fn spawn(&self, port: &Port, dir: &Path) -> Process {
        let mut arguments = Vec::new();
        let mut set = |option: &str, value: &str| {
            arguments.extend([format!("--{option}"), value.to_owned()]);
        };
        set("bind", "127.0.0.1");
        set("port", &port.number().to_string());
        set("dir", &dir.display().to_string());
        set("unixsocket", &socket(dir).display().to_string());
        set("save", "");
        if let Some(password) = &self.password {
            set("requirepass", password);
        }
        for (option, value) in &self.options {
            set(option, value);
        }
        Process::start(&program(), &arguments, dir)
    }

    pub(super) fn url(&self, server: &RedisServer) -> String {
        let path = server.socket_path();
        match (&self.password, self.by_socket) {
            (None, false) => format!("redis://{}", server.address()),
            (Some(password), false) => format!("redis://:{password}@{}", server.address()),
            (None, true) => format!("redis+unix://{}", path.display()),
            (Some(password), true) => format!("redis+unix://{}?pass={password}", path.display()),
        }
    }
}
