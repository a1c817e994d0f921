//! A real `redis-server`.

mod builder;
mod cluster;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;
use std::{io, mem};

use tempfile::TempDir;

pub use self::builder::RedisBuilder;
pub use self::cluster::RedisCluster;
use super::port::Port;
use super::process::{GLANCE, Process, find};
use super::resp::{Connection, PATIENCE, Value};
#[cfg(feature = "tls")]
use super::tls;

/// A `redis-server` of this test's own, on a free port of the loopback interface. It keeps nothing on disk, unless
/// [`append_only`](RedisBuilder::append_only). Dropping this ends it and removes its data; so does the death of this process.
///
/// ```no_run
/// use solocron_testkit::server::{RedisServer, Value};
///
/// let redis = RedisServer::start();
/// assert_eq!(redis.command(&["SET", "a", "1"]), Value::Simple("OK".into()));
/// redis.restart(); // it kept nothing
/// assert_eq!(redis.command(&["GET", "a"]), Value::Nil);
/// println!("connect to {}", redis.url());
/// ```
///
/// # Panics
///
/// Every method panics where the server does not do what it should, with the server's own log.
#[derive(Debug)]
pub struct RedisServer {
    // Dropped in this order: first the process, then its directory, then its port.
    process: Mutex<Process>,
    dir: TempDir,
    port: Port,
    bus: Option<Port>,
    setup: RedisBuilder,
}

impl RedisServer {
    /// A plain server: TCP, no password.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with more to it.
    #[must_use]
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The unix socket on which it always listens too.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        socket(self.dir.path())
    }

    /// Its address as clients take it, with the default user's password if there is one.
    #[must_use]
    pub fn url(&self) -> String {
        self.setup.url(self, None)
    }

    /// The same for another [user](RedisBuilder::user).
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.setup.url(self, Some((user, password)))
    }

    /// The certificate of the authority that has signed the server's.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        tls::ca(self.dir.path())
    }

    /// A certificate for clients, signed by the same authority.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        tls::client_certificate(self.dir.path())
    }

    /// The key that belongs to [`certificate_file`](Self::certificate_file).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        tls::client_key(self.dir.path())
    }

    /// Sends one command, as the default user, past whatever proxies and certificates there are. The answer may be a
    /// [`Value::Error`].
    pub fn command<W: AsRef<[u8]>>(&self, words: &[W]) -> Value {
        self.try_command(words).unwrap_or_else(|error| {
            let words: Vec<_> =
                words.iter().map(|word| String::from_utf8_lossy(word.as_ref())).collect();
            self.fail(&format!("did not answer {words:?}: {error}"))
        })
    }

    /// Stops it (SIGSTOP): it accepts connections and answers nothing until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.process().freeze();
    }

    /// Ends a [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process().thaw();
    }

    /// Kills it (SIGKILL): connections are reset and new ones refused until [`restart`](Self::restart).
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Ends it in good order, if it runs, and starts it again with the same port and data. It answers again when this returns.
    pub fn restart(&self) {
        self.process().terminate(PATIENCE);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let new = self.setup.spawn(&self.port, self.bus.as_ref(), self.dir.path());
            drop(mem::replace(&mut *self.process(), new));
            match self.ready() {
                Ok(()) => return,
                // Somebody's outgoing connection may have had the port for a moment.
                Err(why) if why.contains(IN_USE) && Instant::now() < deadline => {
                    thread::sleep(GLANCE)
                }
                Err(why) => self.fail(&why),
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// What it has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// Waits until it answers. The error is why it never will.
    fn ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.process().ended(); // its log needs the process, too
            if let Some(status) = ended {
                let log = self.log();
                let why = log.lines().rev().find(|line| line.contains(IN_USE)).unwrap_or_default();
                return Err(format!("ended with {status} {why}"));
            }
            let last = match self.try_command(&["PING"]) {
                Ok(Value::Simple(pong)) if pong == "PONG" => return Ok(()),
                other => other,
            };
            if Instant::now() > deadline {
                return Err(format!("did not answer PING within {PATIENCE:?}: {last:?}"));
            }
            thread::sleep(GLANCE);
        }
    }

    /// Waits until the answer to `words` holds each of these lines.
    fn await_lines(&self, words: &[&str], lines: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.command(words).to_string();
            if lines.iter().all(|line| answer.lines().any(|found| found == *line)) {
                return;
            }
            if Instant::now() > deadline {
                self.fail(&format!(
                    "did not come to {lines:?} within {PATIENCE:?}, but to {answer:?}"
                ));
            }
            thread::sleep(GLANCE);
        }
    }

    fn try_command<W: AsRef<[u8]>>(&self, words: &[W]) -> io::Result<Value> {
        let stream = UnixStream::connect(self.socket_path())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Connection::new(stream);
        if let Some(password) = &self.setup.password {
            connection.command(&["AUTH", password])?;
        }
        connection.command(words)
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, why: &str) -> ! {
        panic!("redis-server at {} {why}; its log:\n{}", self.address(), self.log());
    }
}

/// What it says when somebody else has its port.
const IN_USE: &str = "Address already in use";

fn socket(dir: &Path) -> PathBuf {
    dir.join("redis.sock")
}

fn program() -> PathBuf {
    find("redis-server").unwrap_or_else(|error| {
        panic!(
            "there is no redis-server ({error}): run scripts/setup, or apt-get install redis-server"
        )
    })
}
