//! Promises that were not kept, and what makes a run void.

use std::collections::{BTreeMap, HashSet};

use super::numbers::share_ran_of;
use super::unseen::{Unseen, lost_tick};
use super::{Judge, Span};
use crate::chaos::verdict::Least;
use crate::history::{Event, Invariant, Ledger, Report, Violation, What};

impl Judge<'_> {
    /// Violations that no fault explains.
    pub(super) fn violations(&self, report: &Report) -> Vec<String> {
        let (mut unseen, splits) = (Unseen::of(self), self.kinds(|fault| fault.splits));
        let split = |violation: &Violation| {
            let times = || violation.events.iter().map(|(_, event)| i128::from(event.t));
            let (from, until) =
                (times().min().unwrap_or_default(), times().max().unwrap_or_default());
            let splits = |span: &Span<'_>| splits.contains(span.kind);
            self.spans().iter().any(|span| splits(span) && span.from <= until && from <= span.until)
        };
        let broken = report.violations.iter().filter(|violation| match violation.id {
            Invariant::StrictExclusion => !split(violation),
            // The run that does not know of it yet has the older fence.
            Invariant::Exclusion => !(violation.sentence.contains("too old") && split(violation)),
            Invariant::NoneLost => !unseen.explains(violation),
            _ => true,
        });
        broken.map(|violation| self.told(&violation.to_string(), violation)).collect()
    }

    /// A violation, and what happened to its job around it.
    pub(super) fn told(&self, text: &str, violation: &Violation) -> String {
        let named = |event: &Event| match &event.what {
            What::Missed { job, .. } | What::Skipped { job, .. } | What::Abandoned { job, .. } => {
                text.contains(&format!("`{job}`"))
            }
            what => what.claim().is_none_or(|claim| text.contains(&format!("`{}`", claim.job))),
        };
        let around = violation.events.iter().map(|(_, event)| i128::from(event.t));
        let around = around
            .min()
            .or_else(|| lost_tick(&violation.sentence).map(|(_, tick)| self.at.tick(tick)));
        let Some(around) = around else { return text.to_owned() };
        let seconds = |s: i128| s * 1_000_000_000;
        let (from, until) = (around - seconds(4), around + seconds(4));
        let story = self.history.events().iter().filter(|event| {
            let noise = matches!(event.what, What::Effect { .. } | What::Meta(_));
            (from..until).contains(&i128::from(event.t)) && named(event) && !noise
        });
        let story: String = story.map(|event| format!("\n        {event}")).collect();
        format!("{text}{story}")
    }

    /// Ticks of at-most-once jobs that were started more than once.
    pub(super) fn started_twice(&self) -> Vec<String> {
        let mut starts: BTreeMap<(&str, i64), Vec<&Event>> = BTreeMap::new();
        for (claim, event) in self.starts() {
            starts.entry((&claim.job, claim.tick)).or_default().push(event);
        }
        let once = |job: &str| {
            self.case.jobs.iter().any(|spec| spec.name == job && spec.is_at_most_once())
        };
        let twice = starts.into_iter().filter(|((job, _), starts)| starts.len() > 1 && once(job));
        twice
            .map(|((job, tick), starts)| {
                let starts: String = starts.iter().map(|event| format!("\n    {event}")).collect();
                format!("tick {tick} of `{job}`, which runs at most once, was started more than once{starts}")
            })
            .collect()
    }

    /// Jobs that stood still for much longer than a dead holder's lock may block them, however the faults fell.
    pub(super) fn stands_still(&self) -> Vec<String> {
        let most = (self.case.outlives + self.case.settle) * 3;
        let all = self.case.jobs.iter().filter(|spec| spec.all);
        let gaps =
            all.map(|spec| (spec.name, self.worst_gap(spec.name))).filter(|(_, gap)| *gap > most);
        gaps.map(|(job, gap)| format!("no run of `{job}` began for {gap:.1?}")).collect()
    }

    /// After the last fault every tick is run, but for those that a run of their job passed over.
    pub(super) fn lost_in_calm(&self, calm: &Report) -> Vec<String> {
        let Ledger { due, ran_once, skipped, .. } = calm.ledger;
        if due == 0 {
            return vec!["void: no tick was due after the last fault".to_owned()];
        }
        let lost = (ran_once + skipped < due)
            .then(|| format!("{ran_once} of {due} ticks ran, and {skipped} were passed over, after the last fault"));
        lost.into_iter().collect()
    }

    /// Whether too little happened.
    pub(super) fn void(&self, ledger: &Ledger, under_faults: &Ledger) -> Vec<String> {
        let Least { share_ran, faults_of_a_kind, kills_of_holders, nodes_that_ran } =
            self.case.least;
        let mut void = Vec::new();
        let share = share_ran_of(under_faults);
        if share.is_none_or(|share| share < share_ran) {
            let (ran, due) = (under_faults.ran_once + under_faults.ran_again, under_faults.due);
            void.push(format!(
                "void: {ran} of {due} due ticks ran under faults, less than {:.0} %",
                share_ran * 100.0
            ));
        }
        for kind in &self.case.kinds {
            let fired = ledger.faults.get(*kind).copied().unwrap_or_default();
            if fired < faults_of_a_kind {
                void.push(format!(
                    "void: {fired} faults of kind `{kind}`, fewer than {faults_of_a_kind}"
                ));
            }
        }
        if ledger.kills_of_holders < kills_of_holders {
            void.push(format!(
                "void: {} kills hit a holder, fewer than {kills_of_holders}",
                ledger.kills_of_holders
            ));
        }
        let ran: HashSet<_> = self.starts().map(|(_, event)| &event.node).collect();
        if ran.len() < nodes_that_ran {
            void.push(format!("void: only {} nodes ran anything", ran.len()));
        }
        void
    }
}
