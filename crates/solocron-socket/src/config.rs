//! Options, checked in one place before anything is changed.

use std::path::PathBuf;

use solocron::lock::LockKey;
use solocron::{Error, Invalid, Result};

use crate::backend::SocketBackend;
use crate::ports::Ports;
use crate::state::StateDir;

/// Options of a [`SocketBackend`].
///
/// ```
/// use solocron_socket::SocketBackend;
/// # let tmp = tempfile::tempdir().unwrap();
/// # let state = tmp.path().join("state");
/// // Remembers ticks, so that jobs can be scheduled on it.
/// let backend = SocketBackend::builder("billing").state_dir(state).build()?;
/// // The socket lock that every platform has: a port a lock.
/// let backend = SocketBackend::builder("billing").port("nightly", 17_001).build()?;
/// # Ok::<(), solocron::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SocketBuilder {
    namespace: String,
    ports: Ports,
    wrong: Option<Error>,
    state_dir: Option<PathBuf>,
}

impl SocketBuilder {
    pub(crate) fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), ports: Ports::default(), wrong: None, state_dir: None }
    }

    /// This lock is this TCP port of 127.0.0.1. Default: an abstract unix socket, on Linux; elsewhere every lock needs a port.
    ///
    /// With the first port, every lock of this backend needs one. Choose them above 1023 and below the range that the system gives to
    /// outgoing connections (32768 on Linux, 49152 elsewhere).
    #[must_use]
    pub fn port<K>(mut self, key: K, port: u16) -> Self
    where
        K: TryInto<LockKey>,
        Error: From<K::Error>,
    {
        match key.try_into() {
            Ok(key) => {
                if let Some(before) = self.ports.name(key.clone(), port)
                    && before != port
                {
                    let why = format!("{key} has port {before} already: give each lock one port");
                    self.wrong.get_or_insert_with(|| Invalid::new("port", port, why).into());
                }
            }
            Err(error) => drop(self.wrong.get_or_insert_with(|| error.into())),
        }
        self
    }

    /// The ports of all locks that have none by [`port`](Self::port): for names that are not known beforehand. It must answer the same
    /// in every process, and give no two locks one port; `None` is an error of that lock.
    #[must_use]
    pub fn ports(mut self, rule: impl Fn(&LockKey) -> Option<u16> + Send + Sync + 'static) -> Self {
        self.ports.rule(rule);
        self
    }

    /// Accepts ports of the range that the system gives to outgoing connections. Default: refused.
    ///
    /// Any connection of any process may have the port then, for as long as it likes; the lock cannot be taken meanwhile.
    #[must_use]
    pub fn allow_ephemeral_ports(mut self, allow: bool) -> Self {
        self.ports.allow_ephemeral(allow);
        self
    }

    /// Keeps marks, notes and fences in this directory, in a file a lock and namespace. Default: nothing is remembered.
    ///
    /// All processes of the namespace name the same directory, on a local file system. It is made with mode 0700 if it is missing, but
    /// never its parent. What is claimed outlives every death of a process; ticks that were due before this boot of the machine are not
    /// claimed any more after a restart.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Checks everything, and makes the state directory where it is missing. Binds nothing yet.
    ///
    /// # Errors
    ///
    /// [`solocron::Error::Invalid`], saying what to do: the namespace is not 1 to 32 characters of `A-Za-z0-9._-`; a port is 0, privileged,
    /// ephemeral or given twice; the state directory's parent is missing; the state directory is a file or a symbolic link, belongs to
    /// another user than this process's or root, may be written by others, is read-only, or lies on a network file system; this is not
    /// Linux and no port is given.
    pub fn build(self) -> Result<SocketBackend> {
        const LONGEST: usize = 32;
        let Self { namespace, ports, wrong, state_dir } = self;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if namespace.is_empty() || namespace.len() > LONGEST || !namespace.chars().all(plain) {
            let why = "use 1 to 32 characters of A-Z, a-z, 0-9, '.', '_' and '-': the name of the application";
            return Err(Invalid::new("namespace", namespace, why).into());
        }
        ports.check()?;
        let tcp = !ports.is_empty();
        if !tcp && cfg!(not(target_os = "linux")) {
            let why = "only Linux has abstract sockets: give each lock a port";
            return Err(Invalid::new("port", "none", why).into());
        }
        let state = state_dir.map(|dir| StateDir::open(&dir, namespace.clone()));
        let state = state.transpose()?;
        Ok(SocketBackend::with(namespace, tcp.then_some(ports), state))
    }
}
