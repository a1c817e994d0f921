//! Who does the harm.

use std::ops::Range;
use std::time::{Duration, Instant};

use solocron::lock::{LockOptions, Locks, TryLock};

use super::jobs::{self, STEADY};
use super::nodes::{Life, NAMES, Nodes, both_clocks};
use super::store::{Hits, Store, StoreFault};
use crate::Dice;

/// What can happen to a node.
const OWN: [&str; 4] = ["kill", "stop", "term", "clock"];

/// How many nodes are hit at once. The others do the work.
const MOST_HIT: usize = 2;

/// How far a node's clock may be from the others', in milliseconds.
const SKEW_MS: u64 = 150;

/// Torments nodes and a store.
pub(super) struct Nemesis<'s, S> {
    dice: Dice,
    store: &'s mut S,
    pub(super) nodes: Nodes,
    faults: Vec<StoreFault>,
    ttl: Duration,
    /// What is left of the kinds, each of which comes once before any comes again.
    bag: Vec<&'static str>,
    agenda: Vec<(Instant, Undo)>,
    /// Whom something hits, or will until it is undone.
    hit: [bool; NAMES.len()],
    everybody_hit: bool,
    /// The store is left alone until then.
    not_before: Instant,
    /// A short run: it is not.
    in_haste: bool,
    fired: Vec<&'static str>,
}

/// What is to be done later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    Boot(usize),
    Cont(usize),
    /// Heal the store of this fault.
    Heal(usize, usize),
    /// The aftermath of this fault is over.
    Over(usize, usize),
}

impl<'s, S: Store> Nemesis<'s, S> {
    pub(super) fn new(seed: u64, store: &'s mut S, nodes: Nodes, ttl: Duration) -> Self {
        let faults = store.faults();
        Self {
            dice: Dice::new(seed),
            store,
            nodes,
            faults,
            ttl,
            bag: Vec::new(),
            agenda: Vec::new(),
            hit: [false; NAMES.len()],
            everybody_hit: false,
            not_before: Instant::now(),
            in_haste: false,
            fired: Vec::new(),
        }
    }

    /// Every kind of fault that there is.
    pub(super) fn kinds(&self) -> Vec<&'static str> {
        OWN.into_iter().chain(self.faults.iter().map(|fault| fault.kind)).collect()
    }

    pub(super) fn faults(&self) -> &[StoreFault] {
        &self.faults
    }

    pub(super) fn boot_all(&mut self) {
        (0..NAMES.len()).for_each(|node| self.boot(node));
        (0..NAMES.len()).for_each(|node| self.nodes.wait_until_up(node));
    }

    fn boot(&mut self, node: usize) {
        let skew = self.skew();
        self.nodes.boot(node, skew, self.store.address(node));
        self.hit[node] = false;
    }

    fn skew(&mut self) -> i64 {
        self.dice.below(2 * SKEW_MS + 1) as i64 - SKEW_MS as i64
    }

    fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.dice.below(range.end - range.start))
    }

    /// Does harm for this long, and until each kind came so often: but for no longer than three times as long.
    pub(super) fn torment(&mut self, lasts: Duration, least: u64) {
        self.in_haste = lasts < super::LONG;
        let kinds = self.kinds().len() as u32;
        let pace = lasts / (kinds * u32::try_from(least).unwrap_or(u32::MAX) + 1);
        let pace =
            pace.clamp(Duration::from_millis(400), Duration::from_millis(1_000)).as_millis() as u64;
        let begun = Instant::now();
        let mut next = begun + self.millis(pace / 2..pace);
        while begun.elapsed() < lasts || self.rarest() < least && begun.elapsed() < lasts * 3 {
            self.step();
            if Instant::now() >= next && self.harm(next.elapsed()) {
                next = Instant::now() + self.millis(pace / 2..pace * 3 / 2);
            }
        }
    }

    /// How often the kind came that came least.
    fn rarest(&self) -> u64 {
        let times = |kind| self.fired.iter().filter(|fired| **fired == kind).count() as u64;
        self.kinds().into_iter().map(times).min().unwrap_or_default()
    }

    /// Looks on, and does what is on the agenda.
    fn step(&mut self) {
        /// A fault that comes so much later is the same fault.
        const GRAIN: Duration = Duration::from_millis(5);
        std::thread::sleep(GRAIN);
        for node in self.nodes.look() {
            let soon = self.millis(50..800);
            self.later(soon, Undo::Boot(node));
        }
        self.do_what_is_due(Instant::now());
    }

    fn later(&mut self, after: Duration, undo: Undo) {
        self.agenda.push((Instant::now() + after, undo));
    }

    fn do_what_is_due(&mut self, now: Instant) {
        self.agenda.sort_by_key(|(at, _)| *at);
        let due = self.agenda.partition_point(|(at, _)| *at <= now);
        for (_, undo) in self.agenda.drain(..due).collect::<Vec<_>>() {
            match undo {
                Undo::Boot(node) => self.boot(node),
                Undo::Cont(node) => {
                    self.nodes.cont(node);
                    self.hit[node] = false;
                }
                Undo::Heal(fault, node) => {
                    self.store.heal(self.faults[fault].kind, node);
                    let aftermath = self.faults[fault].aftermath;
                    self.later(aftermath, Undo::Over(fault, node));
                }
                Undo::Over(fault, node) => {
                    let StoreFault { kind, hits, apart, .. } = self.faults[fault];
                    if hits == Hits::Node {
                        self.nodes.heal(kind, Some(node));
                        self.hit[node] = false;
                    } else {
                        self.nodes.heal(kind, None);
                        self.everybody_hit = false;
                        self.not_before = Instant::now() + apart;
                    }
                }
            }
        }
    }

    /// Does the harm that is next, if it can be done now; it is this late.
    fn harm(&mut self, late: Duration) -> bool {
        if self.bag.is_empty() {
            self.bag = self.kinds();
        }
        let at = self.dice.below(self.bag.len() as u64) as usize;
        let kind = self.bag[at];
        let fault = self.faults.iter().position(|fault| fault.kind == kind);
        let whole = fault.is_some_and(|fault| self.faults[fault].hits == Hits::Everybody);
        let Some(node) =
            (if whole { self.may_hit_everybody().then_some(0) } else { self.victim(kind, late) })
        else {
            return false;
        };
        self.bag.swap_remove(at);
        self.fired.push(kind);
        match (kind, fault) {
            (_, Some(fault)) => self.harm_store(fault, node),
            ("kill", _) => {
                self.nodes.kill(node);
                self.hit[node] = true;
                let until = self.millis(100..1_500);
                self.later(until, Undo::Boot(node));
            }
            ("stop", _) => {
                self.nodes.stop(node);
                self.hit[node] = true;
                let ttl = self.ttl.as_millis() as u64;
                let until = self.millis(ttl / 4..ttl * 2);
                self.later(until, Undo::Cont(node));
            }
            ("term", _) => {
                self.nodes.terminate(node);
                self.hit[node] = true; // until it is gone and started again
            }
            _ => {
                let skew = self.skew();
                self.nodes.set_clock(node, skew);
            }
        }
        true
    }

    fn may_hit_everybody(&self) -> bool {
        !self.everybody_hit && (self.in_haste || Instant::now() >= self.not_before)
    }

    fn harm_store(&mut self, at: usize, node: usize) {
        let StoreFault { kind, hits, lasts_ms, .. } = self.faults[at].clone();
        if hits == Hits::Node {
            self.nodes.fault(kind, Some(node));
            self.hit[node] = true;
        } else {
            self.nodes.fault(kind, None);
            self.everybody_hit = true;
        }
        self.store.make(kind, node, &mut self.dice);
        let lasts = self.millis(lasts_ms);
        self.later(lasts, Undo::Heal(at, node));
    }

    /// A node that nothing hits, while there are enough of them. For a kill one that holds a job; that is waited for, a little.
    fn victim(&mut self, kind: &str, late: Duration) -> Option<usize> {
        const A_LITTLE: Duration = Duration::from_secs(1);
        let is_well = |node: &usize| !self.hit[*node] && self.nodes.life(*node) == Life::Up;
        let well: Vec<_> = (0..NAMES.len()).filter(is_well).collect();
        if NAMES.len() - well.len() >= MOST_HIT {
            return None;
        }
        let any = well[self.dice.below(well.len() as u64) as usize];
        let holder = self.nodes.has_just_begun(STEADY).filter(|node| well.contains(node));
        match (kind, holder) {
            ("kill", Some(holder)) => Some(holder),
            ("kill", None) if late < A_LITTLE => None,
            _ => Some(any),
        }
    }

    /// Undoes everything, and looks whether the fleet works again: all of it, and then the oldest process alone. Returns the times in
    /// which it had to, in Unix milliseconds.
    pub(super) fn heal_all(&mut self, settle: Duration) -> Vec<Range<i64>> {
        let undo = |(_, undo): &&mut (Instant, Undo)| !matches!(undo, Undo::Over(..));
        self.agenda.iter_mut().filter(undo).for_each(|(at, _)| *at = Instant::now());
        let is_down = |nodes: &Nodes, node| nodes.life(node) != Life::Up;
        while !self.agenda.is_empty() || (0..NAMES.len()).any(|node| is_down(&self.nodes, node)) {
            self.step();
        }
        self.rest(settle);
        self.nodes.reach_the_store();
        let together = self.calm();
        self.nodes.leave_the_oldest();
        self.rest(settle);
        vec![together, self.calm()]
    }

    /// Some seconds without faults, until all ticks that were due in them are started, or it is too late for that.
    fn calm(&mut self) -> Range<i64> {
        const LASTS: Duration = Duration::from_secs(3);
        let from = both_clocks().1;
        self.rest(LASTS);
        let ticks = from..both_clocks().1;
        let until = Instant::now() + jobs::grace(self.ttl);
        while Instant::now() < until && !self.nodes.has_started(&jobs::jobs(self.ttl), &ticks) {
            self.rest(Duration::from_millis(200));
        }
        ticks
    }

    /// Does nothing for a while.
    fn rest(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.step();
        }
    }

    /// Ends the fleet, and looks what it left behind.
    pub(super) fn end(mut self) -> Nodes {
        self.nodes.shut_down();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the operating system gives a runtime");
        runtime.block_on(async {
            let locks = Locks::builder(S::open(self.store.address(0)).await)
                .options(LockOptions::default().ttl(self.ttl))
                .build()
                .expect("the nodes have the same options");
            for job in jobs::jobs(self.ttl) {
                match locks.try_lock(job.name).await {
                    Ok(TryLock::Won(guard)) => drop(guard.release().await),
                    Ok(TryLock::Busy(holder)) => {
                        let by = holder
                            .map_or_else(|| "somebody".to_owned(), |holder| holder.to_string());
                        self.nodes.leak(format!("{} is still held by {by}", job.name));
                    }
                    Err(error) => {
                        self.nodes.leak(format!("nobody knows who holds {}: {error}", job.name))
                    }
                }
            }
            locks.settled().await;
        });
        self.nodes
    }
}
