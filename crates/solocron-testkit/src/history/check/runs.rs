//! What became of each claim.

use std::collections::HashMap;

use super::Ns;
use crate::history::event::{Claim, Event, What};

/// A claim in the hands of one process, from its grant to its end. Retries under one claim are one
/// run.
#[derive(Debug)]
pub(super) struct Run<'h> {
    pub(super) node: &'h str,
    pub(super) claim: &'h Claim,
    /// When the lock may have been held from: the question, or the first event.
    pub(super) from: Ns,
    /// When it may have been held until, as far as this process said: its last event.
    pub(super) last: Ns,
    /// Index of the first start.
    pub(super) start: Option<usize>,
    /// Index of the last event.
    pub(super) end: usize,
    /// Index of the end of the last attempt; none while that is going on.
    pub(super) over: Option<usize>,
    pub(super) undone: Option<usize>,
    /// Indices of the effects, in order.
    pub(super) effects: Vec<usize>,
}

impl Run<'_> {
    pub(super) fn is_started(&self) -> bool {
        self.start.is_some()
    }

    /// Neither ended nor given back.
    pub(super) fn is_open(&self) -> bool {
        self.over.is_none() && self.undone.is_none()
    }
}

/// All runs, in the order of their first events.
#[derive(Debug)]
pub(super) struct Runs<'h> {
    pub(super) all: Vec<Run<'h>>,
}

impl<'h> Runs<'h> {
    pub(super) fn collect(events: &'h [Event]) -> Self {
        let mut all: Vec<Run<'h>> = vec![];
        let mut known = HashMap::new();
        for (i, event) in events.iter().enumerate() {
            let Some(claim) = event.what.claim() else { continue };
            let t = Ns::from(event.t);
            let at = *known.entry((&event.node, event.pid, claim)).or_insert_with(|| {
                let from =
                    if let What::Grant { asked, .. } = event.what { Ns::from(asked) } else { t };
                let node = &event.node;
                let (start, over, undone) = (None, None, None);
                all.push(Run {
                    node,
                    claim,
                    from,
                    last: t,
                    start,
                    end: i,
                    over,
                    undone,
                    effects: vec![],
                });
                all.len() - 1
            });
            let run = &mut all[at];
            run.end = i;
            run.last = run.last.max(t);
            match event.what {
                What::Start { .. } => {
                    run.start.get_or_insert(i);
                    run.over = None;
                }
                What::Effect { .. } => run.effects.push(i),
                What::Over { .. } => run.over = Some(i),
                What::Undo { .. } => run.undone = Some(i),
                _ => {}
            }
        }
        Self { all }
    }

    /// The runs of each job.
    pub(super) fn by_job(&self) -> HashMap<&'h str, Vec<&Run<'h>>> {
        let mut jobs: HashMap<_, Vec<_>> = HashMap::new();
        for run in &self.all {
            jobs.entry(run.claim.job.as_str()).or_default().push(run);
        }
        jobs
    }

    /// When and where each job was started, by time. Jobs that were claimed but never started have
    /// an empty list.
    pub(super) fn starts_by_job(
        &self,
        events: &'h [Event],
    ) -> HashMap<&'h str, Vec<(Ns, &'h str)>> {
        let mut jobs: HashMap<_, Vec<_>> =
            self.by_job().into_keys().map(|job| (job, vec![])).collect();
        for event in events {
            if let What::Start { claim, .. } = &event.what {
                jobs.entry(claim.job.as_str())
                    .or_default()
                    .push((Ns::from(event.t), event.node.as_str()));
            }
        }
        jobs.values_mut().for_each(|starts| starts.sort_unstable());
        jobs
    }
}
