//! Four processes that are killed, stopped, ended and set wrong, over sockets with a state directory whose files are deleted.
#![cfg(target_os = "linux")]

use std::fs;
use std::time::Duration;

use solocron::lock::Nonce;
use solocron_socket::SocketBackend;
use solocron_testkit::Dice;
use solocron_testkit::chaos::{self, Chaos, Failover, Hits, Store, StoreFault};

#[test]
fn is_a_node() {
    chaos::as_node::<Sockets>();
}

/// A namespace, and where its marks are kept.
struct Sockets {
    namespace: String,
    state: tempfile::TempDir,
}

impl Sockets {
    fn new() -> Self {
        let namespace = format!("t{:x}", Nonce::random().as_u128() >> 64);
        Self { namespace, state: tempfile::tempdir().unwrap() }
    }
}

impl Store for Sockets {
    type Backend = SocketBackend;

    async fn open(address: String) -> SocketBackend {
        let (namespace, state) = address.split_once(' ').unwrap();
        SocketBackend::builder(namespace).state_dir(state).build().unwrap()
    }

    fn address(&self, _node: usize) -> String {
        format!("{} {}", self.namespace, self.state.path().join("state").display())
    }

    fn faults(&self) -> Vec<StoreFault> {
        // It is noticed within a second.
        let delete = StoreFault::new("delete", Hits::Everybody, 0..1).forgets();
        vec![delete.aftermath(Duration::from_secs(2))]
    }

    fn make(&mut self, _kind: &str, _node: usize, _dice: &mut Dice) {
        for entry in fs::read_dir(self.state.path().join("state")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn a_fleet_under_faults_keeps_its_promises() {
    Chaos::new("socket", "is_a_node").run(&mut Sockets::new()).assert();
}

#[test]
fn a_killed_holder_is_followed_at_once() {
    let taken_over = Failover::new("socket", "is_a_node").run(&mut Sockets::new());
    taken_over.assert_within(Duration::from_millis(10));
}
