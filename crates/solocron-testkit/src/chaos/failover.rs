//! How long it takes until somebody else has the lock of a holder that is killed, and until its job runs again.

use std::fmt;
use std::time::{Duration, Instant};

use super::jobs::{self, STEADY};
use super::node::Part;
use super::nodes::{NAMES, Nodes, PATIENCE};
use super::setup::Setup;
use super::store::Store;
use super::{capabilities, number};
use crate::Dice;
use crate::fleet::{Fleet, Member};
use crate::history::{History, KILL, What, monotonic_ns};

/// How many holders are killed, unless the environment says otherwise.
const FEW: u64 = 3;

/// A measurement to be: it kills holders of a lock that another process waits for, then nodes in the middle of a run.
/// `SOLOCRON_KILLS` says how many of each; three by default.
#[derive(Debug, Clone)]
pub struct Failover {
    setup: Setup,
    kills: u64,
}

impl Failover {
    /// A measurement called `name`, whose processes are started as the test `entry` of this test binary, which does nothing but
    /// call [`as_node`](super::as_node).
    ///
    /// # Panics
    ///
    /// Where `SOLOCRON_KILLS` or `SOLOCRON_SEED` is no number.
    #[must_use]
    pub fn new(name: &str, entry: &str) -> Self {
        Self { setup: Setup::new(name, entry), kills: number("SOLOCRON_KILLS").unwrap_or(FEW) }
    }

    /// The ttl of all leases; 1.2 s by default.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.setup.ttl = ttl;
        self
    }

    /// Measures. Over a store without marks, which cannot schedule tick by tick, only the lock.
    ///
    /// # Panics
    ///
    /// Where a process cannot be started, or nobody takes over within a minute.
    pub fn run<S: Store>(&self, store: &mut S) -> TakeOvers {
        let lock = self.of_the_lock(store);
        let ticks = if capabilities(store).marks { self.of_the_ticks(store) } else { Vec::new() };
        let Setup { name, ttl, .. } = self.setup.clone();
        TakeOvers { name, ttl, lock, ticks }
    }

    /// From each kill of a holder to the win of a process that waited.
    fn of_the_lock<S: Store>(&self, store: &S) -> Vec<Duration> {
        let Setup { ttl, seed, .. } = self.setup;
        let (mut dice, mut fleet, witness) = (Dice::new(seed), Fleet::new(), self.setup.witness());
        let start = |fleet: &mut Fleet, n: u64| {
            let name = n.to_string();
            let address = store.address((n % NAMES.len() as u64) as usize);
            self.setup.start(fleet, Part::Waiter, &name, 0, &witness, address);
            fleet[&name].send("lock").expect("a child that was just started listens");
        };
        start(&mut fleet, 0);
        let (_, mut fence) = won(&mut fleet["0"]);
        let mut times = Vec::new();
        for n in 1..=self.kills {
            start(&mut fleet, n);
            fleet[&n.to_string()].expect("waits", PATIENCE).expect("the lock is held");
            // At any time between two renewals.
            std::thread::sleep(
                ttl / 3 * u32::try_from(dice.below(1_000)).expect("it is below") / 1_000,
            );
            let holder = &mut fleet[&(n - 1).to_string()];
            let killed = monotonic_ns();
            holder.kill().expect("the holder lives");
            holder.wait(PATIENCE).expect("a process can be killed");
            let (at, next) = won(&mut fleet[&n.to_string()]);
            assert!(next > fence, "fence {next} after {fence}");
            fence = next;
            times.push(Duration::from_nanos(at.saturating_sub(killed)));
        }
        times
    }

    /// From each kill of a node in the middle of a run to the start of its job's next tick.
    fn of_the_ticks<S: Store>(&self, store: &S) -> Vec<Duration> {
        let mut nodes = Nodes::new(self.setup.clone(), &jobs::jobs(self.setup.ttl), Duration::ZERO);
        (0..NAMES.len()).for_each(|node| nodes.boot(node, 0, store.address(node)));
        (0..NAMES.len()).for_each(|node| nodes.wait_until_up(node));
        for _ in 0..self.kills {
            let node = until(&mut nodes, |nodes| nodes.has_just_begun(STEADY));
            nodes.kill(node);
            let killed = Instant::now();
            until(&mut nodes, |nodes| nodes.begun_since(STEADY, killed));
            nodes.boot(node, 0, store.address(node));
            nodes.wait_until_up(node);
        }
        nodes.shut_down();
        assert!(nodes.broken.is_empty(), "{:?}", nodes.broken);
        let history = History::read(nodes.witness()).expect("the witness was written whole");
        nodes.close(true);
        let events = history.events();
        let kills = events
            .iter()
            .filter(|event| matches!(&event.what, What::Fault { kind, .. } if kind == KILL));
        let next_start = |killed: u64| {
            let starts = events.iter().filter(
                |event| matches!(&event.what, What::Start { claim, .. } if claim.job == STEADY),
            );
            starts.map(|start| start.t).filter(|t| *t > killed).min()
        };
        kills
            .map(|kill| {
                let next = next_start(kill.t).expect("it was waited for");
                Duration::from_nanos(next - kill.t)
            })
            .collect()
    }
}

/// When a child won, and its fence.
fn won(child: &mut Member) -> (u64, u64) {
    let line = child
        .expect("won", PATIENCE * 2)
        .unwrap_or_else(|error| panic!("nobody took over: {error}"));
    let (at, fence) = line.split_once(' ').expect("a time and a fence");
    (at.parse().expect("a number"), fence.parse().expect("a number"))
}

/// Waits for something that the nodes do.
fn until(nodes: &mut Nodes, done: impl Fn(&Nodes) -> Option<usize>) -> usize {
    let begun = Instant::now();
    loop {
        nodes.look();
        if let Some(node) = done(nodes) {
            return node;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "no run of `{STEADY}` began within {PATIENCE:?}: {:?}",
            nodes.broken
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct TakeOvers {
    name: String,
    ttl: Duration,
    /// From `kill -9` of a holder to the win of a process that waited.
    pub lock: Vec<Duration>,
    /// From `kill -9` of a node in the middle of a run to the start of that job's next tick. Empty where there are no marks.
    pub ticks: Vec<Duration>,
}

impl TakeOvers {
    /// What a loaded machine may add to any bound: the processes share its cores with whatever else runs there.
    const SLACK: Duration = Duration::from_secs(2);

    /// Prints the table.
    ///
    /// # Panics
    ///
    /// Where a lock was taken over later than `bound`, or the next tick of the job was started later than that and a period, both
    /// with two seconds of slack for a loaded machine.
    pub fn assert_within(&self, bound: Duration) {
        let period = jobs::jobs(self.ttl)
            .into_iter()
            .find(|job| job.name == STEADY)
            .map(|job| job.period_ms.unsigned_abs());
        let period = Duration::from_millis(period.expect("it is one of them"));
        eprintln!("{self}");
        let (lock, ticks) = (bound + Self::SLACK, bound + period + Self::SLACK);
        eprintln!(
            "  asserted: {bound:?} for the lock and {:?} for the tick, and {:?} of slack",
            bound + period,
            Self::SLACK
        );
        assert!(
            self.lock.iter().all(|time| *time <= lock),
            "a take-over of the lock took longer than {lock:?}"
        );
        assert!(
            self.ticks.iter().all(|time| *time <= ticks),
            "a tick was run later than {ticks:?} after the kill"
        );
    }
}

impl fmt::Display for TakeOvers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ttl, lock, ticks } = self;
        write!(f, "failover {name}, ttl {ttl:?}")?;
        for (what, times) in [("lock won by a waiter", lock), ("next tick of the job", ticks)] {
            let mut times = times.clone();
            times.sort_unstable();
            if let (Some(median), Some(worst)) = (times.get(times.len() / 2), times.last()) {
                write!(
                    f,
                    "\n  kill -9 to {what}: {} kills, median {median:.1?}, worst {worst:.1?}",
                    times.len()
                )?;
            }
        }
        Ok(())
    }
}
