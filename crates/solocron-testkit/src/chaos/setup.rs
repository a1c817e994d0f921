//! How children are started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::node::{Part, Role};
use super::number;
use crate::fleet::{Fleet, Member, this_test};
use crate::history::monotonic_ns;

/// What is the same for all children of one run.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) name: String,
    /// The test that calls [`as_node`](super::as_node).
    pub(super) entry: String,
    pub(super) env: Vec<(String, String)>,
    pub(super) ttl: Duration,
    pub(super) seed: u64,
}

impl Setup {
    /// The seed is the environment's, if it says one.
    pub(super) fn new(name: &str, entry: &str) -> Self {
        Self {
            name: name.to_owned(),
            entry: entry.to_owned(),
            env: Vec::new(),
            ttl: Duration::from_millis(1_200),
            seed: number("SOLOCRON_SEED").unwrap_or_else(|| monotonic_ns() % 1_000_000),
        }
    }

    /// Starts a child that plays this part.
    pub(super) fn start<'f>(
        &self,
        fleet: &'f mut Fleet,
        part: Part,
        node: &str,
        skew_ms: i64,
        witness: &Path,
        address: String,
    ) -> &'f mut Member {
        let (node, witness) = (node.to_owned(), witness.to_owned());
        let role = Role { part, node, ttl: self.ttl, skew_ms, witness, address };
        let mut command = this_test(&self.entry, &role.to_line()).expect("this test has a path");
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        fleet.start(role.node, command).expect("the operating system gives processes")
    }

    /// A file for the witness, where no fault reaches it.
    pub(super) fn witness(&self) -> PathBuf {
        let name = format!("solocron-{}-{}-{}.history", self.name, self.seed, monotonic_ns());
        std::env::temp_dir().join(name)
    }
}
