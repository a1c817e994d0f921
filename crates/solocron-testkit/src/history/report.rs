//! What the judge says.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use super::event::Event;

/// The promises that can be broken; the table in the head of the module says what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Invariant {
    /// I1: exclusion, as a resource that compares fences sees it.
    Exclusion,
    /// I1s: runs of a job never overlap.
    StrictExclusion,
    /// I2: fences are distinct and follow time.
    Fences,
    /// I3: each attempt of a tick starts once, in order.
    Once,
    /// I4: no due tick is lost, and none is invented.
    NoneLost,
    /// I7: nothing is left behind.
    NoLeak,
    /// V: the history says enough to be judged.
    Vacuity,
}

impl Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclusion => "I1",
            Self::StrictExclusion => "I1s",
            Self::Fences => "I2",
            Self::Once => "I3",
            Self::NoneLost => "I4",
            Self::NoLeak => "I7",
            Self::Vacuity => "V",
        })
    }
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub id: Invariant,
    /// The events that break it, with their line in the history, counted from 1.
    pub events: Vec<(usize, Event)>,
    /// What is wrong.
    pub sentence: String,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.sentence)?;
        for (line, event) in &self.events {
            write!(f, "\n    line {line}: {event}")?;
        }
        Ok(())
    }
}

/// Why a due tick that nobody started in time is nobody's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Excuse {
    /// No node was up and untroubled over the whole window.
    NoHealthyNode,
    /// Its holder was killed, or the lock of a killed holder outlived the window.
    CrashedHolder,
    /// A holder that a fault had hit kept the lock beyond the window.
    TroubledHolder,
    /// An earlier tick's run was going on.
    Overlap,
}

impl Display for Excuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHealthyNode => "no healthy node",
            Self::CrashedHolder => "crashed holder",
            Self::TroubledHolder => "troubled holder",
            Self::Overlap => "overlap",
        })
    }
}

/// A job that went on elsewhere after its holder was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeOver {
    /// The job.
    pub job: String,
    /// The node that was killed while it held the job.
    pub killed: String,
    /// The node that started the job next.
    pub by: String,
    /// From the kill to that start.
    pub gap: Duration,
}

/// What became of everything, in numbers.
///
/// Every due tick is counted once: `due = ran_once + ran_again + missed + skipped + abandoned +
/// excused + lost`. A tick that was started counts as run, whatever was reported of it besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// From the first event to the last.
    pub lasted: Duration,
    /// Nodes that booted.
    pub nodes: usize,
    /// Due ticks that were started or reported, or whose window was over when the history ended.
    pub due: usize,
    /// Other due ticks, whose window was still open; nothing is asked of them.
    pub pending: usize,
    /// Due ticks that were started once.
    pub ran_once: usize,
    /// Due ticks that were started more than once: retries, second attempts, duplicates.
    pub ran_again: usize,
    /// Due ticks that were reported as missed or coalesced.
    pub missed: usize,
    /// Due ticks that were reported as skipped.
    pub skipped: usize,
    /// Due ticks that were reported as abandoned.
    pub abandoned: usize,
    /// Due ticks that were excused.
    pub excused: BTreeMap<Excuse, usize>,
    /// Due ticks nobody started, reported or excused; each is a violation of I4.
    pub lost: usize,
    /// Runs that were entered.
    pub runs: usize,
    /// Runs without an end, because their process was killed.
    pub interrupted: usize,
    /// Wins that were never started, given back or not.
    pub never_started: usize,
    /// Wins that were given back.
    pub undone: usize,
    /// Whether all fences kept I2.
    pub fences_in_order: bool,
    /// Effects that a fencing resource would have refused.
    pub refused_effects: u64,
    /// Runs that began while another run of their job went on, whether or not that is a violation.
    pub overlaps: usize,
    /// The longest of these overlaps.
    pub worst_overlap: Duration,
    /// Starts before their tick was due.
    pub early: usize,
    /// The latest start of a due tick, counted from the tick.
    pub worst_lateness: Duration,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Kills that hit a node while it held a job.
    pub kills_of_holders: usize,
    /// What followed these kills, job by job.
    pub take_overs: Vec<TakeOver>,
}

impl Ledger {
    /// The longest gap between a kill of a holder and the next start of its job on another node.
    #[must_use]
    pub fn worst_take_over(&self) -> Option<Duration> {
        self.take_overs.iter().map(|take_over| take_over.gap).max()
    }
}

impl Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let excused: usize = self.excused.values().sum();
        writeln!(f, "{} nodes, {:.1?}", self.nodes, self.lasted)?;
        writeln!(f, "ticks due              {:>7}", self.due)?;
        writeln!(f, "  ran once             {:>7}", self.ran_once)?;
        writeln!(f, "  ran more than once   {:>7}", self.ran_again)?;
        writeln!(f, "  reported missed      {:>7}", self.missed)?;
        writeln!(f, "  reported skipped     {:>7}", self.skipped)?;
        writeln!(f, "  reported abandoned   {:>7}", self.abandoned)?;
        writeln!(f, "  excused              {excused:>7}{}", counts(&self.excused))?;
        writeln!(f, "  lost                 {:>7}", self.lost)?;
        writeln!(f, "runs                   {:>7}", self.runs)?;
        writeln!(f, "  interrupted by death {:>7}", self.interrupted)?;
        writeln!(
            f,
            "claims never started   {:>7}  ({} given back)",
            self.never_started, self.undone
        )?;
        writeln!(
            f,
            "overlapping runs       {:>7}  (worst {:.1?})",
            self.overlaps, self.worst_overlap
        )?;
        writeln!(f, "late effects refused   {:>7}", self.refused_effects)?;
        writeln!(
            f,
            "fences in order        {:>7}",
            if self.fences_in_order { "yes" } else { "NO" }
        )?;
        writeln!(
            f,
            "worst lateness         {:>7.1?}  ({} starts early)",
            self.worst_lateness, self.early
        )?;
        writeln!(
            f,
            "faults                 {:>7}{}",
            self.faults.values().sum::<u64>(),
            counts(&self.faults)
        )?;
        write!(f, "kills of a holder      {:>7}", self.kills_of_holders)?;
        match self.worst_take_over() {
            Some(worst) => write!(f, "  ({} take-overs, worst {worst:.1?})", self.take_overs.len()),
            None => Ok(()),
        }
    }
}

fn counts<K: Display, N: Display>(counts: &BTreeMap<K, N>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let counts: Vec<_> = counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
    format!("  ({})", counts.join(", "))
}

/// The judgement of one history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Broken promises, by invariant, then by line.
    pub violations: Vec<Violation>,
    /// The numbers.
    pub ledger: Ledger,
}

impl Report {
    /// Whether no promise was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

/// How many violations a printed report shows: the first ones tell the story, thousands hide it.
const SHOWN: usize = 20;

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.ledger)?;
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "{violation}")?;
        }
        match self.violations.len() {
            0 => write!(f, "clean: no promise was broken"),
            n if n > SHOWN => write!(f, "{n} violations, the first {SHOWN} are shown"),
            n => write!(f, "{n} violations"),
        }
    }
}
