//! Ports of the loopback interface that no other test takes.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Below the range from which the kernel takes the ports of outgoing connections: a port stays free also while its server is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A TCP port of the loopback interface that is ours until this is dropped, whether or not something listens there.
///
/// The claim is the UDP port of the same number: it belongs to one process of this network namespace at a time, and the kernel
/// gives it back when that process dies.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Claims a port where nothing listens.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn claim() -> Self {
        let width = u64::from(PORTS.end - PORTS.start);
        let first = RandomState::new().hash_one(std::process::id()) % width;
        for step in 0..width {
            let offset = u16::try_from((first + step) % width).expect("it is below the width");
            let number = PORTS.start + offset;
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
        panic!("no port of {PORTS:?} is free on the loopback interface");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_claimed_port_is_nobody_elses() {
        let ports: Vec<_> = (0..200).map(|_| Port::claim()).collect();
        let numbers: BTreeSet<_> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        for port in &ports {
            TcpListener::bind(port.address()).expect("nothing listens there");
        }
    }
}
