//! I2: fences are distinct, and follow time.

use std::collections::HashMap;

use super::Findings;
use crate::history::event::{Claim, What};
use crate::history::report::Invariant;
use crate::history::rules::Rules;

struct Grant<'h> {
    at: usize,
    claim: &'h Claim,
    asked: u64,
    answered: u64,
    process: (&'h str, u32),
}

/// Compares grants by the times around the call, never by the order of starts: a process may be
/// stopped between the two.
pub(super) fn check(rules: &Rules, findings: &mut Findings<'_>) {
    let mut jobs: HashMap<&str, Vec<Grant<'_>>> = HashMap::new();
    for (at, event) in findings.events.iter().enumerate() {
        if let What::Grant { claim, asked, answered } = &event.what {
            let (asked, answered, process) = (*asked, *answered, (event.node.as_str(), event.pid));
            jobs.entry(&claim.job).or_default().push(Grant { at, claim, asked, answered, process });
        }
    }
    let before = findings.violations.len();
    for grants in jobs.values_mut() {
        distinct(grants, rules, findings);
        ordered(grants, findings);
    }
    findings.ledger.fences_in_order = findings.violations.len() == before;
}

fn distinct(grants: &mut [Grant<'_>], rules: &Rules, findings: &mut Findings<'_>) {
    grants.sort_unstable_by_key(|grant| (grant.claim.fence, grant.at));
    for pair in grants.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        if a.claim.fence == b.claim.fence && !(rules.shared_fences && a.process == b.process) {
            let sentence =
                format!("two claims of `{}` have the fence {}", a.claim.job, a.claim.fence);
            findings.violation(Invariant::Fences, &[a.at, b.at], sentence);
        }
    }
}

/// Walks the grants by the time they were asked for, with the highest fence that had been answered
/// before that.
fn ordered(grants: &mut [Grant<'_>], findings: &mut Findings<'_>) {
    grants.sort_unstable_by_key(|grant| (grant.asked, grant.at));
    let mut answered: Vec<_> = grants.iter().collect();
    answered.sort_unstable_by_key(|grant| (grant.answered, grant.at));
    let mut answered = answered.into_iter().peekable();
    let mut highest: Option<&Grant<'_>> = None;
    for grant in &*grants {
        while let Some(earlier) = answered.next_if(|earlier| earlier.answered < grant.asked) {
            if highest.is_none_or(|highest| highest.claim.fence < earlier.claim.fence) {
                highest = Some(earlier);
            }
        }
        // Equal fences are `distinct`'s business.
        if let Some(highest) = highest.filter(|highest| highest.claim.fence > grant.claim.fence) {
            let sentence = format!(
                "`{}` was given the fence {} after {} had been given",
                grant.claim.job, grant.claim.fence, highest.claim.fence
            );
            findings.violation(Invariant::Fences, &[highest.at, grant.at], sentence);
        }
    }
}
