//! I3: each attempt of a tick starts once, in order.

use std::collections::HashMap;

use super::Findings;
use super::runs::Runs;
use crate::history::event::What;
use crate::history::report::Invariant;
use crate::history::rules::Rules;

/// Attempts are numbered by the backend when it grants, so a win that was never started uses up a
/// number.
pub(super) fn check(runs: &Runs<'_>, rules: &Rules, findings: &mut Findings<'_>) {
    let mut unused: HashMap<(&str, i64), u32> = HashMap::new();
    for run in runs.all.iter().filter(|run| !run.is_started()) {
        *unused.entry((&run.claim.job, run.claim.tick)).or_default() += 1;
    }
    let mut latest: HashMap<(&str, i64), (usize, u32)> = HashMap::new();
    for (i, event) in findings.events.iter().enumerate() {
        let What::Start { claim, attempt } = &event.what else { continue };
        let (job, tick, attempt) = (&claim.job, claim.tick, *attempt);
        let key = (job.as_str(), tick);
        let (before, latest_attempt) = match latest.get(&key) {
            Some((at, attempt)) => (Some(*at), *attempt),
            None => (None, 0),
        };
        let gap = attempt.saturating_sub(latest_attempt.saturating_add(1));
        let unused = unused.entry(key).or_default();
        let wrong = if attempt <= latest_attempt {
            Some(format!(
                "attempt {attempt} of tick {tick} of `{job}` was started after attempt {latest_attempt}"
            ))
        } else if gap > *unused && !rules.unseen_wins {
            Some(format!(
                "attempt {attempt} of tick {tick} of `{job}` was started, but not the one before it"
            ))
        } else if attempt > rules.max_attempts {
            Some(format!(
                "tick {tick} of `{job}` was started as attempt {attempt} of {}",
                rules.max_attempts
            ))
        } else {
            None
        };
        *unused = unused.saturating_sub(gap);
        latest.insert(key, (i, attempt.max(latest_attempt)));
        if let Some(sentence) = wrong {
            let at: Vec<_> = before.into_iter().chain([i]).collect();
            findings.violation(Invariant::Once, &at, sentence);
        }
    }
}
