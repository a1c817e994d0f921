//! What must hold, watched along each path.

use std::fmt;

use solocron::What;
use solocron::lock::{Delivery, Mark};

use super::config::{Config, step_of};

/// A promise of `claims.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Property {
    /// S1: a tick is started once, or in numbered attempts of which there are not too many.
    Once,
    /// S2: runs of a job do not overlap while their nodes trust their leases.
    Exclusion,
    /// S3: fences strictly grow.
    Fences,
    /// S4: a mark goes back only when its own claim is undone.
    Marks,
    /// S5: no run starts before its tick, by the store's clock.
    NeverEarly,
    /// L: every tick that a healthy node could have run is run or reported, and so is every claimed tick.
    NoneLost,
    /// S6: a nonce is granted one lease: while it lives the same again, and nothing when it is over.
    SameGrant,
    /// In the end nothing is held.
    NothingHeld,
}

/// A broken promise, in words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Broken {
    /// Which one.
    pub property: Property,
    /// What happened.
    pub sentence: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.property, self.sentence)
    }
}

/// What was said of a tick that was not run, or not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Told {
    missed: bool,
    /// A later run made up for it.
    listed: bool,
    overlapped: bool,
    abandoned: bool,
    forgot: bool,
    /// Its own run said that it was cut short.
    cut_short: bool,
    /// The winner that was to tell of it died before it could.
    dead_messenger: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Tick {
    step: u16,
    /// The highest attempt that was started.
    started: u8,
    /// The highest attempt that was granted.
    granted: u8,
    finished: bool,
    /// Whose claim stands, by its nonce.
    claimer: Option<u32>,
    /// A fault met a process that had claimed it. For good: when its lease was over, nobody waited for its undo any more.
    troubled: bool,
    /// A run of this job was going on when it fell due.
    overlapped: bool,
    /// Nodes that have been healthy since it fell due.
    watchers: u8,
    /// A node was healthy over its whole window.
    owed: bool,
    /// It could be claimed for long enough, while a node was healthy.
    chance: bool,
    told: Told,
}

/// What must be remembered to judge a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Monitor {
    jobs: Vec<Job>,
    /// Faults that hit single messages, which cost time.
    delays: u8,
    /// A run's end was told to the store later than it happened.
    late: bool,
    pub(super) broken: Option<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Job {
    ticks: Vec<Tick>,
    fence: u64,
    nonce: u32,
    /// For how many steps a new tick could have been claimed.
    free_for: u16,
    was_free: bool,
}

impl Monitor {
    pub(super) fn new(cfg: &Config) -> Self {
        let tick = |step| Tick {
            step,
            started: 0,
            granted: 0,
            finished: false,
            claimer: None,
            troubled: false,
            overlapped: false,
            watchers: 0,
            owed: false,
            chance: false,
            told: Told::default(),
        };
        let jobs = cfg.jobs.iter().map(|job| Job {
            ticks: cfg.ticks_of(job).map(tick).collect(),
            fence: 0,
            nonce: 0,
            free_for: 0,
            was_free: true,
        });
        Self { jobs: jobs.collect(), delays: 0, late: false, broken: None }
    }

    pub(super) fn breaks(&mut self, property: Property, sentence: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(Broken { property, sentence: sentence() });
        }
    }

    fn tick(&mut self, job: usize, mark: Mark) -> Option<&mut Tick> {
        let step = step_of(mark.timestamp());
        self.jobs[job].ticks.iter_mut().find(|tick| i64::from(tick.step) == step)
    }

    /// A message was hit.
    pub(super) fn delayed(&mut self) {
        self.delays += 1;
    }

    /// The store forgot, and no process that works was there before: what was on record, nobody can tell.
    pub(super) fn unwitnessed(&mut self, now: u16) {
        for tick in self.jobs.iter_mut().flat_map(|job| &mut job.ticks) {
            tick.told.forgot |= tick.step <= now;
        }
    }

    /// A release arrived later than it was sent.
    pub(super) fn came_late(&mut self) {
        self.late = true;
    }

    /// The store granted a tick to `nonce`, for the first time or again.
    pub(super) fn granted(
        &mut self,
        job: usize,
        mark: Mark,
        attempt: u32,
        nonce: u32,
        fence: u64,
        delivery: Delivery,
    ) {
        let state = &mut self.jobs[job];
        if nonce == state.nonce {
            if fence != state.fence {
                self.breaks(Property::SameGrant, || {
                    format!("the acquisition that was granted {mark:?} before was granted it anew")
                });
            }
            return;
        }
        if fence <= state.fence {
            let before = state.fence;
            self.breaks(Property::Fences, || format!("fence {fence} was given after {before}"));
        }
        let state = &mut self.jobs[job];
        (state.fence, state.nonce) = (fence, nonce);
        let Some(tick) = self.tick(job, mark) else { return };
        let again = delivery == Delivery::AtMostOnce && tick.started > 0;
        tick.granted = tick.granted.max(attempt as u8);
        tick.claimer = Some(nonce);
        if again {
            self.breaks(Property::Once, || {
                format!("tick {mark:?} was granted again after it had been started")
            });
        }
    }

    /// The mark went back from `mark`, by undoing `nonce`.
    pub(super) fn undone(&mut self, job: usize, mark: Mark, nonce: u32) {
        let Some(tick) = self.tick(job, mark) else { return };
        if tick.claimer == Some(nonce) {
            tick.claimer = None;
        } else {
            let claimer = tick.claimer;
            self.breaks(Property::Marks, || {
                format!("the claim of {mark:?} by {claimer:?} was undone by {nonce}")
            });
        }
    }

    /// A fault met the process that owns these nonces. What it was told and could not pass on, nobody knows.
    pub(super) fn trouble(&mut self, nonces: &std::ops::Range<u32>, died: bool) {
        for job in &mut self.jobs {
            for at in 0..job.ticks.len() {
                let (earlier, rest) = job.ticks.split_at_mut(at);
                let tick = &mut rest[0];
                if tick.claimer.is_none_or(|nonce| !nonces.contains(&nonce)) {
                    continue;
                }
                tick.troubled = true;
                // What a winner is told of earlier ticks, it says when it starts its run.
                if died && tick.started < tick.granted {
                    earlier.iter_mut().for_each(|earlier| earlier.told.dead_messenger = true);
                }
            }
        }
    }

    /// A run starts.
    pub(super) fn started(
        &mut self,
        job: usize,
        cfg: &Config,
        now: u16,
        mark: Mark,
        attempt: u32,
        missed: &[Mark],
    ) {
        for mark in missed {
            if let Some(tick) = self.tick(job, *mark) {
                tick.told.listed = true;
            }
        }
        let attempt = attempt as u8;
        let Some(tick) = self.tick(job, mark) else {
            return self.breaks(Property::Once, || format!("{mark:?} was started and is no tick"));
        };
        let (before, due) = (tick.started, tick.step);
        tick.started = tick.started.max(attempt);
        if attempt <= before || attempt > cfg.attempts(job) {
            self.breaks(Property::Once, || {
                format!(
                    "tick {due} was started as attempt {attempt} of {} after attempt {before}",
                    cfg.attempts(job)
                )
            });
        }
        if now < due {
            self.breaks(Property::NeverEarly, || format!("tick {due} was started at {now}"));
        }
    }

    pub(super) fn ended(&mut self, job: usize, mark: Mark, complete: bool) {
        if let Some(tick) = self.tick(job, mark) {
            tick.finished |= complete;
            tick.told.cut_short |= !complete;
        }
    }

    pub(super) fn reported(&mut self, job: usize, what: &What) {
        let ticks = &mut self.jobs[job].ticks;
        let is = |tick: &Tick, mark: &Mark| i64::from(tick.step) == step_of(mark.timestamp());
        match what {
            What::Missed { tick: mark, .. } => {
                ticks.iter_mut().filter(|t| is(t, mark)).for_each(|t| t.told.missed = true);
            }
            What::Overlapped { after, to } => {
                let (after, to) = (step_of(after.timestamp()), step_of(to.timestamp()));
                for tick in ticks {
                    let step = i64::from(tick.step);
                    tick.told.overlapped |= after < step && step <= to;
                }
            }
            What::Abandoned { tick: mark, .. } => {
                let twice = ticks.iter().any(|t| is(t, mark) && t.told.abandoned);
                ticks.iter_mut().filter(|t| is(t, mark)).for_each(|t| t.told.abandoned = true);
                if twice {
                    self.breaks(Property::NoneLost, || {
                        format!("tick {mark:?} was reported as abandoned twice")
                    });
                }
            }
            What::Forgot { mark } => {
                let mark = step_of(mark.timestamp());
                for tick in ticks.iter_mut().filter(|tick| i64::from(tick.step) <= mark) {
                    tick.told.forgot = true;
                }
            }
            _ => {}
        }
    }

    /// Time came to `now`; these nodes are healthy, these jobs run, and these could be claimed.
    pub(super) fn passed(
        &mut self,
        cfg: &Config,
        (before, now): (u16, u16),
        healthy: u8,
        running: impl Fn(usize) -> bool,
        free: impl Fn(usize) -> bool,
    ) {
        // A retry comes a millisecond after the end of a lease, which is the step after it; without pushes, that is all there is.
        let unheard = if cfg.pushes { 0 } else { cfg.ttl };
        let needed = 3 + unheard + 2 * u16::from(self.delays);
        for (j, job) in self.jobs.iter_mut().enumerate() {
            // What became free in between did so at the end of the wait: that is where a wait ends.
            let was_free = std::mem::replace(&mut job.was_free, free(j));
            let passed = if was_free { now - before } else { 0 };
            job.free_for = if job.was_free { (job.free_for + passed).min(30) } else { 0 };
            let steps: Vec<_> = job.ticks.iter().map(|tick| tick.step).collect();
            for (i, tick) in job.ticks.iter_mut().enumerate() {
                if before < tick.step && tick.step <= now {
                    tick.watchers = healthy;
                    tick.overlapped = running(j);
                }
                // Under "the latest", a tick is out of date when the next one is due.
                let window = match steps.get(i + 1) {
                    Some(next) if !cfg.wants_all(j) => (tick.step + cfg.grace).min(next - 1),
                    _ => tick.step + cfg.grace,
                };
                // Time may have jumped past the end of the window, but not past anything that could happen in it.
                let upto = now.min(window);
                if tick.step < upto && before < window && tick.watchers != 0 {
                    let free_for = job.free_for.saturating_sub(now - upto);
                    tick.chance |= free_for.min(upto - tick.step) >= needed;
                }
                if now > window && before <= window {
                    tick.owed = tick.watchers != 0;
                }
            }
        }
    }

    /// These nodes are not healthy any more.
    pub(super) fn unhealthy(&mut self, node: usize, cfg: &Config, now: u16) {
        for tick in self.jobs.iter_mut().flat_map(|job| &mut job.ticks) {
            if now <= tick.step + cfg.grace {
                tick.watchers &= !(1 << node);
            }
        }
    }

    /// L, at the end of a path.
    pub(super) fn finish(&mut self, cfg: &Config) {
        for job in 0..self.jobs.len() {
            for at in 0..self.jobs[job].ticks.len() {
                let tick = &self.jobs[job].ticks[at];
                if let Some(why) = lost(tick, cfg, job, self.delays.into(), self.late) {
                    let (step, told) = (tick.step, tick.told);
                    self.breaks(Property::NoneLost, || format!("tick {step} {why} ({told:?})"));
                }
            }
        }
    }
}

/// Why the fate of this tick breaks a promise.
fn lost(tick: &Tick, cfg: &Config, job: usize, delays: u32, late: bool) -> Option<&'static str> {
    let told = tick.told;
    // A node that loses three messages in a row is as good as cut off.
    let troubled = tick.troubled || delays >= 3;
    // An abandoned tick had a claimer that something happened to, and no attempt left.
    let abandoned = told.abandoned && troubled && tick.granted >= cfg.attempts(job);
    // Where a node's clock is ahead, and its release comes late, it passes over ticks that came due in between. It says so.
    let overlapped = tick.overlapped || late && cfg.skew.iter().any(|skew| *skew > 0);
    let unsaid = !(abandoned || told.forgot || told.dead_messenger);
    if tick.finished {
        None
    } else if tick.started > 0 && cfg.at_most_once(job) {
        (unsaid && !told.abandoned && !told.cut_short)
            .then_some("did not finish, and nobody said so")
    } else if tick.started > 0 {
        // With no attempt left, the run itself or the next winner says so.
        let last = tick.granted >= cfg.attempts(job) && (told.abandoned || told.cut_short);
        (unsaid && !last)
            .then_some("did not finish, and was neither tried again nor given up aloud")
    } else if tick.claimer.is_some() {
        unsaid.then_some("was claimed by a process that nothing happened to, and never started")
    } else if !tick.owed || told.overlapped && overlapped && !cfg.wants_all(job) {
        None
    } else if tick.chance && !troubled && !told.forgot && !told.dead_messenger {
        Some("could have been claimed by a healthy node, and was not")
    } else {
        (unsaid && !told.missed && !told.listed).then_some("was never claimed, and nobody said so")
    }
}
