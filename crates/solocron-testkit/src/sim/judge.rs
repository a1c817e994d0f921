//! What is asked of the history of a simulation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::clock::WALL_MS;
use super::link::LATEST_MS;
use super::node::{ATTEMPTS, GRACE, JOBS, TTL, ticks};
use super::{LASTS, Profile};
use crate::history::{
    Claim, Event, History, Invariant, KILL, Ledger, Outcome, Rules, Violation, What, check,
};

/// The judgement of one seed.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The seed.
    pub seed: u64,
    /// The faults.
    pub profile: Profile,
    /// Broken promises, each with the events around it.
    pub broken: Vec<String>,
    /// The numbers.
    pub ledger: Ledger,
    /// What happened.
    pub history: History,
}

impl Judged {
    /// Whether no promise was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} ({:?})", self.seed, self.profile)?;
        for broken in self.broken.iter().take(5) {
            writeln!(f, "{broken}")?;
        }
        match self.broken.len() {
            0 => write!(f, "clean: no promise was broken"),
            n => write!(f, "{n} promises were broken"),
        }
    }
}

/// What the fleet may need to work again after a boot or a heal: an enrolment that is lost and sent again, and the slowest clock.
const SETTLE: Duration = Duration::from_secs(8);

pub(super) fn judge(seed: u64, profile: Profile, history: History) -> Judged {
    let end = WALL_MS + LASTS.as_millis() as i64;
    // A dead holder's last renewal may still be on its way: its lease ends a ttl after that has arrived.
    let outlives = TTL + Duration::from_millis(LATEST_MS);
    let rules = Rules::new(GRACE, SETTLE).holder_ttl(outlives).max_attempts(ATTEMPTS);
    let rules = JOBS.iter().fold(rules, |rules, spec| {
        // Under "the latest", a tick is out of date when the next one is due.
        let out_of_date = Duration::from_secs(spec.every - 1);
        let grace = if spec.name == "all" { GRACE * 5 } else { GRACE.min(out_of_date) };
        rules.due_within(spec.name, grace, ticks(spec, WALL_MS, end - 120_000))
    });
    // To say that a tick was missed is no excuse: there must be a reason that the judge can see.
    // Between two leaders nobody claims, and under "the latest" a tick of that time may be out of date when somebody does.
    let between_leaders = |job: &str| profile == Profile::Leader && job != "all";
    let excused = |event: &&Event| match &event.what {
        What::Missed { job, .. } => between_leaders(job),
        _ => true,
    };
    let said = history.events().iter().filter(excused).cloned().collect();
    let said = History::new(said).expect("the meta is still there");
    let report = check(&said, &rules);
    let unused = unused(&said);
    let mut broken: Vec<_> = report
        .violations
        .iter()
        .filter(|violation| violation.id != Invariant::NoneLost || !is_named(violation, &unused))
        .map(|violation| {
            let around: Vec<_> = violation.events.iter().map(|(line, _)| *line).collect();
            format!("{violation}\n{}", story(&said, &around, &violation.sentence))
        })
        .collect();
    broken.extend(started_twice(&history));
    broken.extend(unfinished(&history));
    Judged { seed, profile, broken, ledger: report.ledger, history }
}

/// Ticks that were claimed by a process which a fault met before it could start them. Its undo may come when nobody waits any more.
fn unused(history: &History) -> HashSet<(String, i64)> {
    let (mut faulty, mut unused): (HashSet<(&str, &str)>, _) = (HashSet::new(), HashSet::new());
    let mut open: HashMap<(&str, u32), Vec<&Claim>> = HashMap::new();
    for event in history.events() {
        let process = (event.node.as_str(), event.pid);
        match &event.what {
            What::Fault { kind, node } => {
                faulty.insert((node, kind));
                let held = open.iter().filter(|((name, _), _)| name == node);
                let claims = held.flat_map(|(_, claims)| claims);
                unused.extend(claims.map(|claim| (claim.job.clone(), claim.tick)));
            }
            What::Heal { kind, node } => {
                faulty.remove(&(node.as_str(), kind.as_str()));
            }
            What::Grant { claim, .. } if faulty.iter().any(|(node, _)| *node == process.0) => {
                unused.insert((claim.job.clone(), claim.tick));
            }
            What::Grant { claim, .. } => open.entry(process).or_default().push(claim),
            What::Start { claim, .. } | What::Undo { claim } => {
                open.entry(process).or_default().retain(|other| *other != claim);
            }
            _ => {}
        }
    }
    unused
}

fn is_named(violation: &Violation, ticks: &HashSet<(String, i64)>) -> bool {
    let named = |(job, tick): &(String, i64)| {
        violation.sentence.starts_with(&format!("tick {tick} of `{job}` was never started"))
    };
    ticks.iter().any(named)
}

/// Ticks of at-most-once jobs that were started more than once.
fn started_twice(history: &History) -> Vec<String> {
    let mut starts: BTreeMap<(&str, i64), Vec<usize>> = BTreeMap::new();
    for (i, event) in history.events().iter().enumerate() {
        if let What::Start { claim, .. } = &event.what {
            starts.entry((&claim.job, claim.tick)).or_default().push(i + 1);
        }
    }
    let twice = starts.into_iter().filter(|((job, _), starts)| *job != "again" && starts.len() > 1);
    twice
        .map(|((job, tick), starts)| {
            let sentence = format!("tick {tick} of `{job}` was started {} times", starts.len());
            format!("{sentence}\n{}", story(history, &starts, &sentence))
        })
        .collect()
}

/// Started ticks that did not end, and of which nobody said so.
fn unfinished(history: &History) -> Vec<String> {
    let mut told: HashSet<(&str, i64)> = HashSet::new();
    let mut open: BTreeMap<(&str, i64), usize> = BTreeMap::new();
    // The next winner tells of it; where that one died before it could start, nobody can.
    let mut claims: HashMap<&str, Vec<(usize, i64, bool)>> = HashMap::new();
    // A loss of memory takes what was on record with it. Who was there says so; where all of them are gone before they can, nobody does.
    let mut working: HashSet<&str> = HashSet::new();
    let mut forgotten = Forgotten::default();
    for (i, event) in history.events().iter().enumerate() {
        match &event.what {
            What::Boot => {
                working.insert(&event.node);
            }
            What::Stop | What::Bye => {
                working.remove(event.node.as_str());
                told.extend(forgotten.lost_with(&event.node, event.t));
            }
            What::Fault { kind, node } if kind == KILL => {
                working.remove(node.as_str());
                told.extend(forgotten.lost_with(node, event.t));
            }
            What::Fault { kind, .. } if kind == "wipe" => {
                let ticks = open.keys().copied().collect();
                forgotten = Forgotten { at: event.t, witnesses: working.clone(), ticks };
                told.extend(forgotten.lost_with("", event.t));
            }
            What::Grant { claim, .. } => {
                claims.entry(&claim.job).or_default().push((i, claim.tick, false));
            }
            What::Start { claim, .. } => {
                open.insert((&claim.job, claim.tick), i + 1);
                for grant in claims.entry(&claim.job).or_default().iter_mut().rev() {
                    if grant.1 == claim.tick {
                        grant.2 = true;
                        break;
                    }
                }
            }
            // A run that was cut short says so itself; under at-least-once it is to be tried again.
            What::Over { claim, outcome } if *outcome != Outcome::Lost || claim.job != "again" => {
                told.insert((&claim.job, claim.tick));
            }
            What::Abandoned { job, tick } | What::Skipped { job, tick, .. } => {
                told.insert((job, *tick));
            }
            _ => {}
        }
    }
    let end = WALL_MS + LASTS.as_millis() as i64 - 300_000;
    let untold = open.into_iter().filter(|(key, at)| {
        let next = claims[key.0].iter().find(|(i, tick, _)| *i >= *at && *tick > key.1);
        let messenger_died = next.is_none_or(|(_, _, started)| !started);
        !told.contains(key) && key.1 < end && !messenger_died
    });
    untold
        .map(|((job, tick), at)| {
            let sentence = format!("tick {tick} of `{job}` did not end, and nobody said so");
            format!("{sentence}\n{}", story(history, &[at], &sentence))
        })
        .collect()
}

/// What was on record when the store forgot, and who can tell.
#[derive(Default)]
struct Forgotten<'h> {
    at: u64,
    witnesses: HashSet<&'h str>,
    ticks: Vec<(&'h str, i64)>,
}

impl<'h> Forgotten<'h> {
    /// How long a node may be cut off, and so not know.
    const UNHEARD: u64 = 60_000_000_000;

    /// A node is gone: the ticks of which nobody can tell any more.
    fn lost_with(&mut self, node: &str, now: u64) -> Vec<(&'h str, i64)> {
        self.witnesses.remove(node);
        let unheard = self.witnesses.is_empty() && now <= self.at + Self::UNHEARD;
        if unheard { std::mem::take(&mut self.ticks) } else { Vec::new() }
    }
}

/// The events around these lines that have to do with it: of the jobs in the sentence, and all faults.
fn story(history: &History, lines: &[usize], sentence: &str) -> String {
    let named = |event: &Event| {
        JOBS.iter().find(|spec| match &event.what {
            What::Missed { job, .. } | What::Skipped { job, .. } | What::Abandoned { job, .. } => {
                job == spec.name
            }
            what => what.claim().is_some_and(|claim| claim.job == spec.name),
        })
    };
    let tick: Option<i64> = sentence
        .split(' ')
        .skip_while(|word| *word != "tick")
        .nth(1)
        .and_then(|word| word.parse().ok());
    let times: Vec<u64> = match (lines, tick) {
        ([], Some(tick)) => vec![(tick - WALL_MS).max(0) as u64 * 1_000_000],
        (lines, _) => lines.iter().map(|line| history.events()[line - 1].t).collect(),
    };
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else {
        return String::new();
    };
    let (from, to) = (first.saturating_sub(60_000_000_000), last + 45_000_000_000);
    let told = history.events().iter().filter(|event| {
        let about = named(event).is_none_or(|spec| sentence.contains(&format!("`{}`", spec.name)));
        let noisy = matches!(event.what, What::Effect { .. } | What::Meta(_));
        (from..=to).contains(&event.t) && about && !noisy
    });
    told.map(|event| format!("    {event}\n")).collect()
}
