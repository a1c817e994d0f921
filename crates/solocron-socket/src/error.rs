//! What is wrong with a name or a port, as what a person can do about it. Only a holder that says who it is means busy.

use std::fmt;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use solocron::lock::{Holder, LockKey, NodeId};
use solocron::{BackendError, Kind};

use crate::addr::Address;
use crate::banner::Banner;
use crate::peer;
use crate::state::DirId;
use crate::stream::Peer;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(target_os = "linux")]
            Self::Abstract(names) => write!(f, "abstract socket @{names}"),
            Self::Tcp(port) => write!(f, "port {port} of 127.0.0.1"),
        }
    }
}

/// The kernel refused what we were `doing` with an address. Nothing has changed.
pub(crate) fn refused(
    doing: &str,
    key: &LockKey,
    at: &Address,
    source: &io::Error,
) -> BackendError {
    let (kind, advice) = match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => (
            Kind::Denied,
            "the port is privileged or a security policy forbids it: choose a port above 1023",
        ),
        Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT) => (
            Kind::Misconfigured,
            "this host or container has no such address: see that its loopback interface is up",
        ),
        Some(Errno::EMFILE | Errno::ENFILE) => {
            (Kind::Unavailable, "too many open files: raise the limit (ulimit -n)")
        }
        Some(Errno::EAGAIN) => (
            Kind::Unavailable,
            "its queue of connections is full: its holder is overloaded or stopped",
        ),
        _ => (Kind::Unavailable, "see the kernel's log"),
    };
    BackendError::new(kind, format!("failed to {doing} {at} for {key}: {source}: {advice}"))
}

/// Whoever listens is none of ours.
pub(crate) fn stranger(key: &LockKey, at: &Address, peer: Option<Peer>, how: &str) -> BackendError {
    let who = who(at, peer);
    let why = format!(
        "{at} of {key} is taken by {who}, which is no holder of this lock: {how}; end it, or choose another {}",
        choice(at)
    );
    BackendError::new(Kind::Misconfigured, why)
}

/// Whoever listens hangs up without a word, for longer than a lock changes hands.
pub(crate) fn hung_up(key: &LockKey, at: &Address, peer: Option<Peer>) -> BackendError {
    let own = nix::unistd::geteuid();
    match peer {
        // Everybody trusts root, and root trusts only itself.
        Some(peer) if peer.uid != own.as_raw() => {
            let why = format!(
                "{at} of {key} is taken by {peer}, and this process, of user {own}, is turned away: a holder talks to processes of \
                 its own user and of root only; run every process of this namespace as one user, or choose another {}",
                choice(at)
            );
            BackendError::new(Kind::Denied, why)
        }
        _ => stranger(key, at, peer, "it hangs up without a word"),
    }
}

/// A process of another user has the name.
pub(crate) fn foreign(key: &LockKey, at: &Address, peer: Peer) -> BackendError {
    let own = nix::unistd::geteuid();
    let why = format!(
        "{at} of {key} is taken by {peer}, and this process runs as user {own}: run every process of this namespace as one user, \
         or choose another {}",
        choice(at)
    );
    BackendError::new(Kind::Denied, why)
}

/// A holder, of something else.
pub(crate) fn another_lock(
    key: &LockKey,
    namespace: &str,
    at: &Address,
    by: &Banner,
) -> BackendError {
    let Banner { node, key: found, namespace: other, .. } = by;
    let why = format!(
        "{at} of {key} in namespace {namespace} is held by {node} for {found} in namespace {other:?}: give each lock a {} of its own",
        choice(at)
    );
    BackendError::new(Kind::Misconfigured, why)
}

/// A holder of this key that keeps its records somewhere else; or not, where this process does.
pub(crate) fn another_directory(
    key: &LockKey,
    at: &Address,
    by: &Banner,
    own: Option<DirId>,
) -> BackendError {
    let named = |id: Option<DirId>| {
        id.map_or_else(
            || "none".to_owned(),
            |DirId { dev, ino }| format!("device {dev}, inode {ino}"),
        )
    };
    let why = format!(
        "{at} of {key} is held by {}, which keeps its records in another state directory ({}) than this process ({}): name the \
         same one in every process of namespace {}",
        by.node,
        named(by.state),
        named(own),
        by.namespace
    );
    BackendError::new(Kind::Misconfigured, why)
}

/// The address is free, and the record is in somebody's hand all the same, for longer than a lock changes hands.
pub(crate) fn in_other_hands(key: &LockKey, at: &Address, path: &Path) -> BackendError {
    let why = format!(
        "{at} of {key} is free, but its record {} is held through another address or network namespace: give every process that \
         uses this directory the same kind of address and the same network, or another namespace",
        path.display()
    );
    BackendError::new(Kind::Misconfigured, why)
}

/// Whoever listens says nothing, and is not known to be stopped.
pub(crate) fn silent(key: &LockKey, at: &Address, peer: Option<Peer>) -> BackendError {
    let who = who(at, peer);
    let why = format!(
        "{at} of {key} is taken by {who}, which does not say that it holds this lock: it is overloaded or stopped, or a stranger"
    );
    BackendError::new(Kind::Unavailable, why)
}

/// The address is in use, and nobody listens on it, for longer than a lock changes hands.
pub(crate) fn nobody(key: &LockKey, at: &Address) -> BackendError {
    let why = match at {
        #[cfg(target_os = "linux")]
        Address::Abstract(_) => format!(
            "{at} of {key} is in use, but nobody listens there: forked children of its last holders keep it; end them, or let them \
             exec (ss -xap finds them)"
        ),
        Address::Tcp(port) => {
            let who = peer::owner_of_port(*port).unwrap_or_else(|| "another socket".to_owned());
            format!(
                "{at} of {key} is in use by {who}, but nobody listens there: an outgoing connection may have been given it; choose \
                 a port outside of the ephemeral range"
            )
        }
    };
    BackendError::new(Kind::Unavailable, why)
}

fn who(at: &Address, peer: Option<Peer>) -> String {
    match (at, peer) {
        (_, Some(peer)) => peer.to_string(),
        (Address::Tcp(port), None) => peer::owner_of_port(*port)
            .unwrap_or_else(|| format!("a process that `ss -ltnp sport = {port}` shows to root")),
        #[cfg(target_os = "linux")]
        (Address::Abstract(_), None) => "a process that `ss -xlp` shows to root".to_owned(),
    }
}

fn choice(at: &Address) -> &'static str {
    match at {
        #[cfg(target_os = "linux")]
        Address::Abstract(_) => "namespace",
        Address::Tcp(_) => "port",
    }
}

/// A lock that another process holds cannot be freed from here.
pub(crate) fn not_ours(key: &LockKey, node: &NodeId) -> BackendError {
    let why = format!(
        "lock {key} is held by the process {node}, and only the kernel can free it: end that process"
    );
    BackendError::new(Kind::Unsupported, why)
}

/// What is to be written of a key has to wait for whoever holds it.
pub(crate) fn in_use(key: &LockKey, holder: Option<Holder>) -> BackendError {
    let by = holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
    let why = format!("the record of {key} is in use by {by}: try again when it is free");
    BackendError::new(Kind::Unavailable, why)
}
