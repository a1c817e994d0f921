//! I1 and I1s: one run of a job at a time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::runs::{Run, Runs};
use super::{Findings, Ns, span};
use crate::history::report::Invariant;
use crate::history::rules::Rules;

pub(super) fn check(runs: &Runs<'_>, rules: &Rules, findings: &mut Findings<'_>) {
    fenced(runs, rules, findings);
    strict(runs, rules, findings);
}

/// I1: plays a resource per job that keeps the highest fence it has seen and refuses lower ones.
fn fenced(runs: &Runs<'_>, rules: &Rules, findings: &mut Findings<'_>) {
    let mut effects: Vec<(usize, usize)> = runs
        .all
        .iter()
        .enumerate()
        .flat_map(|(r, run)| run.effects.iter().map(move |i| (*i, r)))
        .collect();
    effects.sort_unstable(); // the order of the file is the order of effects

    let mut resources: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut refused = vec![0; runs.all.len()];
    for (i, r) in effects {
        let run = &runs.all[r];
        let job = &run.claim.job;
        let mut highest = match resources.entry(job) {
            Entry::Vacant(entry) => {
                entry.insert((i, r));
                continue;
            }
            Entry::Occupied(entry) => entry,
        };
        let (seen, other) = *highest.get();
        if run.claim.fence > runs.all[other].claim.fence {
            highest.insert((i, r));
        } else if run.claim.fence < runs.all[other].claim.fence {
            findings.ledger.refused_effects += 1;
            refused[r] += 1;
            if refused[r] == rules.refused_effects + 1 {
                let sentence = format!(
                    "`{}` went on with `{job}` after {} effects under a fence that was too old",
                    run.node, refused[r]
                );
                findings.violation(Invariant::Exclusion, &[seen, i], sentence);
            }
        } else if r != other && !(rules.shared_fences && same_process(findings, seen, i)) {
            let sentence =
                format!("two runs of `{job}` have effects under one fence, {}", run.claim.fence);
            findings.violation(Invariant::Exclusion, &[seen, i], sentence);
        }
    }
}

fn same_process(findings: &Findings<'_>, a: usize, b: usize) -> bool {
    let (a, b) = (&findings.events[a], &findings.events[b]);
    (&a.node, a.pid) == (&b.node, b.pid)
}

/// I1s: a run goes from its first start to its last event. Both are written while the lock is held,
/// so places in the file can be compared; times cannot, since a process may be stopped between
/// reading the clock and writing.
fn strict(runs: &Runs<'_>, rules: &Rules, findings: &mut Findings<'_>) {
    let mut jobs: Vec<_> = runs.by_job().into_iter().collect();
    jobs.sort_unstable_by_key(|(job, _)| *job);
    for (job, mut runs) in jobs {
        runs.retain(|run| run.is_started());
        runs.sort_unstable_by_key(|run| run.start);
        let mut longest: Option<&Run<'_>> = None;
        for run in runs {
            let Some(start) = run.start else { continue };
            if let Some(other) = longest.filter(|other| other.end > start) {
                let from = Ns::from(findings.events[start].t);
                let until = other.last.min(run.last);
                findings.ledger.overlaps += 1;
                findings.ledger.worst_overlap =
                    findings.ledger.worst_overlap.max(span(from, until));
                if rules.process_bound {
                    let sentence = format!(
                        "`{}` ran `{job}` while `{}` still ran it, for {:.1?}",
                        run.node,
                        other.node,
                        span(from, until)
                    );
                    let at = [other.start.unwrap_or(other.end), start, other.end];
                    findings.violation(Invariant::StrictExclusion, &at, sentence);
                }
            }
            if longest.is_none_or(|other| other.end < run.end) {
                longest = Some(run);
            }
        }
    }
}
