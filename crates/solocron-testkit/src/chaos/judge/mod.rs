//! What is asked of the history of a run.

mod broken;
mod numbers;
mod unseen;
mod untold;

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

pub(super) use self::numbers::share_ran_of;
use super::jobs::{JobSpec, STEADY, grace};
use super::store::StoreFault;
use super::verdict::{Least, Verdict};
use crate::history::{Claim, Event, History, KILL, Rules, What, check};

/// What was promised, and what was done.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) ttl: Duration,
    pub(super) settle: Duration,
    /// How long the lock of a dead holder may go on blocking others.
    pub(super) outlives: Duration,
    pub(super) lasted: Duration,
    /// The backend's locks live exactly as long as their process.
    pub(super) process_bound: bool,
    /// No tick is granted before it is due by the store's clock, which is this machine's.
    pub(super) store_clock: bool,
    pub(super) jobs: Vec<JobSpec>,
    /// All kinds, the nodes' own included.
    pub(super) kinds: Vec<&'static str>,
    pub(super) faults: Vec<StoreFault>,
    pub(super) least: Least,
    /// What was wrong with the processes themselves.
    pub(super) broken: Vec<String>,
    /// When there were no faults any more, and the fleet had to work, in Unix milliseconds.
    pub(super) calm: Vec<Range<i64>>,
}

pub(super) fn judge(case: Case, history: &History) -> Verdict {
    let judge = Judge { case, history, at: Times::of(history) };
    let report = check(&judge.believed(), &judge.rules(|_, _| true));
    let mut broken = judge.case.broken.clone();
    broken.extend(judge.violations(&report));
    broken.extend(judge.started_twice());
    broken.extend(judge.untold());
    broken.extend(judge.stands_still());
    if judge.case.store_clock && report.ledger.early > 0 {
        broken.push(format!("{} runs began before they were due", report.ledger.early));
    }
    let from = judge.case.calm.first().map_or(i64::MAX, |calm| calm.start);
    let under_faults = check(history, &judge.rules(|_, tick| tick < from)).ledger;
    let is_calm = |tick| judge.case.calm.iter().any(|calm| calm.contains(&tick));
    let calm = check(&judge.believed(), &judge.rules(|spec, tick| spec.all && is_calm(tick)));
    broken.extend(judge.lost_in_calm(&calm));
    broken.extend(judge.void(&report.ledger, &under_faults));
    let (skipped, overlaps_awake) = (judge.passed_over(), judge.overlaps_awake());
    let next_start = judge.next_start_after_a_kill();
    let worst_gap = judge.worst_gap(STEADY);
    let Judge { case, .. } = judge;
    Verdict {
        name: case.name,
        seed: case.seed,
        ttl: case.ttl,
        lasted: case.lasted,
        broken,
        ledger: report.ledger,
        under_faults,
        calm: calm.ledger,
        skipped,
        overlaps_awake,
        worst_gap,
        next_start,
        history: None,
    }
}

struct Judge<'h> {
    case: Case,
    history: &'h History,
    at: Times,
}

/// Where ticks lie on the time of the events.
struct Times {
    t: i128,
    wall_ms: i128,
}

impl Times {
    fn of(history: &History) -> Self {
        Self { t: history.events()[0].t.into(), wall_ms: history.meta().wall_ms.into() }
    }

    fn tick(&self, tick: i64) -> i128 {
        self.t + (i128::from(tick) - self.wall_ms) * 1_000_000
    }
}

/// A fault from its beginning to the end of its aftermath.
struct Span<'h> {
    kind: &'h str,
    node: &'h str,
    from: i128,
    until: i128,
}

impl Judge<'_> {
    /// The rules, for some of the ticks.
    fn rules(&self, wanted: impl Fn(&JobSpec, i64) -> bool) -> Rules {
        let Case { ttl, settle, outlives, process_bound, jobs, .. } = &self.case;
        let grace = grace(*ttl);
        let rules = Rules::new(grace, *settle).unseen_wins();
        let rules =
            if *process_bound { rules.process_bound() } else { rules.holder_ttl(*outlives) };
        let begun = self.history.meta().wall_ms;
        let last = self.history.events().iter().map(|event| event.t).max().unwrap_or_default();
        let ended = begun + (i128::from(last) - self.at.t) as i64 / 1_000_000;
        jobs.iter().fold(rules, |rules, spec| {
            let ticks = spec.ticks(begun, ended).filter(|tick| wanted(spec, *tick));
            rules.due_within(spec.name, grace, ticks)
        })
    }

    /// What is believed: to say that a tick was missed is no excuse, where every tick is to be run.
    fn believed(&self) -> History {
        let all = |job: &str| self.case.jobs.iter().any(|spec| spec.name == job && spec.all);
        let believed =
            |event: &&Event| !matches!(&event.what, What::Missed { job, .. } if all(job));
        let events = self.history.events().iter().filter(believed).cloned().collect();
        History::new(events).expect("the meta is still there")
    }

    fn spans(&self) -> Vec<Span<'_>> {
        let mut spans: Vec<Span<'_>> = Vec::new();
        for event in self.history.events() {
            let t = i128::from(event.t);
            match &event.what {
                What::Fault { kind, node } => {
                    let until = if kind == KILL { t } else { i128::MAX };
                    spans.push(Span { kind, node, from: t, until });
                }
                What::Heal { kind, node } => {
                    let open =
                        spans.iter_mut().rev().find(|span| span.kind == kind && span.node == node);
                    open.into_iter().for_each(|span| span.until = span.until.min(t));
                }
                _ => {}
            }
        }
        spans
    }

    /// The kinds of faults of which this is true.
    fn kinds(&self, is: impl Fn(&StoreFault) -> bool) -> HashSet<&'static str> {
        self.case.faults.iter().filter(|fault| is(fault)).map(|fault| fault.kind).collect()
    }

    fn starts(&self) -> impl Iterator<Item = (&Claim, &Event)> {
        self.history.events().iter().filter_map(|event| match &event.what {
            What::Start { claim, .. } => Some((claim, event)),
            _ => None,
        })
    }
}
