//! Four processes that are killed, stopped, ended and set wrong, over a directory whose lock files are replaced and deleted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use solocron_flock::FlockBackend;
use solocron_testkit::Dice;
use solocron_testkit::chaos::{self, Chaos, Failover, Hits, Store, StoreFault};

use crate::Dir;

#[test]
fn is_a_node() {
    chaos::as_node::<Directory>();
}

struct Directory(Dir);

impl Directory {
    fn lock_files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "lock"))
    }
}

impl Store for Directory {
    type Backend = FlockBackend;

    async fn open(address: String) -> FlockBackend {
        FlockBackend::open(address).unwrap()
    }

    fn address(&self, _node: usize) -> String {
        self.0.path().display().to_string()
    }

    fn faults(&self) -> Vec<StoreFault> {
        // It is noticed within a second.
        let fault = |kind| StoreFault::new(kind, Hits::Everybody, 0..1).splits().forgets();
        ["replace", "delete"].map(|kind| fault(kind).aftermath(Duration::from_secs(2))).into()
    }

    fn make(&mut self, kind: &str, _node: usize, _dice: &mut Dice) {
        for path in self.lock_files() {
            if kind == "delete" {
                fs::remove_file(path).unwrap();
            } else {
                let copy = path.with_extension("copy");
                fs::copy(&path, &copy).unwrap();
                fs::rename(copy, path).unwrap();
            }
        }
    }
}

#[test]
fn a_fleet_under_faults_keeps_its_promises() {
    Chaos::new("flock", "chaos::is_a_node").run(&mut Directory(Dir::new())).assert();
}

#[test]
fn a_killed_holder_is_followed_at_once() {
    let taken_over = Failover::new("flock", "chaos::is_a_node").run(&mut Directory(Dir::new()));
    taken_over.assert_within(Duration::from_millis(10));
}
