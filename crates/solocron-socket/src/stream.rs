//! A connection to a lock, or to whoever waits for it.

use std::io;

use nix::libc::MSG_NOSIGNAL;
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::consume_budget;

/// A connection of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "abstract sockets are Linux's")
    )]
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A process at the other end, as the kernel knows it. A TCP connection does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// 0 or nothing for a process of another PID namespace.
    pub(crate) pid: Option<i32>,
    pub(crate) uid: u32,
}

impl Stream {
    /// What came in; 0 at the end of the connection, however it ended. A peer that never stops sending takes its turns like any other.
    pub(crate) async fn receive(&self, into: &mut [u8]) -> usize {
        loop {
            let (ready, read) = match self {
                Self::Unix(stream) => (stream.readable().await, stream.try_read(into)),
                Self::Tcp(stream) => (stream.readable().await, stream.try_read(into)),
            };
            match (ready, read) {
                (Ok(()), Ok(count)) => {
                    // Neither of the two above yields, and whoever calls this in a loop would never let go of the keeper's thread.
                    consume_budget().await;
                    return count;
                }
                (Ok(()), Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return 0,
            }
        }
    }

    /// Sends a few bytes, or fails: a peer that takes in nothing is not waited for. Not `write(2)`: in a process that does not ignore
    /// `SIGPIPE`, a waiter that hung up would kill the holder.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.raw().send_with_flags(bytes, MSG_NOSIGNAL)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Ends the connection for everybody who has a copy of it.
    pub(crate) fn end(&self) {
        if let Err(error) = self.raw().shutdown(std::net::Shutdown::Both) {
            tracing::trace!(%error, "the peer had hung up already");
        }
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> io::Result<Option<Peer>> {
        match self {
            Self::Unix(stream) => {
                let found = stream.peer_cred()?;
                let pid = found.pid().filter(|pid| *pid > 0);
                Ok(Some(Peer { pid, uid: found.uid() }))
            }
            Self::Tcp(_) => Ok(None),
        }
    }

    fn raw(&self) -> SockRef<'_> {
        match self {
            Self::Unix(stream) => SockRef::from(stream),
            Self::Tcp(stream) => SockRef::from(stream),
        }
    }
}
