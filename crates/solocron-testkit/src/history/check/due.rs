//! I4: no due tick is lost while somebody could have run it, and none is invented.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::nodes::Nodes;
use super::runs::{Run, Runs};
use super::{Findings, Ns, ns, span};
use crate::history::History;
use crate::history::event::What;
use crate::history::report::{Excuse, Invariant};
use crate::history::rules::{Due, Rules};

/// Later than anything in a history; far enough from the end of [`Ns`] to add to it.
const NEVER: Ns = Ns::MAX / 2;

/// The meta has the wall clock in whole milliseconds, so a tick lies up to this much earlier than
/// computed.
const ROUNDING: Ns = 1_000_000;

/// Where ticks lie on the time of the events.
#[derive(Debug)]
pub(super) struct Axis {
    t: Ns,
    wall_ms: Ns,
}

impl Axis {
    pub(super) fn of(history: &History) -> Self {
        Self { t: history.events()[0].t.into(), wall_ms: history.meta().wall_ms.into() }
    }

    fn at(&self, tick: i64) -> Ns {
        self.t + (Ns::from(tick) - self.wall_ms) * 1_000_000
    }
}

/// What the history says of one tick.
#[derive(Debug, Default)]
struct Told {
    starts: Vec<usize>,
    first: Option<Ns>,
    missed: bool,
    skipped: bool,
    abandoned: bool,
    /// Won by a process that was killed before it started the job.
    died_with_it: bool,
}

/// By job and tick.
type ByTick<'h> = HashMap<&'h str, BTreeMap<i64, Told>>;

/// Somebody holds a job.
#[derive(Debug)]
struct Occupation {
    tick: i64,
    from: Ns,
    until: Ns,
    /// Ends by the holder's own release, which may pass over what fell due meanwhile.
    is_released: bool,
    excuse: Excuse,
}

pub(super) fn check(
    axis: &Axis,
    runs: &Runs<'_>,
    nodes: &Nodes<'_>,
    rules: &Rules,
    findings: &mut Findings<'_>,
) {
    let told = told(runs, nodes, findings);
    let by_job = runs.by_job();
    let history_end =
        findings.events.iter().map(|event| Ns::from(event.t)).max().unwrap_or_default();
    for (job, due) in &rules.jobs {
        let (grace, settle) = (ns(due.grace), ns(rules.settle));
        let runs = by_job.get(job.as_str()).into_iter().flatten();
        let mut occupations: Vec<_> =
            runs.filter_map(|run| occupation(run, nodes, rules)).collect();
        occupations.sort_by_key(|occupation| occupation.tick);
        let blocked = blocked(&occupations, axis, due, grace);
        let nothing = BTreeMap::new();
        let told = told.get(job.as_str()).unwrap_or(&nothing);
        invented(job, due, told, findings);

        for (tick, blocked) in due.ticks.iter().zip(blocked) {
            let tick = *tick;
            let nothing = Told::default();
            let told = told.get(&tick).unwrap_or(&nothing);
            let (at, deadline) = (axis.at(tick), axis.at(tick) + grace + settle);
            let excuse = || {
                let nobody = !nodes.any_healthy(at - settle, at + grace);
                let died = told.died_with_it.then_some(Excuse::CrashedHolder);
                nobody.then_some(Excuse::NoHealthyNode).or(died).or(blocked)
            };
            let is_reported = told.missed || told.skipped || told.abandoned;
            if let Some(first) = told.first {
                started(told, first, at, findings);
                if first > deadline && !is_reported && excuse().is_none() {
                    let late = span(at, first);
                    let sentence = format!(
                        "tick {tick} of `{job}` was started {late:.1?} late, while a node was healthy"
                    );
                    findings.violation(Invariant::NoneLost, &told.starts[..1], sentence);
                }
                continue;
            }
            let ledger = &mut findings.ledger;
            if is_reported {
                // Abandoned says most, missed least.
                let kind = match told {
                    Told { abandoned: true, .. } => &mut ledger.abandoned,
                    Told { skipped: true, .. } => &mut ledger.skipped,
                    _ => &mut ledger.missed,
                };
                *kind += 1;
            } else if deadline > history_end {
                ledger.pending += 1;
                continue;
            } else if let Some(excuse) = excuse() {
                *ledger.excused.entry(excuse).or_default() += 1;
            } else {
                ledger.lost += 1;
                let sentence =
                    format!("tick {tick} of `{job}` was never started, while a node was healthy");
                findings.violation(Invariant::NoneLost, &[], sentence);
            }
            findings.ledger.due += 1;
        }
    }
}

fn started(told: &Told, first: Ns, at: Ns, findings: &mut Findings<'_>) {
    let ledger = &mut findings.ledger;
    ledger.due += 1;
    *(if told.starts.len() == 1 { &mut ledger.ran_once } else { &mut ledger.ran_again }) += 1;
    ledger.early += usize::from(first + ROUNDING < at);
    ledger.worst_lateness = ledger.worst_lateness.max(span(at, first));
}

fn told<'h>(runs: &Runs<'h>, nodes: &Nodes<'_>, findings: &Findings<'h>) -> ByTick<'h> {
    let mut told: ByTick<'_> = HashMap::new();
    for (i, event) in findings.events.iter().enumerate() {
        match &event.what {
            What::Start { claim, .. } => {
                let told = entry(&mut told, &claim.job, claim.tick);
                told.starts.push(i);
                told.first = Some(told.first.unwrap_or(NEVER).min(event.t.into()));
            }
            What::Missed { job, tick } => entry(&mut told, job, *tick).missed = true,
            What::Skipped { job, tick, .. } => entry(&mut told, job, *tick).skipped = true,
            What::Abandoned { job, tick } => entry(&mut told, job, *tick).abandoned = true,
            _ => {}
        }
    }
    for run in runs.all.iter().filter(|run| !run.is_started() && run.is_open()) {
        if nodes.killed(run).is_some() {
            entry(&mut told, &run.claim.job, run.claim.tick).died_with_it = true;
        }
    }
    told
}

fn entry<'t, 'h>(told: &'t mut ByTick<'h>, job: &'h str, tick: i64) -> &'t mut Told {
    told.entry(job).or_default().entry(tick).or_default()
}

/// A start between two due ticks that is neither of them.
fn invented(job: &str, due: &Due, told: &BTreeMap<i64, Told>, findings: &mut Findings<'_>) {
    let (Some(first), Some(last)) = (due.ticks.first(), due.ticks.last()) else { return };
    for (tick, told) in told.range(first..=last) {
        if told.first.is_some() && !due.ticks.contains(tick) {
            let sentence = format!("tick {tick} of `{job}` was started, but was never due");
            findings.violation(Invariant::NoneLost, &told.starts[..1], sentence);
        }
    }
}

/// How long this run kept others from its job. Nothing for a win that a living node neither used
/// nor gave back: what that blocks is lost, and shall be seen.
fn occupation(run: &Run<'_>, nodes: &Nodes<'_>, rules: &Rules) -> Option<Occupation> {
    let ttl = ns(rules.holder_ttl);
    let (mut until, mut is_released, mut excuse) = match nodes.end(run) {
        _ if !run.is_open() => (run.last, true, Excuse::Overlap),
        Some((end, true)) => (end.max(run.last) + ttl, false, Excuse::CrashedHolder),
        _ if !run.is_started() => return None,
        Some((end, false)) => (end.max(run.last), true, Excuse::Overlap),
        None => (NEVER, true, Excuse::Overlap),
    };
    if excuse == Excuse::Overlap && nodes.is_troubled(run, run.from, until) {
        excuse = Excuse::TroubledHolder;
    }
    // A holder that stands still cannot renew: on a store it blocks others for one ttl, whatever it
    // says when it wakes.
    if let Some(stopped) = nodes.stopped(run, run.from, until, ttl).filter(|_| !rules.process_bound)
    {
        (until, is_released) = (until.min(stopped + ttl), false);
    }
    Some(Occupation { tick: run.claim.tick, from: run.from, until, is_released, excuse })
}

/// For each due tick: whether an earlier tick's run kept it from being started.
///
/// A run that was going on when the tick fell due may pass over it with its release. Any run that
/// still blocks the job when the grace is over has kept the tick from being claimed at all.
fn blocked(occupations: &[Occupation], axis: &Axis, due: &Due, grace: Ns) -> Vec<Option<Excuse>> {
    let at = |after: Ns| due.ticks.iter().map(move |tick| (*tick, axis.at(*tick) + after));
    let when_over = stabbed(occupations.iter(), at(grace));
    let when_due = stabbed(occupations.iter().filter(|occupation| occupation.is_released), at(0));
    when_over.into_iter().zip(when_due).map(|(over, due)| over.or(due)).collect()
}

/// For each `(tick, time)`, an occupation of an earlier tick that holds at that time. Both inputs
/// ascend by tick.
fn stabbed<'o>(
    occupations: impl Iterator<Item = &'o Occupation>,
    queries: impl Iterator<Item = (i64, Ns)>,
) -> Vec<Option<Excuse>> {
    let mut occupations = occupations.peekable();
    let mut coming = BinaryHeap::new(); // by beginning
    let mut held = BinaryHeap::new(); // by end; what has ended never comes back, since time ascends
    let mut found = vec![];
    for (tick, time) in queries {
        while let Some(earlier) = occupations.next_if(|occupation| occupation.tick < tick) {
            coming.push((Reverse(earlier.from), earlier.until, earlier.excuse));
        }
        while coming.peek().is_some_and(|(Reverse(from), ..)| *from <= time) {
            held.extend(coming.pop().map(|(_, until, excuse)| (until, excuse)));
        }
        found.push(held.peek().filter(|(until, _)| *until >= time).map(|(_, excuse)| *excuse));
    }
    found
}
