//! An independent witness of what a fleet did, and a judge of it.
//!
//! The nodes of a fleet and the harness that torments it record [`Event`]s through a [`Witness`];
//! afterwards [`check`] reads the [`History`] and says in a [`Report`] which promises were broken,
//! and in a [`Ledger`] what became of every tick. The judge is a pure function and knows nothing of
//! the library: when jobs are due is told to it in [`Rules`], so it can judge real processes, a
//! simulation, or another scheduler.
//!
//! | id  | what must hold |
//! |-----|----------------|
//! | I1  | a resource that refuses fences lower than one it has seen is never used by two runs at once, and a run notices after one refused effect |
//! | I1s | runs of a job never overlap at all (only if [`Rules::process_bound`]) |
//! | I2  | fences are distinct, and of two claims one after the other the later has the higher fence |
//! | I3  | a tick's attempts are 1, 2, 3 and so on, in this order, each started once |
//! | I4  | every due tick is started in time, or reported, or excused by what happened; no other tick is started |
//! | I7  | after the last goodbye nothing is left |
//! | V   | enough happened for the above to mean something |
//!
//! # Not shown
//!
//! A clean report speaks of this history only. `t` is compared between processes, so all of them
//! must run on one host.
//!
//! # The file
//!
//! One event is one line; a line is words of the form `key=value`, one space apart, in a fixed
//! order. Numbers are decimal. In texts every byte that is not a visible ASCII character, and `%`
//! and `=`, is written as `%` and two upper-case hex digits. Times `t`, `asked` and `answered` are
//! nanoseconds of `CLOCK_MONOTONIC`; `wall`, `tick` and `at` are Unix milliseconds; `grace`,
//! `settle` and `every` are milliseconds.
//!
//! ```text
//! t=100 node=harness pid=7 event=meta wall=1790000000000 grace=500 settle=100 job=mail every=1000 job=bill at=5,9
//! t=101 node=a pid=8 event=boot
//! t=102 node=a pid=8 event=grant job=mail tick=1790000001000 fence=1 asked=90 answered=95
//! t=103 node=a pid=8 event=start job=mail tick=1790000001000 fence=1 attempt=1
//! t=104 node=a pid=8 event=effect job=mail tick=1790000001000 fence=1 n=1
//! t=105 node=a pid=8 event=end job=mail tick=1790000001000 fence=1
//! t=106 node=harness pid=7 event=fault kind=kill of=a
//! ```
//!
//! The other events: `stop` and `bye`; `lost`, `panic` and `undo`, written like `end`; `missed` and
//! `abandoned` with `job= tick=`; `skipped` with `job= tick= why=`; `heal`, written like `fault`;
//! `leak what=`.

mod check;
mod event;
mod format;
mod report;
mod rules;
mod witness;

use std::path::Path;
use std::{error, fmt, fs, io};

pub use check::check;
#[cfg(unix)]
pub use event::monotonic_ns;
pub use event::{Claim, EVERYBODY, Event, KILL, Meta, Outcome, STOP, Schedule, What};
pub use report::{Excuse, Invariant, Ledger, Report, TakeOver, Violation};
pub use rules::Rules;
pub use witness::Witness;

/// What a witness wrote down, in its order; the first event is the [`Meta`], and no other is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    meta: Meta,
    events: Vec<Event>,
    torn: Option<String>,
}

impl History {
    /// Takes events in the order in which they happened, as a simulation has them.
    ///
    /// # Errors
    ///
    /// If the first event is not the [`Meta`], or another one is too.
    pub fn new(events: Vec<Event>) -> Result<Self, Malformed> {
        let Some(What::Meta(meta)) = events.first().map(|event| &event.what) else {
            return Err(Malformed { line: 1, reason: "a history begins with its meta".to_owned() });
        };
        let meta = meta.clone();
        if let Some(at) =
            events.iter().skip(1).position(|event| matches!(event.what, What::Meta(_)))
        {
            return Err(Malformed {
                line: at + 2,
                reason: "a history has one meta, the first line".to_owned(),
            });
        }
        Ok(Self { meta, events, torn: None })
    }

    /// Reads the lines of a file, strictly.
    ///
    /// # Errors
    ///
    /// Those of reading a file; [`io::ErrorKind::InvalidData`] around a [`Malformed`] for anything
    /// a [`Witness`] would not have written, a last line without its end included.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        let history = Self::read_torn(path)?;
        match &history.torn {
            None => Ok(history),
            Some(torn) => {
                let reason = format!("torn off after `{torn}`");
                Err(invalid(Malformed { line: history.events.len() + 1, reason }))
            }
        }
    }

    /// Reads like [`read`](Self::read), but leaves out a last line that has no end, and keeps it in
    /// [`torn`](Self::torn).
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read), but for the torn line.
    pub fn read_torn(path: impl AsRef<Path>) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let (whole, torn) = text.rsplit_once('\n').unwrap_or(("", &text));
        let parse = |(i, line): (usize, &str)| {
            line.parse().map_err(|reason| Malformed { line: i + 1, reason })
        };
        // `split`, not `lines`: a carriage return or an empty line is no part of the form.
        let lines = whole.split('\n').enumerate().filter(|_| !whole.is_empty());
        let events = lines.map(parse).collect::<Result<_, _>>().map_err(invalid)?;
        let mut history = Self::new(events).map_err(invalid)?;
        history.torn = (!torn.is_empty()).then(|| torn.to_owned());
        Ok(history)
    }

    /// What the first line says.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// All events, the meta included; event `i` is line `i + 1` of the file.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The beginning of a last line that was never finished, if there is one.
    #[must_use]
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }
}

/// A line that no witness writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
    /// A sentence.
    pub reason: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the history: {}", self.line, self.reason)
    }
}

impl error::Error for Malformed {}

fn invalid(malformed: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, malformed)
}
