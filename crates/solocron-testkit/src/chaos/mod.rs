//! Four real processes, one store, and a nemesis: kills, stops, clean ends, wrong clocks, and whatever the store can suffer.
//!
//! ```text
//!   parent: nemesis ──► signals, clocks ──► node a, b, c, d: a real Scheduler each ──► proxy ──┐
//!              └──────► Store::make, Store::heal ──────────────────────────────────────────────┴► the store
//!                       everybody ──► Witness (a file no fault reaches) ──► History ──► check, judge
//! ```
//!
//! A backend's tests implement [`Store`], give the nodes an entry, and run:
//!
//! ```no_run
//! use solocron::lock::MemoryBackend;
//! use solocron_testkit::chaos::{self, Chaos};
//!
//! struct Nowhere;
//!
//! impl chaos::Store for Nowhere {
//!     type Backend = MemoryBackend;
//!
//!     async fn open(_address: String) -> MemoryBackend {
//!         MemoryBackend::new() // a real one reaches the store at this address
//!     }
//!
//!     fn address(&self, _node: usize) -> String {
//!         String::new()
//!     }
//! }
//!
//! # #[cfg(any())]
//! #[test]
//! fn is_a_node() {
//!     chaos::as_node::<Nowhere>();
//! }
//!
//! # #[cfg(any())]
//! #[test]
//! fn a_fleet_under_faults_keeps_its_promises() {
//!     Chaos::new("nowhere", "is_a_node").run(&mut Nowhere).assert();
//! }
//! ```
//!
//! What is asked of the history:
//!
//! - everything that [`check`](crate::history::check) asks, I4 without taking the library's word for a missed tick of a job that
//!   runs all of them;
//! - no tick of an at-most-once job is started twice, and a run that did not end is told of, or tried again;
//! - no job stands still for much longer than the lock of a dead holder may block it;
//! - after the last fault every due tick is run, by all nodes and then by the oldest process alone, and each node reaches the store;
//! - enough happened: every kind of fault, kills of holders, ticks that ran. Else the run is void, which is a failure.
//!
//! `SOLOCRON_CHAOS_SECONDS` says for how long there are faults, `SOLOCRON_SEED` which ones; each run prints its seed. Processes
//! are not deterministic: a seed repeats the faults, not what comes of them. The history of a run that failed is kept;
//! `SOLOCRON_CHAOS_KEEP=1` keeps that of any.

mod clock;
mod failover;
mod jobs;
mod judge;
mod nemesis;
mod node;
mod nodes;
mod pen;
mod setup;
mod store;
mod verdict;
mod waiter;
mod witnessed;

use std::time::{Duration, Instant};

use solocron::lock::{Capabilities, LockBackend};

pub use self::failover::{Failover, TakeOvers};
pub use self::node::as_node;
pub use self::store::{Hits, Store, StoreFault};
pub use self::verdict::{Least, Verdict};

use self::judge::Case;
use self::nemesis::Nemesis;
use self::nodes::Nodes;
use self::setup::Setup;
use crate::history::History;

/// How many nodes there are.
pub const NODES: usize = nodes::NAMES.len();

/// For how long there are faults, unless the environment says otherwise.
const SHORT: Duration = Duration::from_secs(15);

/// From here on a run is long, and more is asked of it.
const LONG: Duration = Duration::from_secs(120);

/// A run to be: which backend, which entry, how its locks are taken.
#[derive(Debug, Clone)]
pub struct Chaos {
    setup: Setup,
    settle: Duration,
    outlives: Option<Duration>,
    lasts: Duration,
    least: Option<Least>,
}

impl Chaos {
    /// A run called `name`, whose nodes are started as the test `entry` of this test binary (its path in there), which does
    /// nothing but call [`as_node`].
    ///
    /// # Panics
    ///
    /// Where `SOLOCRON_CHAOS_SECONDS` or `SOLOCRON_SEED` is no number.
    #[must_use]
    pub fn new(name: &str, entry: &str) -> Self {
        Self {
            setup: Setup::new(name, entry),
            settle: Duration::from_secs(3),
            outlives: None,
            lasts: number("SOLOCRON_CHAOS_SECONDS").map_or(SHORT, Duration::from_secs),
            least: None,
        }
    }

    /// The ttl of all leases; 1.2 s by default. Where leases are bound to the process it only says how long the stops and the long
    /// runs are.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.setup.ttl = ttl;
        self
    }

    /// What the fleet may need to work again after a boot or a heal, on a slow machine; 3 s by default.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// How long the lock of a dead holder may go on blocking others, at the worst. By default a ttl and a second, since its last
    /// renewal may still be on its way.
    #[must_use]
    pub fn outlives(mut self, time: Duration) -> Self {
        self.outlives = Some(time);
        self
    }

    /// For how long there are faults, whatever the environment says.
    #[must_use]
    pub fn lasts(mut self, time: Duration) -> Self {
        self.lasts = time;
        self
    }

    /// A variable in the environment of the nodes.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.setup.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// How much must have happened, or the run is void. By default [`Least::LONG`] in a run of two minutes and more, else
    /// [`Least::SHORT`].
    #[must_use]
    pub fn at_least(mut self, least: Least) -> Self {
        self.least = Some(least);
        self
    }

    /// Runs it, and judges what happened.
    ///
    /// # Panics
    ///
    /// Where the harness itself fails: no process can be started, the witness cannot be written or read.
    pub fn run<S: Store>(&self, store: &mut S) -> Verdict {
        let Self { setup, settle, outlives, lasts, least } = self.clone();
        let Setup { name, seed, ttl, .. } = setup.clone();
        let least = least.unwrap_or(if lasts < LONG { Least::SHORT } else { Least::LONG });
        let Capabilities { ttl: range, store_clock, .. } = capabilities(store);
        let jobs = jobs::jobs(ttl);
        // Where a run hangs, this is what is left of it.
        eprintln!("chaos {name}: SOLOCRON_SEED={seed}");
        let nodes = Nodes::new(setup, &jobs, settle);
        let mut nemesis = Nemesis::new(seed, store, nodes, ttl);
        let (kinds, begun) = (nemesis.kinds(), Instant::now());
        nemesis.boot_all();
        nemesis.torment(lasts, least.faults_of_a_kind);
        let lasted = begun.elapsed();
        let calm = nemesis.heal_all(settle);
        let faults = nemesis.faults().to_vec();
        let nodes = nemesis.end();
        let history = History::read(nodes.witness())
            .unwrap_or_else(|error| panic!("{}: {error}", nodes.witness().display()));
        let case = Case {
            name,
            seed,
            ttl,
            settle,
            outlives: outlives.unwrap_or(ttl + Duration::from_secs(1)),
            lasted,
            process_bound: range.is_none(),
            store_clock,
            jobs,
            kinds,
            faults,
            least,
            broken: nodes.broken.clone(),
            calm,
        };
        let mut verdict = judge::judge(case, &history);
        let keep =
            !verdict.is_clean() || number("SOLOCRON_CHAOS_KEEP").is_some_and(|keep| keep > 0);
        verdict.history = nodes.close(!keep);
        verdict
    }
}

fn capabilities<S: Store>(store: &S) -> Capabilities {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives a runtime");
    runtime.block_on(async { S::open(store.address(0)).await.capabilities() })
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
