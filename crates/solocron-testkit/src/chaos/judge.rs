//! What is asked of the history of a run.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use super::jobs::{JobSpec, STEADY, grace};
use super::store::StoreFault;
use super::verdict::{Least, Verdict};
use crate::history::{
    Claim, Event, History, Invariant, KILL, Ledger, Report, Rules, STOP, Violation, What, check,
};

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

    /// Violations that no fault explains.
    fn violations(&self, report: &Report) -> Vec<String> {
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
    fn told(&self, text: &str, violation: &Violation) -> String {
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
    fn started_twice(&self) -> Vec<String> {
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

    /// Runs that a kill cut short, and of which nobody said so: the next winner says it, or tries the tick again.
    fn untold(&self) -> Vec<String> {
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

    /// Ticks that were passed over and never started, by what was said of them.
    fn passed_over(&self) -> BTreeMap<String, usize> {
        let started: HashSet<_> =
            self.starts().map(|(claim, _)| (&claim.job, claim.tick)).collect();
        let mut passed_over: BTreeMap<String, HashSet<(&String, i64)>> = BTreeMap::new();
        for event in self.history.events() {
            if let What::Skipped { why, job, tick } = &event.what
                && !started.contains(&(job, *tick))
                && self.history.meta().wall_ms <= *tick
            {
                passed_over.entry(why.clone()).or_default().insert((job, *tick));
            }
        }
        passed_over.into_iter().map(|(why, ticks)| (why, ticks.len())).collect()
    }

    /// Runs that began while another run of their job went on in a process that nobody had stopped.
    fn overlaps_awake(&self) -> usize {
        let mut runs: HashMap<(&str, u32, &Claim), (usize, usize)> = HashMap::new();
        for (i, event) in self.history.events().iter().enumerate() {
            if let Some(claim) = event.what.claim() {
                match (&event.what, runs.entry((&event.node, event.pid, claim))) {
                    (_, Entry::Occupied(mut run)) => run.get_mut().1 = i,
                    (What::Start { .. }, Entry::Vacant(run)) => _ = run.insert((i, i)),
                    _ => {}
                }
            }
        }
        let mut runs: Vec<_> =
            runs.into_iter().map(|((node, _, claim), at)| (at, &claim.job, node)).collect();
        runs.sort_unstable();
        let t = |at: usize| i128::from(self.history.events()[at].t);
        let stops: Vec<_> = self.spans().into_iter().filter(|span| span.kind == STOP).collect();
        let asleep = |node: &str, (from, until): (usize, usize)| {
            let met = |span: &Span<'_>| span.from <= t(until) && t(from) <= span.until;
            stops.iter().any(|span| span.node == node && met(span))
        };
        let mut longest: HashMap<&str, ((usize, usize), &str)> = HashMap::new();
        let mut overlaps = 0;
        for (at, job, node) in runs {
            let other = longest.entry(job).or_insert((at, node));
            let (other_at, other_node) = *other;
            overlaps +=
                usize::from(other_at != at && other_at.1 > at.0 && !asleep(other_node, other_at));
            if other_at.1 < at.1 {
                *other = (at, node);
            }
        }
        overlaps
    }

    /// From a kill to the next start of the steady job, at the worst.
    fn next_start_after_a_kill(&self) -> Duration {
        let starts = self.times_of_starts(STEADY);
        let next =
            |killed: u64| starts.get(starts.partition_point(|t| *t <= killed)).map(|t| t - killed);
        let is_kill =
            |event: &&Event| matches!(&event.what, What::Fault { kind, .. } if kind == KILL);
        let kills = self.history.events().iter().filter(is_kill);
        Duration::from_nanos(kills.filter_map(|kill| next(kill.t)).max().unwrap_or_default())
    }

    /// The longest time between two starts of a job.
    fn worst_gap(&self, job: &str) -> Duration {
        let starts = self.times_of_starts(job);
        Duration::from_nanos(
            starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
        )
    }

    /// Jobs that stood still for much longer than a dead holder's lock may block them, however the faults fell.
    fn stands_still(&self) -> Vec<String> {
        let most = (self.case.outlives + self.case.settle) * 3;
        let all = self.case.jobs.iter().filter(|spec| spec.all);
        let gaps =
            all.map(|spec| (spec.name, self.worst_gap(spec.name))).filter(|(_, gap)| *gap > most);
        gaps.map(|(job, gap)| format!("no run of `{job}` began for {gap:.1?}")).collect()
    }

    /// In ascending order.
    fn times_of_starts(&self, job: &str) -> Vec<u64> {
        let starts = self.starts().filter(|(claim, _)| claim.job == job);
        let mut times: Vec<_> = starts.map(|(_, event)| event.t).collect();
        times.sort_unstable();
        times
    }

    fn starts(&self) -> impl Iterator<Item = (&Claim, &Event)> {
        self.history.events().iter().filter_map(|event| match &event.what {
            What::Start { claim, .. } => Some((claim, event)),
            _ => None,
        })
    }

    /// After the last fault every tick is run, but for those that a run of their job passed over.
    fn lost_in_calm(&self, calm: &Report) -> Vec<String> {
        let Ledger { due, ran_once, skipped, .. } = calm.ledger;
        if due == 0 {
            return vec!["void: no tick was due after the last fault".to_owned()];
        }
        let lost = (ran_once + skipped < due)
            .then(|| format!("{ran_once} of {due} ticks ran, and {skipped} were passed over, after the last fault"));
        lost.into_iter().collect()
    }

    /// Whether too little happened.
    fn void(&self, ledger: &Ledger, under_faults: &Ledger) -> Vec<String> {
        let Least { share_ran, faults_of_a_kind, kills_of_holders } = self.case.least;
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
        if ran.len() < super::nodes::NAMES.len() {
            void.push(format!("void: only {} nodes ran anything", ran.len()));
        }
        void
    }
}

/// Of the due ticks; nothing where none was due.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
pub(super) fn share_ran_of(ledger: &Ledger) -> Option<f64> {
    (ledger.due > 0).then(|| (ledger.ran_once + ledger.ran_again) as f64 / ledger.due as f64)
}

/// Wins that nobody saw: the store granted, and its answer was lost with the node, the network, or the writing of it. Of each job,
/// one fault can hide one of them.
struct Unseen<'h> {
    spans: Vec<Span<'h>>,
    used: HashSet<(usize, String)>,
    grace: i128,
    at: (i128, i128),
}

impl<'h> Unseen<'h> {
    fn of(judge: &'h Judge<'_>) -> Self {
        let grace = (grace(judge.case.ttl) + judge.case.settle).as_nanos() as i128;
        Self {
            spans: judge.spans(),
            used: HashSet::new(),
            grace,
            at: (judge.at.t, judge.at.wall_ms),
        }
    }

    /// Whether a lost tick may have been won unseen.
    fn explains(&mut self, violation: &Violation) -> bool {
        let Some((job, tick)) = lost_tick(&violation.sentence) else { return false };
        let at = Times { t: self.at.0, wall_ms: self.at.1 }.tick(tick);
        self.take(job, at - 1_000_000_000, at + self.grace, 1)
    }

    /// Whether a fault that hid nothing of this job yet was there at that time; the first `spare` are not counted.
    fn take(&mut self, job: &str, from: i128, until: i128, faults: usize) -> bool {
        let there = |span: &Span<'_>| {
            span.from <= until && span.until >= from && span.kind != "clock" && span.kind != "term"
        };
        let there: Vec<_> = (0..self.spans.len()).filter(|at| there(&self.spans[*at])).collect();
        if there.len() < faults {
            return false;
        }
        let free = there.into_iter().find(|at| !self.used.contains(&(*at, job.to_owned())));
        free.is_some_and(|at| self.used.insert((at, job.to_owned())))
    }
}

/// The job and the tick of a violation that says a tick was never started.
fn lost_tick(sentence: &str) -> Option<(&str, i64)> {
    let (tick, rest) = sentence.strip_prefix("tick ")?.split_once(" of `")?;
    let (job, rest) = rest.split_once('`')?;
    rest.starts_with(" was never started").then_some((job, tick.parse().ok()?))
}
