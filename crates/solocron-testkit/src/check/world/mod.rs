//! A fleet, its store and its wire as one value that can be copied, and what may happen to it next.

mod does;
mod may;
mod wire;

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use solocron::BackendError;
use solocron::lock::{Enrolled, Mark, MarkAfter, NodeId, Reply};
use solocron::plan::{JobPlan, Plan};

use crate::check::attempt::Attempt;
use crate::check::config::{Config, Fault, step_of, time};
use crate::check::monitor::Monitor;
use crate::check::store::Store;

/// Something that may happen next. Numbers are of nodes, jobs, or places in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Time passes.
    Pass,
    /// The request of this node for this job reaches the store.
    Carry(u8, u8),
    /// Its answer is read.
    Read(u8, u8),
    /// A chore of this node reaches the store.
    Tidy(u8, u8),
    /// A request that nobody waits for reaches the store.
    Arrive(u8),
    End(u8, u8),
    LoseLease(u8, u8),
    Resume(u8),
    Heal(u8),
    Boot(u8),
    Hit(Fault, u8, u8),
    /// As [`Step::Hit`], on a chore.
    HitChore(Fault, u8, u8),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Lease {
    nonce: u32,
    fence: u64,
    attempt: u32,
    deadline: u16,
    /// The store's clock when it was granted.
    granted: u16,
    resent: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Run {
    lease: Lease,
    tick: Mark,
    started: u16,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Give {
    nonce: u32,
    after: MarkAfter,
    revoke: bool,
}

#[derive(Clone, Hash)]
enum Asked {
    Enroll,
    Acquire(Attempt),
    Give(Give),
}

#[derive(Clone)]
enum Flight {
    OnWire,
    /// It is lost, or its answer is; the caller will find out.
    Unanswered,
    Answered {
        answer: Rc<Answered>,
        slow: bool,
    },
}

#[derive(Debug)]
enum Answered {
    Enrolled(Result<Enrolled, BackendError>),
    Acquired(Result<Reply<()>, BackendError>),
    Released,
}

impl Hash for Flight {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        if let Self::Answered { answer, slow } = self {
            // Errors have no hash, and answers seldom wait.
            (format!("{answer:?}"), slow).hash(state);
        }
    }
}

#[derive(Clone, Hash)]
struct Call {
    asked: Asked,
    flight: Flight,
    sent: u16,
}

#[derive(Clone, Hash, Default)]
struct Slot {
    call: Option<Call>,
    /// Between two tasks: just won, or of a run that just ended.
    hand: Option<Lease>,
    run: Option<Run>,
    watching: bool,
}

/// Something to give back, until that is acknowledged.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Chore {
    job: u8,
    give: Give,
    on_wire: bool,
}

#[derive(Clone, Hash)]
struct Node {
    /// `None`: dead, or ended.
    plan: Option<Rc<Plan>>,
    life: u8,
    paused: bool,
    cut: bool,
    stopping: bool,
    epoch: Option<u8>,
    nonces: u32,
    slots: Vec<Slot>,
    chores: Vec<Chore>,
}

/// A request that nobody waits for any more.
#[derive(Clone, Hash)]
struct Stray {
    node: u8,
    job: u8,
    asked: Asked,
}

/// Everything there is.
#[derive(Clone)]
pub(super) struct World<'c> {
    cfg: &'c Config,
    plans: &'c Arc<[JobPlan]>,
    now: u16,
    store: Store,
    nodes: Vec<Node>,
    strays: Vec<Stray>,
    budget: u8,
    boots: u8,
    pub(super) monitor: Monitor,
    woken: Vec<(usize, usize)>,
    /// What happens, in words, where somebody wants to read it.
    pub(super) log: Option<Vec<String>>,
}

impl Hash for World<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { now, store, nodes, strays, budget, boots, monitor, .. } = self;
        (now, store, nodes, strays, budget, boots, monitor).hash(state);
    }
}

/// How many nonces one process has.
const NONCES: u32 = 100;

impl Node {
    fn lives(&self) -> bool {
        self.plan.is_some()
    }

    fn works(&self) -> bool {
        self.lives() && !self.paused
    }

    fn is_healthy(&self) -> bool {
        self.works() && !self.cut && !self.stopping
    }
}

fn name(node: usize, life: u8) -> NodeId {
    static NAMES: OnceLock<Vec<NodeId>> = OnceLock::new();
    let named = |at: usize| {
        let letter = char::from(b'a' + (at / 4) as u8);
        NodeId::named(&format!("{letter}{}", at % 4 + 1))
    };
    NAMES.get_or_init(|| (0..16).map(named).collect())[node * 4 + usize::from(life)].clone()
}

impl<'c> World<'c> {
    /// All nodes are up and have enrolled their jobs, at step 0.
    pub(super) fn new(cfg: &'c Config, plans: &'c Arc<[JobPlan]>, log: bool) -> Self {
        let node = Node {
            plan: None,
            life: 0,
            paused: false,
            cut: false,
            stopping: false,
            epoch: None,
            nonces: 0,
            slots: vec![Slot::default(); cfg.jobs.len()],
            chores: Vec::new(),
        };
        let mut world = Self {
            cfg,
            plans,
            now: 0,
            store: Store::new(cfg.jobs.len()),
            nodes: vec![node; cfg.skew.len()],
            strays: Vec::new(),
            budget: cfg.budget,
            boots: cfg.boots,
            monitor: Monitor::new(cfg),
            woken: Vec::new(),
            log: log.then(Vec::new),
        };
        for n in 0..cfg.skew.len() {
            world.boot(n);
            for j in 0..cfg.jobs.len() {
                world.carry(n, j, false);
            }
        }
        world
    }

    fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.log.is_some() {
            let text = format!("{:>3}  {}", self.now, text(self));
            self.log.iter_mut().for_each(|log| log.push(text.clone()));
        }
    }

    fn who(&self, n: usize) -> NodeId {
        name(n, self.nodes[n].life)
    }

    fn wall(&self, n: usize) -> jiff::Timestamp {
        time(i32::from(self.now) + i32::from(self.cfg.skew[n]))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(self.cfg.ttl.into())
    }

    /// The nonces of the process that this node is now.
    fn nonces(&self, n: usize) -> Range<u32> {
        let first = (n as u32 * 4 + u32::from(self.nodes[n].life)) * NONCES;
        first..first + NONCES
    }

    fn fresh_nonce(&mut self, n: usize) -> u32 {
        self.nodes[n].nonces += 1;
        self.nonces(n).start + self.nodes[n].nonces
    }
}

fn undo(nonce: u32) -> Give {
    Give { nonce, after: MarkAfter::Undo, revoke: true }
}

fn step(mark: Mark) -> i64 {
    step_of(mark.timestamp())
}

fn said(reply: &Result<Reply<()>, BackendError>) -> String {
    match reply {
        Ok(Reply::Won(grant)) => format!("won, fence {}, attempt {}", grant.fence, grant.attempt),
        Ok(Reply::Stale { mark, done, .. }) => {
            format!("stale, mark {}{}", step(*mark), if *done { ", done" } else { "" })
        }
        Ok(Reply::Busy { .. }) => "busy".to_owned(),
        Ok(Reply::Behind { mark, unfinished }) => {
            format!("behind {}{}", step(*mark), if *unfinished { ", unfinished" } else { "" })
        }
        Ok(Reply::Early { .. }) => "early".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{:?}: {error}", error.kind()),
    }
}
