//! The floor of a lock that is a listening socket.

use std::io::{self, ErrorKind, Read as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use async_trait::async_trait;

use super::{Contender, Place, blocking, said};

/// Whoever listens on an abstract name holds it; the others sit in its backlog, never accepted, until the kernel hangs up on all of them
/// when it is closed. No queue, no record.
pub(super) struct BacklogEof {
    address: SocketAddr,
    listener: Option<UnixListener>,
}

impl BacklogEof {
    pub(super) fn new(place: &Place) -> Result<Self, String> {
        let address = SocketAddr::from_abstract_name(format!("bench-{}", place.key));
        Ok(Self { address: address.map_err(said)?, listener: None })
    }
}

#[async_trait]
impl Contender for BacklogEof {
    async fn take(&mut self) -> Result<(), String> {
        let address = self.address.clone();
        self.listener = Some(blocking(move || wait(&address)).await?);
        Ok(())
    }

    async fn give(&mut self) -> Result<(), String> {
        drop(self.listener.take());
        Ok(())
    }
}

fn wait(address: &SocketAddr) -> io::Result<UnixListener> {
    loop {
        match UnixListener::bind_addr(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
        match UnixStream::connect_addr(address) {
            // However the connection ends, its listener has.
            Ok(mut stream) => drop(stream.read(&mut [0])),
            // Bound, and not listening yet: a crowd that spun here would keep the processor from who is about to.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::thread::sleep(Duration::from_micros(20));
            }
            Err(error) => return Err(error),
        }
    }
}
