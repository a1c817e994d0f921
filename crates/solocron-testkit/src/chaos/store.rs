//! What a backend's tests tell the chaos of their store.

use std::ops::Range;
use std::time::Duration;

use solocron::lock::LockBackend;

use crate::Dice;

/// A store, and the troubles that can be made for it.
pub trait Store {
    /// The backend under test.
    type Backend: LockBackend;

    /// A client of the store at `address`, in whichever process.
    fn open(address: String) -> impl Future<Output = Self::Backend> + Send;

    /// Where this node finds the store: behind a proxy of its own, if it shall be cut off alone. It may be asked for each time the
    /// node is started.
    fn address(&self, node: usize) -> String;

    /// What can happen to the store, besides what happens to the nodes.
    fn faults(&self) -> Vec<StoreFault> {
        Vec::new()
    }

    /// Does the harm of this kind. `node` is the one that is hit, if the kind hits one.
    fn make(&mut self, kind: &str, _node: usize, _dice: &mut Dice) {
        unreachable!("this store suffers no `{kind}`")
    }

    /// Undoes it. When it returns, the store answers again.
    fn heal(&mut self, _kind: &str, _node: usize) {}
}

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hits {
    /// One node.
    Node,
    /// All of them.
    Everybody,
}

/// One kind of fault that a store can suffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFault {
    /// One word. `kill`, `stop`, `term` and `clock` are the nodes' own.
    pub kind: &'static str,
    /// Whom it hits.
    pub hits: Hits,
    /// How long until it is healed, in milliseconds.
    pub lasts_ms: Range<u64>,
    /// For how long after that nobody can be asked to work: the wait after lost memory, an election.
    pub aftermath: Duration,
    /// How long the store is left alone after that, in a long run: where each fault puts off what the one before it has begun.
    pub apart: Duration,
    /// Whether records are lost: what was not finished may then stay untold.
    pub forgets: bool,
    /// Whether two may hold one process-bound lock until the loss is noticed.
    pub splits: bool,
}

impl StoreFault {
    /// A fault of this kind that is healed without a trace.
    #[must_use]
    pub fn new(kind: &'static str, hits: Hits, lasts_ms: Range<u64>) -> Self {
        let (aftermath, apart) = (Duration::ZERO, Duration::ZERO);
        Self { kind, hits, lasts_ms, aftermath, apart, forgets: false, splits: false }
    }

    /// For how long after it nobody can be asked to work.
    #[must_use]
    pub fn aftermath(mut self, time: Duration) -> Self {
        self.aftermath = time;
        self
    }

    /// How long the store is left alone after that, in a long run.
    #[must_use]
    pub fn apart(mut self, time: Duration) -> Self {
        self.apart = time;
        self
    }

    /// Records are lost by it.
    #[must_use]
    pub fn forgets(mut self) -> Self {
        self.forgets = true;
        self
    }

    /// Two may hold one process-bound lock until it is noticed.
    #[must_use]
    pub fn splits(mut self) -> Self {
        self.splits = true;
        self
    }
}
