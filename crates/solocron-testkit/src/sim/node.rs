//! The fleet: nodes that are started, paused, cut off, killed and started again.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use solocron::lock::{Delivery, LockOptions, Locks, MemoryBackend, NodeId};
use solocron::trigger::{Cron, Every};
use solocron::{Cancelled, Context, Coordination, Event, Job, Misfire, Scheduler, Stopper, What};

use super::Profile;
use super::clock::SimClock;
use super::gate::Gate;
use super::link::{Hits, Link, Net};
use super::record::{Record, Writer};
use super::rng::Rng;
use crate::history::{self, Claim, KILL, Outcome, STOP};

/// How long a lease lives.
pub(super) const TTL: Duration = Duration::from_secs(6);

/// How late a tick may be claimed, for every job.
pub(super) const GRACE: Duration = Duration::from_secs(24);

/// How often an unfinished tick of an at-least-once job is tried.
pub(super) const ATTEMPTS: u32 = 3;

/// The jobs, when they are due, and how long a run takes.
pub(super) const JOBS: [JobSpec; 5] = [
    JobSpec { name: "brief", every: 10, offset: 0, run_ms: 0..1 },
    JobSpec { name: "long", every: 30, offset: 3, run_ms: 2_000..50_000 },
    JobSpec { name: "cron", every: 20, offset: 5, run_ms: 100..3_000 },
    JobSpec { name: "again", every: 45, offset: 7, run_ms: 1_000..15_000 },
    JobSpec { name: "all", every: 40, offset: 11, run_ms: 500..12_000 },
];

/// A job of the simulation.
#[derive(Debug, Clone)]
pub(super) struct JobSpec {
    pub(super) name: &'static str,
    /// In seconds, as the offset: due at every `every`th second of Unix time plus this.
    pub(super) every: u64,
    pub(super) offset: u64,
    pub(super) run_ms: std::ops::Range<u64>,
}

/// One started process.
#[derive(Debug)]
struct Life {
    gate: Arc<Gate>,
    net: Arc<Net>,
    stopper: Stopper,
    writer: Writer,
    paused: bool,
    cut: bool,
    ended: Arc<std::sync::atomic::AtomicBool>,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Fleet {
    seed: u64,
    profile: Profile,
    store: MemoryBackend,
    pub(super) record: Arc<Record>,
    lives: Mutex<Vec<Option<Life>>>,
    next_life: AtomicU32,
    noise: AtomicUsize,
    hits: Mutex<Hits>,
}

impl Fleet {
    pub(super) fn new(
        seed: u64,
        profile: Profile,
        store: MemoryBackend,
        record: Arc<Record>,
    ) -> Arc<Self> {
        let nodes = 3 + Rng::new(seed, 1).below(3) as usize;
        let lives = Mutex::new((0..nodes).map(|_| None).collect());
        Arc::new(Self {
            seed,
            profile,
            store,
            record,
            lives,
            next_life: AtomicU32::new(1),
            noise: AtomicUsize::new(0),
            hits: Mutex::default(),
        })
    }

    pub(super) fn nodes(&self) -> usize {
        self.with(|lives| lives.len())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<Option<Life>>) -> T) -> T {
        look(&mut self.lives.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn boot_all(&self) {
        (0..self.nodes()).for_each(|node| self.boot(node));
    }

    /// Starts a node that is down.
    pub(super) fn boot(&self, node: usize) {
        let down = self.with(|lives| {
            lives[node]
                .as_ref()
                .is_none_or(|life| life.gate.is_dead() || life.ended.load(Ordering::Relaxed))
        });
        if !down {
            return;
        }
        let life = self.next_life.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::new(self.seed, 1000 + u64::from(life));
        let skew = if self.profile == Profile::Calm { 0 } else { rng.below(4001) as i64 - 2000 };
        let writer = Writer { record: Arc::clone(&self.record), node: format!("n{node}"), life };
        let clock = Arc::new(SimClock::new(skew, rng.millis(1..9_000_000)));
        let (gate, net) = (Arc::new(Gate::default()), Arc::new(Net::new(Rng::new(rng.next(), 2))));
        net.noise(self.noise.load(Ordering::Relaxed) as u64);
        let link =
            Link { inner: self.store.clone(), net: Arc::clone(&net), writer: writer.clone() };
        let locks = Locks::builder(link)
            .options(LockOptions::default().ttl(TTL))
            .clock(clock)
            .keeper(gate.keeper())
            .node(NodeId::named(&format!("n{node}/{life}")))
            .build()
            .expect("the options agree with each other");
        let (heard, seed) = (writer.clone(), rng.next());
        let jobs = JOBS.iter().map(|spec| job(spec, seed, &writer, &gate));
        let coordination = match self.profile {
            Profile::Leader => Coordination::leader("fleet"),
            _ => Coordination::PerTick,
        };
        let scheduler = Scheduler::builder(locks.clone())
            .coordination(coordination)
            .jobs(jobs)
            .spawner(gate.keeper())
            .drain(Duration::from_secs(20))
            .observe(move |event| observe(&heard, event))
            .build()
            .expect("the jobs are right");
        let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let started = Life {
            gate: Arc::clone(&gate),
            net,
            stopper: scheduler.stopper(),
            writer: writer.clone(),
            paused: false,
            cut: false,
            ended: Arc::clone(&ended),
        };
        self.with(|lives| {
            if let Some(old) = lives[node].replace(started) {
                self.count(&old);
            }
        });
        writer.write(history::What::Boot);
        gate.spawn(Box::pin(async move {
            scheduler
                .run_until(std::future::pending::<()>())
                .await
                .expect("a scheduler outlives its store's faults");
            locks.settled().await;
            writer.write(history::What::Bye);
            ended.store(true, Ordering::Relaxed);
        }));
    }

    fn count(&self, life: &Life) {
        let (mut sum, new) =
            (self.hits.lock().unwrap_or_else(PoisonError::into_inner), life.net.hits());
        sum.lost_requests += new.lost_requests;
        sum.lost_replies += new.lost_replies;
        sum.late += new.late;
        sum.refused += new.refused;
        sum.cut += new.cut;
    }

    fn fault(&self, node: usize, kind: &str, heal: bool) {
        let (kind, node) = (kind.to_owned(), format!("n{node}"));
        let what = if heal {
            history::What::Heal { kind, node }
        } else {
            history::What::Fault { kind, node }
        };
        self.record.write("harness", 0, what);
    }

    /// Does something to a life that is up.
    fn up<T>(&self, node: usize, act: impl FnOnce(&mut Life) -> T) -> Option<T> {
        self.with(|lives| {
            lives[node]
                .as_mut()
                .filter(|life| !life.gate.is_dead() && !life.ended.load(Ordering::Relaxed))
                .map(act)
        })
    }

    pub(super) fn kill(&self, node: usize) {
        if let Some((gate, paused, cut)) =
            self.up(node, |life| (Arc::clone(&life.gate), life.paused, life.cut))
        {
            self.fault(node, KILL, false);
            gate.kill();
            if paused {
                self.fault(node, STOP, true);
            }
            if cut {
                self.fault(node, "cut", true);
            }
            self.up(node, |_| ());
        }
    }

    pub(super) fn pause(&self, node: usize) {
        if self.up(node, |life| !std::mem::replace(&mut life.paused, true)) == Some(true) {
            self.fault(node, STOP, false);
            self.up(node, |life| life.gate.pause());
        }
    }

    pub(super) fn resume(&self, node: usize) {
        if self.up(node, |life| std::mem::replace(&mut life.paused, false)) == Some(true) {
            self.up(node, |life| life.gate.resume());
            self.fault(node, STOP, true);
        }
    }

    pub(super) fn cut(&self, node: usize) {
        if self.up(node, |life| !std::mem::replace(&mut life.cut, true)) == Some(true) {
            self.fault(node, "cut", false);
            self.up(node, |life| life.net.cut(true));
        }
    }

    pub(super) fn connect(&self, node: usize) {
        if self.up(node, |life| std::mem::replace(&mut life.cut, false)) == Some(true) {
            self.up(node, |life| life.net.cut(false));
            self.fault(node, "cut", true);
        }
    }

    pub(super) fn stop(&self, node: usize) {
        self.up(node, |life| {
            life.writer.write(history::What::Stop);
            life.stopper.stop();
        });
    }

    /// How many calls in a thousand are hit, from now on.
    pub(super) fn noise(&self, per_thousand: u64) {
        self.noise.store(per_thousand as usize, Ordering::Relaxed);
        self.with(|lives| lives.iter().flatten().for_each(|life| life.net.noise(per_thousand)));
    }

    pub(super) fn heal_all(&self) {
        self.noise(0);
        for node in 0..self.nodes() {
            self.resume(node);
            self.connect(node);
            self.boot(node);
        }
    }

    pub(super) async fn shut_down(&self) {
        let nodes = self.nodes();
        (0..nodes).for_each(|node| self.stop(node));
        while (0..nodes).any(|node| self.up(node, |_| ()).is_some()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.with(|lives| lives.iter().flatten().for_each(|life| self.count(life)));
        let hits = *self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = [
            ("lost request", hits.lost_requests),
            ("lost reply", hits.lost_replies),
            ("late", hits.late),
            ("refused", hits.refused),
            ("call while cut", hits.cut),
        ];
        self.record.count(&kinds);
    }
}

fn job(spec: &JobSpec, seed: u64, writer: &Writer, gate: &Arc<Gate>) -> Job {
    let (writer, gate, spec_of) = (writer.clone(), Arc::clone(gate), spec.clone());
    let work =
        move |ctx: Context| run(ctx, spec_of.clone(), seed, writer.clone(), Arc::clone(&gate));
    let every = || {
        let every = Every::new(Duration::from_secs(spec.every)).expect("whole seconds");
        every.offset(Duration::from_secs(spec.offset)).expect("whole seconds")
    };
    let latest = Misfire::latest().grace(GRACE);
    match spec.name {
        "cron" => {
            let cron = Cron::parse("5/20 * * * * *").expect("a pattern with seconds");
            Job::new(spec.name, cron, work).misfire(latest)
        }
        "again" => Job::new(spec.name, every(), work)
            .misfire(latest)
            .delivery(Delivery::AtLeastOnce { max_attempts: ATTEMPTS }),
        "all" => Job::new(spec.name, every(), work).misfire(Misfire::all(GRACE * 5)),
        _ => Job::new(spec.name, every(), work).misfire(latest),
    }
}

/// Writes that a run was cut short, if it is dropped by a process that lives.
struct CutShort {
    claim: Option<Claim>,
    writer: Writer,
    gate: Arc<Gate>,
}

impl Drop for CutShort {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take().filter(|_| !self.gate.is_dead()) {
            self.writer.write(history::What::Over { claim, outcome: Outcome::Lost });
        }
    }
}

/// What every job does: something that others can see, now and then, until it is done or told to stop.
async fn run(
    ctx: Context,
    spec: JobSpec,
    seed: u64,
    writer: Writer,
    gate: Arc<Gate>,
) -> Result<(), Cancelled> {
    let tick = ctx.tick().as_millisecond();
    let claim = Claim::new(spec.name, tick, ctx.fence().as_u64());
    for missed in ctx.missed() {
        let (job, tick) = (spec.name.to_owned(), missed.as_millisecond());
        writer.write(history::What::Missed { job, tick });
    }
    writer.write(history::What::Start { claim: claim.clone(), attempt: ctx.attempt() });
    let mut cut_short = CutShort { claim: Some(claim.clone()), writer: writer.clone(), gate };
    let mut left = Rng::new(seed, tick as u64).millis(spec.run_ms);
    let mut n = 0;
    loop {
        writer.write(history::What::Effect { claim: claim.clone(), n });
        n += 1;
        let nap = left.min(Duration::from_millis(1500));
        if nap.is_zero() {
            break;
        }
        tokio::time::sleep(nap).await;
        left -= nap;
        ctx.checkpoint()?;
    }
    cut_short.claim = None;
    writer.write(history::What::Over { claim, outcome: Outcome::End });
    Ok(())
}

/// Writes down what the library says of ticks.
fn observe(writer: &Writer, event: &Event) {
    let job = event.job.as_str();
    let Some(spec) = JOBS.iter().find(|spec| spec.name == job) else { return };
    let skipped = |after: i64, to: i64, why: &str| {
        for tick in ticks(spec, after, to) {
            let (job, why) = (job.to_owned(), why.to_owned());
            writer.write(history::What::Skipped { job, tick, why });
        }
    };
    match &event.what {
        What::Missed { tick, .. } => {
            let tick = tick.as_millis();
            writer.write(history::What::Missed { job: job.to_owned(), tick });
        }
        What::Abandoned { tick, .. } => {
            let tick = tick.as_millis();
            writer.write(history::What::Abandoned { job: job.to_owned(), tick });
        }
        What::Overlapped { after, to } => {
            skipped(after.as_millis(), to.as_millis(), "overlap");
        }
        What::Forgot { mark } => {
            let far = (GRACE * 5).as_millis() as i64;
            skipped(mark.as_millis() - far, mark.as_millis(), "forgot");
        }
        _ => {}
    }
}

/// The ticks of a job after `after` up to `to`, by a reckoning of our own.
pub(super) fn ticks(spec: &JobSpec, after: i64, to: i64) -> impl Iterator<Item = i64> + use<> {
    let (period, offset) = (spec.every as i64 * 1000, spec.offset as i64 * 1000);
    let first = (after - offset).div_euclid(period) + 1;
    (first..).map(move |n| n * period + offset).take_while(move |tick| *tick <= to)
}
