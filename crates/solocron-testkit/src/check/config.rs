//! What one search covers.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use solocron::Misfire;
use solocron::lock::Delivery;
use solocron::plan::JobPlan;
use solocron::trigger::At;

/// The wall clock at step 0, in seconds.
const ORIGIN: i64 = 1_000_000;

/// A kind of harm. Each one done costs one of [`Config::budget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A request is lost before it has an effect.
    LostRequest,
    /// A request has its effect, and its answer is lost.
    LostReply,
    /// The caller gives a request up, and the request arrives at any later time, or never.
    Late,
    /// An answer stays on its way while time passes.
    Slow,
    /// A node dies; what it had sent may still arrive.
    Crash,
    /// A node stands still, for any time. Its clocks go on.
    Pause,
    /// Nothing that a node sends arrives, for any time.
    Cut,
    /// A node is told to shut down.
    Stop,
    /// The store forgets everything.
    Wipe,
    /// Somebody deletes the record of the first job, and nothing tells of it.
    Delete,
}

/// One job of a [`Config`].
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// What happens to unclaimed ticks; its grace is [`Config::grace`].
    pub misfire: fn(Duration) -> Misfire,
    /// What happens to unfinished runs.
    pub delivery: Delivery,
    /// When it is due, in steps.
    pub ticks: Vec<u16>,
}

/// The bounds of one search. Time is counted in steps of a second.
#[derive(Debug, Clone)]
pub struct Config {
    /// What it is about.
    pub name: &'static str,
    /// The fleet, by the error of each node's wall clock in steps.
    pub skew: Vec<i16>,
    /// The jobs. Each has one more tick, [`Config::last`].
    pub jobs: Vec<JobSpec>,
    /// How late a tick may be claimed.
    pub grace: u16,
    /// How long a lease lives.
    pub ttl: u16,
    /// How long a run may take; it may end at any step until then.
    pub longest_run: u16,
    /// Which faults happen.
    pub faults: Vec<Fault>,
    /// How many faults happen at most.
    pub budget: u8,
    /// No fault begins after this step; then everything is healed.
    pub faults_until: u16,
    /// When every job is due once more: what is to be reported is reported by then.
    pub last: u16,
    /// How often a dead node may come back.
    pub boots: u8,
    /// Whether the store pushes news to those who watch.
    pub pushes: bool,
}

impl Config {
    /// Two nodes with true clocks, one job that is due at steps 2 and 5, and a last time at step 14.
    #[must_use]
    pub fn new(name: &'static str, faults: &[Fault], budget: u8) -> Self {
        Self {
            name,
            skew: vec![0, 0],
            jobs: vec![JobSpec {
                misfire: |grace| Misfire::latest().grace(grace),
                delivery: Delivery::AtMostOnce,
                ticks: vec![2, 5],
            }],
            grace: 6,
            ttl: 3,
            longest_run: 2,
            faults: faults.to_vec(),
            budget,
            faults_until: 8,
            last: 14,
            boots: 0,
            pushes: true,
        }
    }

    /// A fleet with these errors of the wall clocks.
    #[must_use]
    pub fn skew(mut self, skew: &[i16]) -> Self {
        self.skew = skew.to_vec();
        self
    }

    /// Its job tries an unfinished run again.
    #[must_use]
    pub fn at_least_once(mut self, max_attempts: u32) -> Self {
        self.jobs[0].delivery = Delivery::AtLeastOnce { max_attempts };
        self
    }

    /// Its job runs every missed tick.
    #[must_use]
    pub fn run_all(mut self) -> Self {
        self.jobs[0].misfire = Misfire::all;
        self
    }

    /// When its job is due.
    #[must_use]
    pub fn ticks(mut self, ticks: &[u16]) -> Self {
        self.jobs[0].ticks = ticks.to_vec();
        self
    }

    /// How long a run may take.
    #[must_use]
    pub fn longest_run(mut self, steps: u16) -> Self {
        self.longest_run = steps;
        self
    }

    /// How long a lease lives.
    #[must_use]
    pub fn ttl(mut self, steps: u16) -> Self {
        self.ttl = steps;
        self
    }

    /// How often a dead node may come back.
    #[must_use]
    pub fn boots(mut self, boots: u8) -> Self {
        self.boots = boots;
        self
    }

    /// A store that pushes nothing.
    #[must_use]
    pub fn without_pushes(mut self) -> Self {
        self.pushes = false;
        self
    }

    /// A second job.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.jobs.extend(other.jobs);
        self
    }

    pub(super) fn plans(&self) -> Arc<[JobPlan]> {
        let grace = Duration::from_secs(self.grace.into());
        let plan = |job: &JobSpec| {
            let ticks = self.ticks_of(job).map(|step| time(i32::from(step)));
            let trigger = At::times(ticks).expect("a job has ticks of whole seconds");
            JobPlan::new(Arc::new(trigger), (job.misfire)(grace), job.delivery)
        };
        self.jobs.iter().map(plan).collect()
    }

    /// All ticks of a job, in steps.
    pub(super) fn ticks_of(&self, job: &JobSpec) -> impl Iterator<Item = u16> {
        job.ticks.clone().into_iter().chain([self.last])
    }

    /// When everything is over: the grace of the last tick, by the slowest clock, and its run.
    pub(super) fn end(&self) -> u16 {
        let slowest = self.skew.iter().map(|skew| skew.unsigned_abs()).max().unwrap_or(0);
        self.last + slowest + self.grace + self.ttl + self.longest_run + 2
    }

    pub(super) fn wants_all(&self, job: usize) -> bool {
        let grace = Duration::from_secs(1);
        (self.jobs[job].misfire)(grace) == Misfire::all(grace)
    }

    /// Attempts that a tick has in all.
    pub(super) fn attempts(&self, job: usize) -> u8 {
        match self.jobs[job].delivery {
            Delivery::AtLeastOnce { max_attempts } => max_attempts as u8,
            _ => 1,
        }
    }

    pub(super) fn at_most_once(&self, job: usize) -> bool {
        self.jobs[job].delivery == Delivery::AtMostOnce
    }
}

/// The wall clock at `step`.
pub(super) fn time(step: i32) -> Timestamp {
    Timestamp::from_second(ORIGIN + i64::from(step)).expect("a search is short")
}

/// The step at which the wall clock shows `at`.
pub(super) fn step_of(at: Timestamp) -> i64 {
    at.as_second() - ORIGIN
}
