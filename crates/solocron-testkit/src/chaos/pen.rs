//! A node's line to the witness.

use std::path::Path;
use std::sync::Arc;

use crate::history::{Event, What, Witness};

/// Writes in a node's name.
#[derive(Debug, Clone)]
pub(super) struct Pen {
    node: Arc<str>,
    witness: Arc<Witness>,
}

impl Pen {
    pub(super) fn new(node: &str, witness: &Path) -> Self {
        let witness = Witness::open(witness).unwrap_or_else(|error| {
            panic!("cannot open the witness {}: {error}", witness.display())
        });
        Self { node: node.into(), witness: Arc::new(witness) }
    }

    pub(super) fn write(&self, what: What) {
        self.write_event(&Event::now(&*self.node, what));
    }

    pub(super) fn write_event(&self, event: &Event) {
        if let Err(error) = self.witness.record(event) {
            // Without its witness nobody must go on: what it does would not be seen.
            eprintln!("{}: no witness: {error}", self.node);
            std::process::abort();
        }
    }
}
