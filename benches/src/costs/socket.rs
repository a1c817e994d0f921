//! Abstract unix sockets: whoever can bind the name has the lock.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use solocron::lock::Locks;
use solocron_socket::SocketBackend;

use super::claims::LockAndRelease;
use super::{Group, Role, Subject};

pub(super) fn groups() -> Vec<Group> {
    let namespace = format!("costs-{}", std::process::id());
    let name = format!("{namespace}-floor");
    let locks =
        Locks::new(SocketBackend::new(namespace).expect("a namespace")).expect("the defaults fit");
    let subjects = vec![
        Subject::plain("bind + listen + close", Role::Floor, 16, move || {
            let address = SocketAddr::from_abstract_name(&name).expect("short enough");
            drop(UnixListener::bind_addr(&address).expect("nobody else is here"));
        }),
        Subject::new("try_lock + release", Role::Ours, 16, LockAndRelease::new(&locks, "one")),
    ];
    vec![Group::new("socket", subjects, ())]
}
