//! The judge: one pure function over a history, O(n log n).
//!
//! ```text
//! history ──► runs   (what each claim became)  ──► exclusion, fences, starts ──┐
//!         └─► nodes  (who was up and healthy)  ──► due, take_overs ────────────┴──► report
//! ```

mod due;
mod exclusion;
mod fences;
mod nodes;
mod runs;
mod starts;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use self::nodes::Nodes;
use self::runs::Runs;
use super::History;
use super::event::{Event, What};
use super::report::{Invariant, Ledger, Report, TakeOver, Violation};
use super::rules::Rules;

/// Nanoseconds on the axis of [`Event::t`]. Wide enough that no tick and no duration overflows it.
type Ns = i128;

/// Judges a history by the rules. Pure: the same history and rules give the same report.
#[must_use]
pub fn check(history: &History, rules: &Rules) -> Report {
    let runs = Runs::collect(history.events());
    let nodes = Nodes::collect(history.events());
    let mut findings =
        Findings { events: history.events(), violations: vec![], ledger: Ledger::default() };
    count(history, &runs, &nodes, &mut findings.ledger);
    exclusion::check(&runs, rules, &mut findings);
    fences::check(rules, &mut findings);
    starts::check(&runs, rules, &mut findings);
    due::check(&due::Axis::of(history), &runs, &nodes, rules, &mut findings);
    leaks(&mut findings);
    vacuity(rules, &mut findings);

    let Findings { mut violations, ledger, .. } = findings;
    violations
        .sort_by_key(|violation| (violation.id, violation.events.first().map(|(line, _)| *line)));
    Report { violations, ledger }
}

/// What was found so far.
struct Findings<'h> {
    events: &'h [Event],
    violations: Vec<Violation>,
    ledger: Ledger,
}

impl Findings<'_> {
    /// Notes a violation; `at` are indices of events.
    fn violation(&mut self, id: Invariant, at: &[usize], sentence: String) {
        let events = at.iter().map(|i| (i + 1, self.events[*i].clone())).collect();
        self.violations.push(Violation { id, events, sentence });
    }
}

fn span(from: Ns, until: Ns) -> Duration {
    Duration::from_nanos(u64::try_from((until - from).max(0)).unwrap_or(u64::MAX))
}

fn ns(duration: Duration) -> Ns {
    Ns::try_from(duration.as_nanos()).unwrap_or(Ns::from(u64::MAX))
}

fn count(history: &History, runs: &Runs<'_>, nodes: &Nodes<'_>, ledger: &mut Ledger) {
    let times = || history.events().iter().map(|event| Ns::from(event.t));
    ledger.lasted = span(times().min().unwrap_or_default(), times().max().unwrap_or_default());
    ledger.nodes = nodes.booted();
    for event in history.events() {
        if let What::Fault { kind, .. } = &event.what {
            *ledger.faults.entry(kind.clone()).or_default() += 1;
        }
    }
    for run in &runs.all {
        ledger.runs += usize::from(run.is_started());
        ledger.never_started += usize::from(!run.is_started());
        ledger.undone += usize::from(run.undone.is_some());
        ledger.interrupted +=
            usize::from(run.is_started() && run.is_open() && nodes.killed(run).is_some());
    }
    take_overs(history.events(), runs, nodes, ledger);
}

/// For each job that a killed node held: who started it next, and how long that took.
fn take_overs(events: &[Event], runs: &Runs<'_>, nodes: &Nodes<'_>, ledger: &mut Ledger) {
    let starts = runs.starts_by_job(events);
    let mut kills = BTreeSet::new();
    for run in runs.all.iter().filter(|run| run.is_open()) {
        let Some(killed) = nodes.killed(run) else { continue };
        kills.insert((run.node, killed)); // one kill may hit several jobs
        let starts = &starts[run.claim.job.as_str()];
        let later = &starts[starts.partition_point(|(t, _)| *t <= killed)..];
        if let Some((t, by)) = later.iter().find(|(_, node)| *node != run.node) {
            ledger.take_overs.push(TakeOver {
                job: run.claim.job.clone(),
                killed: run.node.to_owned(),
                by: (*by).to_owned(),
                gap: span(killed, *t),
            });
        }
    }
    ledger.kills_of_holders = kills.len();
}

/// I7: the probe after the last goodbye found nothing, and nobody worked on after its own.
fn leaks(findings: &mut Findings<'_>) {
    let mut gone = HashMap::new();
    for (i, event) in findings.events.iter().enumerate() {
        match &event.what {
            What::Bye => {
                gone.insert((&event.node, event.pid), i);
            }
            What::Leak { what } => {
                findings.violation(Invariant::NoLeak, &[i], format!("`{what}` was left behind"));
            }
            What::Boot => {
                gone.remove(&(&event.node, event.pid));
            }
            what => {
                if let (Some(bye), Some(claim)) =
                    (gone.get(&(&event.node, event.pid)), what.claim())
                {
                    let sentence =
                        format!("`{}` worked on `{}` after its goodbye", event.node, claim.job);
                    findings.violation(Invariant::NoLeak, &[*bye, i], sentence);
                }
            }
        }
    }
}

fn vacuity(rules: &Rules, findings: &mut Findings<'_>) {
    let Ledger { due, ran_once, ran_again, .. } = findings.ledger;
    let ran = ran_once + ran_again;
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    if (ran as f64) < rules.min_ran * due as f64 {
        let sentence =
            format!("{ran} of {due} due ticks ran, less than a share of {}", rules.min_ran);
        findings.violation(Invariant::Vacuity, &[], sentence);
    }
    for (kind, least) in &rules.min_faults {
        let found = findings.ledger.faults.get(kind).copied().unwrap_or_default();
        if found < *least {
            let sentence = format!("{found} faults of kind `{kind}`, fewer than {least}");
            findings.violation(Invariant::Vacuity, &[], sentence);
        }
    }
}
