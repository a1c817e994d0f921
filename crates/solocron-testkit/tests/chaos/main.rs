//! Chaos over an honest store is clean; over a broken one it is not, and says what is broken.
#![cfg(target_os = "linux")]

mod store;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use solocron::lock::Rule;
use solocron_testkit::Dice;
use solocron_testkit::chaos::{self, Chaos, Hits, Least, Store, StoreFault, Verdict};

use self::store::{Files, PLANT};

/// A directory, and what can happen to it.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory for the test"))
    }
}

impl Store for Directory {
    type Backend = Files;

    async fn open(address: String) -> Files {
        let (node, dir) = address.split_once(' ').expect("a node and a directory");
        Files::open(Path::new(dir), node)
    }

    fn address(&self, node: usize) -> String {
        format!("{node} {}", self.0.path().display())
    }

    fn faults(&self) -> Vec<StoreFault> {
        vec![
            StoreFault::new("refuse", Hits::Everybody, 100..900),
            StoreFault::new("mute", Hits::Node, 100..1_500),
        ]
    }

    fn make(&mut self, kind: &str, node: usize, _dice: &mut Dice) {
        let path = match kind {
            "refuse" => Files::refuses(self.0.path()),
            _ => Files::mute(self.0.path(), &node.to_string()),
        };
        File::create(path).expect("a file in the directory of the test");
    }

    fn heal(&mut self, kind: &str, node: usize) {
        let path = match kind {
            "refuse" => Files::refuses(self.0.path()),
            _ => Files::mute(self.0.path(), &node.to_string()),
        };
        fs::remove_file(path).expect("it was made");
    }
}

#[test]
fn is_a_node() {
    let plant = std::env::var(PLANT).unwrap_or_default();
    match Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == plant) {
        Some(rule) => rule.without(chaos::as_node::<Directory>),
        None => chaos::as_node::<Directory>(),
    }
}

fn run(name: &str) -> Chaos {
    Chaos::new(name, "is_a_node").ttl(Duration::from_millis(600))
}

#[test]
fn a_fleet_over_an_honest_store_keeps_its_promises() {
    run("files").run(&mut Directory::new()).assert();
}

/// Runs a fleet over a store that is wrong in this way.
fn planted(plant: &str) -> Verdict {
    let chaos = run(plant).env(PLANT, plant).at_least(Least::SHORT);
    let chaos = chaos.lasts(Duration::from_secs(4)).settle(Duration::from_millis(1_500));
    let mut verdict = chaos.run(&mut Directory::new());
    // It was to be broken: nobody wants to read that history.
    if let Some(history) = verdict.history.take() {
        fs::remove_file(history).expect("it is kept");
    }
    verdict
}

/// Asserts that something of this kind was found.
fn finds(plant: &str, what: &str) {
    let verdict = planted(plant);
    let found = verdict.broken.iter().find(|broken| broken.contains(what));
    let found = found.unwrap_or_else(|| panic!("with `{plant}` nothing says `{what}`: {verdict}"));
    eprintln!("with `{plant}`: {}", found.lines().next().unwrap_or_default());
}

#[test]
fn a_store_that_refuses_everything_is_void() {
    finds("refuses", "void: 0 of");
}

#[test]
fn a_fleet_that_does_not_come_back_is_found() {
    finds("sulks", "does not reach the store after the last fault");
}

#[test]
fn a_lock_without_a_memory_of_ticks_is_found() {
    finds("Mark", "was started more than once");
}

#[test]
fn a_mark_that_moves_at_the_end_of_a_run_is_found() {
    finds("MarkOnWin", "was started more than once");
}

#[test]
fn fences_that_do_not_grow_are_found() {
    finds("fences", "I2: ");
}
