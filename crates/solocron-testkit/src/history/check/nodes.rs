//! Who was up, and who was healthy.

use std::collections::BTreeMap;

use super::Ns;
use super::runs::Run;
use crate::history::event::{EVERYBODY, Event, KILL, STOP, What};

/// Later than anything in a history.
const NEVER: Ns = Ns::MAX;

/// One process of a node, from its boot to its end.
#[derive(Debug, Clone, Copy)]
struct Life {
    from: Ns,
    /// When it stopped to take part: told to, or dead.
    works_until: Ns,
    until: Ns,
    killed: bool,
}

/// Closed intervals of time.
type Intervals = Vec<(Ns, Ns)>;

#[derive(Debug, Default)]
struct Node {
    lives: Vec<Life>,
    /// Faults other than kills, those of everybody included; disjoint and sorted.
    troubles: Intervals,
    /// Those of them in which it did nothing at all.
    stops: Intervals,
}

/// All nodes that booted.
#[derive(Debug)]
pub(super) struct Nodes<'h> {
    nodes: BTreeMap<&'h str, Node>,
    /// Healthy intervals of any node: sorted by beginning, each with the latest end so far.
    healthy: Intervals,
}

impl<'h> Nodes<'h> {
    pub(super) fn collect(events: &'h [Event]) -> Self {
        let mut sorted: Vec<_> =
            events.iter().filter(|event| event.what.claim().is_none()).collect();
        // By time: a process may be stopped between reading the clock and writing.
        sorted.sort_by_key(|event| event.t);
        let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
        for event in &sorted {
            live(&mut nodes, event);
        }
        let (troubles, stops) =
            (faults(&sorted, |kind| kind != KILL), faults(&sorted, |kind| kind == STOP));
        for (name, node) in &mut nodes {
            let of = |faults: &BTreeMap<&str, Intervals>| {
                united(
                    [*name, EVERYBODY]
                        .into_iter()
                        .filter_map(|name| faults.get(name))
                        .flatten()
                        .copied()
                        .collect(),
                )
            };
            (node.troubles, node.stops) = (of(&troubles), of(&stops));
        }
        let mut healthy: Intervals = nodes.values().flat_map(Node::healthy).collect();
        healthy.sort_unstable();
        let mut latest = Ns::MIN;
        for (_, until) in &mut healthy {
            latest = latest.max(*until);
            *until = latest;
        }
        Self { nodes, healthy }
    }

    pub(super) fn booted(&self) -> usize {
        self.nodes.len()
    }

    /// Whether some node was healthy over the whole time.
    pub(super) fn any_healthy(&self, from: Ns, until: Ns) -> bool {
        let begun = self.healthy.partition_point(|(healthy_from, _)| *healthy_from <= from);
        begun > 0 && self.healthy[begun - 1].1 >= until
    }

    /// When the process of this run ended, and whether it was killed. Nothing if it never did.
    pub(super) fn end(&self, run: &Run<'_>) -> Option<(Ns, bool)> {
        let lives = &self.nodes.get(run.node)?.lives;
        let life = lives[..lives.partition_point(|life| life.from <= run.from)].last()?;
        (life.until != NEVER).then_some((life.until, life.killed))
    }

    /// When the process of this run was killed, if it was.
    pub(super) fn killed(&self, run: &Run<'_>) -> Option<Ns> {
        self.end(run).filter(|(_, killed)| *killed).map(|(until, _)| until)
    }

    /// Whether any fault met the run's node in this time.
    pub(super) fn is_troubled(&self, run: &Run<'_>, from: Ns, until: Ns) -> bool {
        self.nodes
            .get(run.node)
            .is_some_and(|node| met(&node.troubles, from, until).next().is_some())
    }

    /// When, in this time, the run's node began to stand still for at least `least`, if it did.
    pub(super) fn stopped(&self, run: &Run<'_>, from: Ns, until: Ns, least: Ns) -> Option<Ns> {
        let mut stops = met(&self.nodes.get(run.node)?.stops, from, until)
            .map(|(begun, healed)| (begun.max(from), healed));
        stops.find(|(begun, healed)| healed - begun >= least).map(|(begun, _)| begun)
    }
}

/// Those of disjoint, sorted intervals that meet this time.
fn met(intervals: &Intervals, from: Ns, until: Ns) -> impl Iterator<Item = (Ns, Ns)> {
    let first = intervals.partition_point(|(_, end)| *end < from);
    intervals[first..].iter().take_while(move |(begin, _)| *begin <= until).copied()
}

/// Moves the lives of the nodes on by one event.
fn live<'h>(nodes: &mut BTreeMap<&'h str, Node>, event: &'h Event) {
    let t = Ns::from(event.t);
    let end = |node: &mut Node, killed| {
        if let Some(life) = node.lives.last_mut().filter(|life| life.until == NEVER) {
            *life = Life { works_until: life.works_until.min(t), until: t, killed, ..*life };
        }
    };
    match &event.what {
        What::Boot => {
            let node = nodes.entry(&event.node).or_default();
            // It came back without a goodbye: it died, and nobody saw it.
            end(node, true);
            node.lives.push(Life { from: t, works_until: NEVER, until: NEVER, killed: false });
        }
        What::Stop => {
            if let Some(life) =
                nodes.get_mut(event.node.as_str()).and_then(|node| node.lives.last_mut())
            {
                life.works_until = life.works_until.min(t);
            }
        }
        What::Bye => {
            nodes.get_mut(event.node.as_str()).into_iter().for_each(|node| end(node, false))
        }
        What::Fault { kind, node } if kind == KILL && node == EVERYBODY => {
            nodes.values_mut().for_each(|node| end(node, true));
        }
        What::Fault { kind, node } if kind == KILL => {
            nodes.get_mut(node.as_str()).into_iter().for_each(|node| end(node, true));
        }
        _ => {}
    }
}

/// When each target was under faults of these kinds. What is never healed lasts for ever.
fn faults<'h>(sorted: &[&'h Event], is: impl Fn(&str) -> bool) -> BTreeMap<&'h str, Intervals> {
    let mut open: BTreeMap<(&str, &str), Ns> = BTreeMap::new();
    let mut faults: BTreeMap<&str, Intervals> = BTreeMap::new();
    for event in sorted {
        let t = Ns::from(event.t);
        match &event.what {
            What::Fault { kind, node } if is(kind) => {
                open.entry((node, kind)).or_insert(t);
            }
            What::Heal { kind, node } => {
                if let Some(from) = open.remove(&(node, kind)) {
                    faults.entry(node).or_default().push((from, t));
                }
            }
            _ => {}
        }
    }
    for ((node, _), from) in open {
        faults.entry(node).or_default().push((from, NEVER));
    }
    faults
}

/// The same time as disjoint, sorted intervals.
fn united(mut intervals: Intervals) -> Intervals {
    intervals.sort_unstable();
    let mut united: Intervals = vec![];
    for (from, until) in intervals {
        match united.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(until),
            _ => united.push((from, until)),
        }
    }
    united
}

impl Node {
    /// Its working lives without its troubles.
    fn healthy(&self) -> Intervals {
        let mut healthy = vec![];
        for life in &self.lives {
            let mut from = life.from;
            for (begun, healed) in met(&self.troubles, life.from, life.works_until) {
                if from < begun {
                    healthy.push((from, begun - 1));
                }
                from = from.max(healed);
            }
            if from < life.works_until {
                healthy.push((from, life.works_until - 1));
            }
        }
        healthy
    }
}
