//! Runs that did not end: somebody says so.

use std::collections::{BTreeMap, HashSet};

use super::Judge;
use super::unseen::Unseen;
use crate::history::{Event, What};

impl Judge<'_> {
    /// Runs that a kill cut short, and of which nobody said so: the next winner says it, or tries the tick again.
    pub(super) fn untold(&self) -> Vec<String> {
        let mut open: BTreeMap<(&str, i64), &Event> = BTreeMap::new();
        let mut untold: Vec<((&str, i64), &Event, &Event)> = Vec::new();
        let mut told: HashSet<(&str, i64)> = HashSet::new();
        for event in self.history.events() {
            match &event.what {
                What::Start { claim, .. } => {
                    let key = (claim.job.as_str(), claim.tick);
                    // The start of a later tick: its winner was told of what stood open before it.
                    let earlier =
                        open.range((key.0, i64::MIN)..key).map(|(key, _)| *key).collect::<Vec<_>>();
                    for earlier in earlier {
                        let from = open.remove(&earlier).expect("it was just there");
                        if !told.contains(&earlier) {
                            untold.push((earlier, from, event));
                        }
                    }
                    open.insert(key, event);
                }
                What::Over { claim, .. } => _ = open.remove(&(claim.job.as_str(), claim.tick)),
                What::Abandoned { job, tick } | What::Skipped { job, tick, .. } => {
                    told.insert((job, *tick));
                    open.remove(&(job.as_str(), *tick));
                }
                _ => {}
            }
        }
        let (mut unseen, forgets) = (Unseen::of(self), self.kinds(|fault| fault.forgets));
        let spans = self.spans();
        // A run that goes on beside its successor is no dead one: its own end says what became of it.
        let ended: HashSet<_> = self
            .history
            .events()
            .iter()
            .filter_map(|event| match &event.what {
                What::Over { claim, .. } => Some((claim.job.as_str(), claim.tick)),
                _ => None,
            })
            .collect();
        let untold = untold.into_iter().filter(|(key, from, until)| {
            let (from, until) = (i128::from(from.t), i128::from(until.t));
            let forgotten = spans.iter().any(|span| {
                forgets.contains(span.kind) && span.from <= until && span.until >= from
            });
            !told.contains(key)
                && !ended.contains(key)
                && !forgotten
                && !unseen.take(key.0, from, until, 2)
        });
        untold
            .map(|((job, tick), from, until)| format!("tick {tick} of `{job}` did not end, and nobody said so\n    {from}\n    {until}"))
            .collect()
    }
}
