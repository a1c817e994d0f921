//! The nodes, as their parent sees them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use solocron::jiff::Timestamp;

use super::jobs::{JobSpec, grace};
use super::node::Part;
use super::pen::Pen;
use super::setup::Setup;
use crate::fleet::Fleet;
use crate::history::{EVERYBODY, Event, History, KILL, Meta, STOP, Schedule, What, monotonic_ns};

/// Their names.
pub(super) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Longer than a start or a shutdown takes, whatever the store does.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Who writes down what is done to the nodes.
const NEMESIS: &str = "nemesis";

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Up,
    Stopped,
    /// Told to end, and not gone yet.
    Leaving {
        since: Instant,
    },
    Down,
}

/// All nodes, and the witness of what becomes of them. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Nodes {
    setup: Setup,
    fleet: Fleet,
    lives: [Life; NAMES.len()],
    /// When each was started last.
    booted: [Instant; NAMES.len()],
    /// Who began a run last, by job.
    begun: BTreeMap<String, (usize, Instant)>,
    witness: PathBuf,
    pen: Pen,
    /// What is wrong with the processes themselves.
    pub(super) broken: Vec<String>,
}

impl Nodes {
    /// No node runs yet. The witness begins with what these jobs are judged by.
    pub(super) fn new(setup: Setup, jobs: &[JobSpec], settle: Duration) -> Self {
        let witness = setup.witness();
        let pen = Pen::new(NEMESIS, &witness);
        let (t, wall_ms) = both_clocks();
        let every = |job: &JobSpec| Schedule::Every { period_ms: job.period_ms.unsigned_abs() };
        let what = What::Meta(Meta {
            wall_ms,
            grace_ms: grace(setup.ttl).as_millis() as u64,
            settle_ms: settle.as_millis() as u64,
            jobs: jobs.iter().map(|job| (job.name.to_owned(), every(job))).collect(),
        });
        pen.write_event(&Event { t, node: NEMESIS.to_owned(), pid: std::process::id(), what });
        let (lives, booted) = ([Life::Down; NAMES.len()], [Instant::now(); NAMES.len()]);
        let (fleet, begun, broken) = (Fleet::new(), BTreeMap::new(), Vec::new());
        Self { setup, fleet, lives, booted, begun, witness, pen, broken }
    }

    pub(super) fn witness(&self) -> &Path {
        &self.witness
    }

    /// Removes the history, or says where it is kept.
    pub(super) fn close(self, remove: bool) -> Option<PathBuf> {
        if remove {
            let _ = std::fs::remove_file(&self.witness);
        }
        (!remove).then_some(self.witness)
    }

    pub(super) fn life(&self, node: usize) -> Life {
        self.lives[node]
    }

    /// Starts a node that is down.
    pub(super) fn boot(&mut self, node: usize, skew_ms: i64, address: String) {
        let (fleet, witness) = (&mut self.fleet, &self.witness);
        self.setup.start(fleet, Part::Node, NAMES[node], skew_ms, witness, address);
        (self.lives[node], self.booted[node]) = (Life::Up, Instant::now());
    }

    /// Waits until a node that was just started schedules.
    pub(super) fn wait_until_up(&mut self, node: usize) {
        let up = self.fleet[NAMES[node]].expect("up", PATIENCE);
        up.unwrap_or_else(|error| panic!("a node does not start: {error}"));
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.fault(KILL, Some(node));
        let member = &mut self.fleet[NAMES[node]];
        let killed = member.kill().and_then(|()| member.wait(PATIENCE));
        killed.expect("a process can be killed");
        if std::mem::replace(&mut self.lives[node], Life::Down) == Life::Stopped {
            self.heal(STOP, Some(node));
        }
    }

    /// Stops a node that is up. Not where it just dies by itself: that is seen soon.
    pub(super) fn stop(&mut self, node: usize) {
        self.fault(STOP, Some(node));
        match self.fleet[NAMES[node]].stop() {
            Ok(()) => self.lives[node] = Life::Stopped,
            Err(_) => self.heal(STOP, Some(node)),
        }
    }

    pub(super) fn cont(&mut self, node: usize) {
        if self.lives[node] == Life::Stopped {
            self.fleet[NAMES[node]].cont().expect("a stopped process goes on");
            self.lives[node] = Life::Up;
            self.heal(STOP, Some(node));
        }
    }

    /// Asks a node to end.
    pub(super) fn terminate(&mut self, node: usize) {
        self.fault("term", Some(node));
        if self.fleet[NAMES[node]].terminate().is_ok() {
            self.lives[node] = Life::Leaving { since: Instant::now() };
        }
        self.heal("term", Some(node));
    }

    /// Sets a node's clock, so far from this machine's.
    pub(super) fn set_clock(&mut self, node: usize, skew_ms: i64) {
        self.fault("clock", Some(node));
        // One that just died by itself is seen soon.
        let _ = self.fleet[NAMES[node]].send(format_args!("clock {skew_ms}"));
        self.heal("clock", Some(node));
    }

    /// Writes down a harm that is about to be done, to one node or to everybody.
    pub(super) fn fault(&self, kind: &str, node: Option<usize>) {
        let node = node.map_or(EVERYBODY, |node| NAMES[node]).to_owned();
        self.pen.write(What::Fault { kind: kind.to_owned(), node });
    }

    /// Writes down that a harm is over.
    pub(super) fn heal(&self, kind: &str, node: Option<usize>) {
        let node = node.map_or(EVERYBODY, |node| NAMES[node]).to_owned();
        self.pen.write(What::Heal { kind: kind.to_owned(), node });
    }

    pub(super) fn leak(&self, what: String) {
        self.pen.write(What::Leak { what });
    }

    /// Hears what the nodes say, and sees who is gone. Returns those that went in peace.
    pub(super) fn look(&mut self) -> Vec<usize> {
        let mut gone = Vec::new();
        for (node, life) in
            self.lives.iter_mut().enumerate().filter(|(_, life)| **life != Life::Down)
        {
            let member = &mut self.fleet[NAMES[node]];
            while let Ok(line) = member.recv(Duration::ZERO) {
                if let Some(job) = line.strip_prefix("begins ") {
                    self.begun.insert(job.to_owned(), (node, Instant::now()));
                }
            }
            match (*life, member.is_alive()) {
                (Life::Leaving { since }, true) if since.elapsed() > PATIENCE => {
                    self.broken.push(format!(
                        "node {} did not end within {PATIENCE:?} of SIGTERM",
                        NAMES[node]
                    ));
                    member
                        .kill()
                        .and_then(|()| member.wait(PATIENCE))
                        .expect("a process can be killed");
                    (*life, _) = (Life::Down, gone.push(node));
                }
                (_, true) => {}
                (was, false) => {
                    let status = member.wait(PATIENCE).expect("it is dead");
                    if !(status.success() && matches!(was, Life::Leaving { .. })) {
                        self.broken.push(format!("node {} ended by itself: {status}", NAMES[node]));
                    }
                    (*life, _) = (Life::Down, gone.push(node));
                }
            }
        }
        gone
    }

    /// Who began a run of this job, if that was a moment ago and the node is up.
    pub(super) fn has_just_begun(&self, job: &str) -> Option<usize> {
        /// Some runs of the steady job last longer.
        const MOMENT: Duration = Duration::from_millis(100);
        let (node, at) = self.begun.get(job)?;
        (at.elapsed() < MOMENT && self.lives[*node] == Life::Up).then_some(*node)
    }

    /// When somebody began a run of this job after `since`, and who.
    pub(super) fn begun_since(&self, job: &str, since: Instant) -> Option<usize> {
        self.begun.get(job).filter(|(_, at)| *at > since).map(|(node, _)| *node)
    }

    /// Lets each node take a lock of its own, through the connections that it has.
    pub(super) fn reach_the_store(&mut self) {
        /// Whoever finds its way back at all has found it by now; this is for a slow machine.
        const SOON: Duration = Duration::from_secs(10);
        let too_late = Instant::now() + SOON;
        // At the same time, since those that do not answer are waited for.
        NAMES.iter().for_each(|name| drop(self.fleet[name].send("reach")));
        for name in NAMES {
            let member = &mut self.fleet[name];
            let left = too_late.saturating_duration_since(Instant::now());
            if let Err(error) = member.expect("reached", left) {
                let text = format!("a node does not reach the store after the last fault: {error}");
                self.broken.push(text);
            }
        }
    }

    /// Ends all but the one that has been there for the longest time: it has seen the most.
    pub(super) fn leave_the_oldest(&mut self) {
        let oldest = (0..NAMES.len()).min_by_key(|node| self.booted[*node]);
        for node in (0..NAMES.len()).filter(|node| Some(*node) != oldest) {
            self.send_away(node);
        }
        self.wait_until(|lives| !lives.iter().any(|life| matches!(life, Life::Leaving { .. })));
    }

    fn send_away(&mut self, node: usize) {
        if self.lives[node] == Life::Up && self.fleet[NAMES[node]].terminate().is_ok() {
            self.lives[node] = Life::Leaving { since: Instant::now() };
        }
    }

    fn wait_until(&mut self, done: impl Fn(&[Life]) -> bool) {
        while !done(&self.lives) {
            self.look();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether every tick in this time was started, of the jobs that run them all.
    pub(super) fn has_started(&self, jobs: &[JobSpec], time: &Range<i64>) -> bool {
        let Ok(history) = History::read_torn(&self.witness) else { return false };
        let started: HashSet<_> = history
            .events()
            .iter()
            .filter_map(|event| match &event.what {
                What::Start { claim, .. } => Some((claim.job.as_str(), claim.tick)),
                _ => None,
            })
            .collect();
        jobs.iter().filter(|job| job.all).all(|job| {
            job.ticks(time.start, time.end - 1).all(|tick| started.contains(&(job.name, tick)))
        })
    }

    /// Tells all that are up to end, and waits for it.
    pub(super) fn shut_down(&mut self) {
        for node in 0..NAMES.len() {
            self.cont(node);
            self.send_away(node);
        }
        self.wait_until(|lives| lives.iter().all(|life| *life == Life::Down));
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds and the wall clock in milliseconds, of one moment.
pub(super) fn both_clocks() -> (u64, i64) {
    loop {
        let before = monotonic_ns();
        let wall = Timestamp::now();
        // The process may be interrupted in between.
        if monotonic_ns() - before < 50_000 {
            return (before, wall.as_millisecond());
        }
    }
}
