//! What the witnesses of a simulation write down.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use solocron::lock::{LockBackend, MemoryBackend, Nonce};

use super::clock::{WALL_MS, elapsed};
use crate::history::{Claim, Event, History, Meta, What};

/// All events so far, in their order.
#[derive(Debug, Default)]
pub(super) struct Record(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    claims: HashMap<Nonce, Claim>,
    asked: HashMap<Nonce, u64>,
}

/// Who writes: a node and which life of it.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) record: Arc<Record>,
    pub(super) node: String,
    pub(super) life: u32,
}

impl Writer {
    pub(super) fn write(&self, what: What) {
        self.record.write(&self.node, self.life, what);
    }

    /// An acquisition leaves.
    pub(super) fn asked(&self, nonce: Nonce) {
        self.record.state().asked.entry(nonce).or_insert_with(now);
    }

    /// The store granted a claim.
    pub(super) fn granted(&self, nonce: Nonce, claim: Claim) {
        let mut state = self.record.state();
        if state.claims.contains_key(&nonce) {
            return;
        }
        state.claims.insert(nonce, claim.clone());
        let asked = state.asked.get(&nonce).copied().unwrap_or_else(now);
        drop(state);
        self.write(What::Grant { claim, asked, answered: now() });
    }

    /// The store took a grant back.
    pub(super) fn undone(&self, nonce: Nonce) {
        let claim = self.record.state().claims.remove(&nonce);
        if let Some(claim) = claim {
            self.write(What::Undo { claim });
        }
    }
}

fn now() -> u64 {
    elapsed().as_nanos() as u64
}

impl Record {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self) {
        let meta = Meta { wall_ms: WALL_MS, grace_ms: 0, settle_ms: 0, jobs: BTreeMap::new() };
        self.write("harness", 0, What::Meta(meta));
    }

    pub(super) fn write(&self, node: &str, pid: u32, what: What) {
        let event = Event { t: now(), node: node.to_owned(), pid, what };
        self.state().events.push(event);
    }

    /// Writes down how often calls were hit: too many to be events of their own.
    pub(super) fn count(&self, kinds: &[(&str, u64)]) {
        for (kind, times) in kinds {
            for _ in 0..*times {
                let (kind, node) = ((*kind).to_owned(), "network".to_owned());
                self.write("harness", 0, What::Fault { kind, node });
            }
        }
    }

    /// Looks for locks that outlived the fleet.
    pub(super) async fn leaks(&self, store: &MemoryBackend) {
        for holder in store.holders("").await.ok().flatten().into_iter().flatten() {
            self.write("harness", 0, What::Leak { what: holder.to_string() });
        }
    }

    pub(super) fn history(&self) -> History {
        let events = std::mem::take(&mut self.state().events);
        History::new(events).expect("the meta was written first")
    }
}
