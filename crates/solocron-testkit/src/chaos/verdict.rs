//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::jobs::STEADY;
use super::judge::share_ran_of;
use super::nodes::NAMES;
use crate::history::Ledger;

/// How much must have happened for a run to mean something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Least {
    /// The share of the ticks due under faults that were run: 0.7 for 70 %.
    pub share_ran: f64,
    /// How often each kind of fault came.
    pub faults_of_a_kind: u64,
    /// How many kills hit a node while it ran something.
    pub kills_of_holders: usize,
    /// How many nodes ran something. One whose clock is late wins little.
    pub nodes_that_ran: usize,
}

impl Least {
    /// Of a run of some seconds.
    pub const SHORT: Self =
        Self { share_ran: 0.4, faults_of_a_kind: 1, kills_of_holders: 0, nodes_that_ran: 2 };
    /// Of a run of some minutes.
    pub const LONG: Self = Self {
        share_ran: 0.7,
        faults_of_a_kind: 3,
        kills_of_holders: 5,
        nodes_that_ran: NAMES.len(),
    };
}

/// The judgement of one run, and its numbers.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) ttl: Duration,
    pub(super) lasted: Duration,
    /// Broken promises, and what makes the run void.
    pub broken: Vec<String>,
    /// Of the whole run.
    pub ledger: Ledger,
    /// Of the ticks that were due while there were faults.
    pub under_faults: Ledger,
    /// Of some ticks that were due when all faults were over.
    pub calm: Ledger,
    /// Ticks that were passed over, by reason.
    pub skipped: BTreeMap<String, usize>,
    /// Runs that began while another run of their job went on in a process that nobody had stopped.
    pub overlaps_awake: usize,
    /// The longest time between two starts of a job that is due all the time.
    pub worst_gap: Duration,
    /// From a kill to the next start of a job that is due all the time, at the worst.
    pub next_start: Duration,
    /// Where the history is kept, if it is.
    pub history: Option<PathBuf>,
}

impl Verdict {
    /// Whether every promise was kept, and enough happened.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    /// Prints the verdict.
    ///
    /// # Panics
    ///
    /// Where it is not clean.
    pub fn assert(&self) {
        assert!(self.is_clean(), "{self}");
        eprintln!("{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, seed, ttl, lasted, ledger, under_faults: faults, calm, .. } = self;
        let nodes = NAMES.len();
        writeln!(
            f,
            "chaos {name}: SOLOCRON_SEED={seed}, {lasted:.0?} of faults, {nodes} processes, ttl {ttl:?}"
        )?;
        let counts = |counts: Vec<String>| counts.join(", ");
        let kinds = ledger.faults.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        writeln!(
            f,
            "  faults       {} ({}); {} kills hit a holder",
            ledger.faults.values().sum::<u64>(),
            counts(kinds),
            ledger.kills_of_holders
        )?;
        let share = share_ran_of(faults).unwrap_or_default() * 100.0;
        let (ran, due) = (faults.ran_once + faults.ran_again, faults.due);
        writeln!(f, "  under faults {ran} of {due} due ticks ran ({share:.1} %)")?;
        writeln!(
            f,
            "  after them   {} of {} due ticks ran, {} passed over",
            calm.ran_once, calm.due, calm.skipped
        )?;
        let excused = ledger.excused.iter().map(|(why, n)| format!("{why} {n}")).collect();
        let skipped = self.skipped.iter().map(|(why, n)| format!("{why} {n}")).collect();
        writeln!(
            f,
            "  all ticks    {} due: ran once {}, more than once {} (at least once only), missed {}, skipped {} (told: {}), abandoned {}, excused {} ({}), lost {}",
            ledger.due,
            ledger.ran_once,
            ledger.ran_again,
            ledger.missed,
            ledger.skipped,
            counts(skipped),
            ledger.abandoned,
            ledger.excused.values().sum::<usize>(),
            counts(excused),
            ledger.lost
        )?;
        writeln!(
            f,
            "  fences {}, overlaps {} (worst {:.1?}; {} of a process that was not stopped), late effects that a fence refuses {}, runs {}, cut short by death {}, wins given back {}",
            if ledger.fences_in_order { "in order" } else { "OUT OF ORDER" },
            ledger.overlaps,
            ledger.worst_overlap,
            self.overlaps_awake,
            ledger.refused_effects,
            ledger.runs,
            ledger.interrupted,
            ledger.undone
        )?;
        let (late, early) = (ledger.worst_lateness, ledger.early);
        writeln!(
            f,
            "  worst times: without a start of `{STEADY}` {:.2?}, kill to its next start {:.2?}, lateness {late:.2?}; {early} starts early by this machine's clock",
            self.worst_gap, self.next_start
        )?;
        for broken in self.broken.iter().take(5) {
            writeln!(f, "  BROKEN {broken}")?;
        }
        match (self.broken.len(), &self.history) {
            (0, None) => write!(f, "  clean: no promise was broken"),
            (0, Some(history)) => {
                write!(f, "  clean: no promise was broken; the history is {}", history.display())
            }
            (n, Some(history)) => {
                write!(f, "  {n} promises broken; the history is {}", history.display())
            }
            (n, None) => write!(f, "  {n} promises broken"),
        }
    }
}
