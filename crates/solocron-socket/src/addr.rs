//! Where a lock stands, and how it is taken: to bind **and** to listen is to hold it.
//!
//! ```text
//!   abstract  \0solocron/<namespace>/<slug of the key>/<0..3>   vanishes with its last descriptor
//!   TCP       127.0.0.1:<port>                                  SO_REUSEADDR, never SO_REUSEPORT
//! ```
//!
//! A forked child keeps its parent's abstract name bound for as long as it lives, though `shutdown(2)` has ended the listening: a
//! **husk**. The kernel has no way to take a name from a socket, so each lock has four of them:
//!
//! ```text
//!   for each name:  bind, listen ──ok──► does anybody listen on another one? ──no──► mine
//!                     │ in use                              └──yes──► close: taken
//!                     └─► does it listen? ──yes──► taken
//!                              └──no──► a husk: the next name
//! ```
//!
//! Everybody listens before he looks, so of two that take different names at the same time at least one sees the other. Where both do,
//! both step back and try again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcp};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener as StdUnix;

use socket2::SockRef;
use solocron::lock::LockKey;
use tokio::net::TcpStream;

use crate::stream::Stream;

/// How many of its names may be husks before a lock cannot be taken any more.
#[cfg(target_os = "linux")]
const NAMES: u32 = 4;

/// Where one lock stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// The beginning of its abstract names.
    #[cfg(target_os = "linux")]
    Abstract(String),
    /// A port of 127.0.0.1: always that address, since ::1 and every other one is another lock.
    Tcp(u16),
}

/// A socket that listens: the lock itself.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(StdUnix),
    Tcp(StdTcp),
}

/// What an attempt gives.
#[derive(Debug)]
pub(crate) enum Bound {
    Mine(Listener),
    /// Somebody has it, or had it a moment ago.
    Taken,
}

impl Listener {
    /// Another descriptor of the same socket.
    pub(crate) fn copy(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
        })
    }

    /// Frees the lock. `shutdown` first, because a forked child may have a copy of the descriptor.
    pub(crate) fn close(self) {
        let ended = match &self {
            Self::Unix(listener) => SockRef::from(listener).shutdown(std::net::Shutdown::Both),
            Self::Tcp(listener) => SockRef::from(listener).shutdown(std::net::Shutdown::Both),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a listener could not be shut down; closing it frees the lock");
        }
    }
}

/// The abstract names of `key` in `namespace` begin with this. At most 100 of 107 bytes.
#[cfg(target_os = "linux")]
pub(crate) fn names(namespace: &str, key: &LockKey) -> String {
    const READABLE: usize = 20;
    let slug = key.slug();
    // Readable characters, a dash, and 32 of the hash, which is what tells keys apart.
    let (readable, hash) = slug.split_at(slug.len() - 33);
    let cut = readable.len().min(READABLE);
    format!("solocron/{namespace}/{}{hash}", &readable[..cut])
}

impl Address {
    /// Takes the lock if nobody has it. Never waits.
    pub(crate) fn bind(&self) -> io::Result<Bound> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Abstract(names) => bind_abstract(names),
            Self::Tcp(port) => match StdTcp::bind((Ipv4Addr::LOCALHOST, *port)) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    Ok(Bound::Mine(Listener::Tcp(listener)))
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Bound::Taken),
                Err(error) => Err(error),
            },
        }
    }

    /// Connects to whoever listens. `None`: nobody does.
    pub(crate) async fn connect(&self) -> io::Result<Option<Stream>> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Abstract(names) => {
                for n in 0..NAMES {
                    if let Some(stream) = connect_abstract(&format!("{names}/{n}")).await? {
                        return Ok(Some(Stream::Unix(stream)));
                    }
                }
                Ok(None)
            }
            Self::Tcp(port) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                match TcpStream::connect(address).await {
                    // Asking a free port of the ephemeral range can connect a socket to itself.
                    Ok(stream) if stream.local_addr()? == address => Ok(None),
                    Ok(stream) => {
                        // Closed with a reset: a waiter leaves no TIME_WAIT behind.
                        SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
                        Ok(Some(Stream::Tcp(stream)))
                    }
                    Err(error) if gone(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | ConnectionAborted)
}

/// Listens on an abstract name. `None`: it is in use.
#[cfg(target_os = "linux")]
pub(crate) fn listen_abstract(name: &str) -> io::Result<Option<StdUnix>> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    match StdUnix::bind_addr(&address) {
        Ok(listener) => {
            listener.set_nonblocking(true)?;
            Ok(Some(listener))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

/// Connects to an abstract name, on the keeper's thread. `None`: nobody listens there.
#[cfg(target_os = "linux")]
pub(crate) async fn connect_abstract(name: &str) -> io::Result<Option<tokio::net::UnixStream>> {
    let mut full = false;
    loop {
        match try_connect(name) {
            Ok(stream) => return tokio::net::UnixStream::from_std(stream).map(Some),
            Err(error) if gone(&error) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !full => {
                full = true; // a full queue of a holder that is busy, or stopped
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(target_os = "linux")]
fn try_connect(name: &str) -> io::Result<std::os::unix::net::UnixStream> {
    let address = socket2::SockAddr::unix(format!("\0{name}"))?;
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&address)?;
    Ok(std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(socket)))
}

/// Whether somebody listens on an abstract name.
#[cfg(target_os = "linux")]
fn listens(name: &str) -> io::Result<bool> {
    match try_connect(name) {
        Ok(_) => Ok(true),
        Err(error) if gone(&error) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true), // its queue is full
        Err(error) => Err(error),
    }
}

#[cfg(target_os = "linux")]
fn bind_abstract(names: &str) -> io::Result<Bound> {
    let name = |n: u32| format!("{names}/{n}");
    for n in 0..NAMES {
        let Some(listener) = listen_abstract(&name(n))? else {
            if listens(&name(n))? {
                return Ok(Bound::Taken);
            }
            continue;
        };
        let listener = Listener::Unix(listener);
        for other in (0..NAMES).filter(|other| *other != n) {
            match listens(&name(other)) {
                Ok(false) => {}
                Ok(true) => {
                    listener.close();
                    return Ok(Bound::Taken);
                }
                Err(error) => {
                    listener.close();
                    return Err(error);
                }
            }
        }
        return Ok(Bound::Mine(listener));
    }
    Ok(Bound::Taken)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn fresh(name: &str) -> Address {
        let key = LockKey::new(format!("{name}-{}", std::process::id())).unwrap();
        Address::Abstract(names("addr-tests", &key))
    }

    fn mine(address: &Address) -> Option<Listener> {
        match address.bind().unwrap() {
            Bound::Mine(listener) => Some(listener),
            Bound::Taken => None,
        }
    }

    #[test]
    fn every_name_fits_an_address_and_different_keys_have_different_names() {
        let longest = LockKey::new("x".repeat(LockKey::MAX_BYTES)).unwrap();
        let name = names(&"n".repeat(32), &longest);
        // With "/line/65535", the longest that is put behind it.
        assert!(name.len() + 11 <= 107, "{}", name.len());
        assert_ne!(
            names("a", &LockKey::new("k").unwrap()),
            names("a", &LockKey::new("K").unwrap())
        );
        assert_ne!(
            names("a", &LockKey::new("k").unwrap()),
            names("b", &LockKey::new("k").unwrap())
        );
    }

    #[test]
    fn one_of_two_has_it_and_a_closed_one_is_free() {
        let address = fresh("one");
        let first = mine(&address).unwrap();
        assert!(mine(&address).is_none());
        first.close();
        mine(&address).unwrap().close();
    }

    /// What a forked child leaves: the name is bound, and nobody listens.
    fn husk(address: &Address, listener: &Listener) -> StdUnix {
        let Listener::Unix(listener) = listener else { panic!("{address:?}") };
        listener.try_clone().unwrap()
    }

    #[test]
    fn a_copy_in_a_forked_child_does_not_keep_the_lock() {
        let address = fresh("husks");
        let mut husks = Vec::new();
        for _ in 0..NAMES {
            let listener = mine(&address).expect("free, for all the husks");
            husks.push(husk(&address, &listener));
            assert!(mine(&address).is_none(), "held under a later name");
            listener.close();
        }
        assert!(mine(&address).is_none(), "every name is a husk");
        // The child that had the first name ends while somebody holds a later one.
        husks.remove(2);
        let held = mine(&address).unwrap();
        husks.remove(0);
        assert!(mine(&address).is_none(), "a free earlier name does not let anybody in");
        held.close();
        assert!(mine(&address).is_some());
    }

    #[test]
    fn of_many_threads_never_two_are_inside_with_husks_in_the_way() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
        let address = fresh("threads");
        let (inside, entries) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut husks = std::collections::VecDeque::new();
                    for round in 0..3_000 {
                        let Some(listener) = mine(&address) else { continue };
                        assert!(!inside.swap(true, Ordering::SeqCst), "two are inside");
                        if round % 3 == 0 {
                            husks.push_back(husk(&address, &listener));
                        }
                        entries.fetch_add(1, Ordering::SeqCst);
                        inside.store(false, Ordering::SeqCst);
                        listener.close();
                        if husks.len() > 1 {
                            husks.pop_front();
                        }
                    }
                });
            }
        });
        assert!(entries.load(Ordering::SeqCst) > 100, "{entries:?}");
    }
}
