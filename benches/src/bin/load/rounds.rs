//! Rounds: each cell of each subject in turns, a process each, until the rounds are done, the time is over, or a signal comes.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use solocron_benches::{Samples, machine};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cell::{Cell, Measured as Meant, Subject};
use crate::options::Options;

/// What came of it.
pub(crate) struct Measured {
    pub(crate) machine: String,
    pub(crate) command: String,
    pub(crate) rounds: usize,
    pub(crate) took: Duration,
    pub(crate) cells: Vec<Cell>,
    /// The figures of each process, in order.
    pub(crate) figures: BTreeMap<(Cell, Subject), Vec<Map<String, Value>>>,
    /// Rows that are not there, and why.
    pub(crate) left_out: Vec<String>,
}

impl Measured {
    pub(crate) fn samples(&self, cell: Cell, subject: Subject, name: &str) -> Samples {
        let figures = self.figures.get(&(cell, subject)).into_iter().flatten();
        figures.filter_map(|figures| figures.get(name)?.as_f64()).collect()
    }

    /// Which measurements saw a tick of a job run more than once.
    pub(crate) fn ran_twice(&self) -> Vec<String> {
        let twice = |figures: &Map<String, Value>| figures.get("twice")?.as_u64();
        let seen = self.figures.iter().filter_map(|((cell, subject), figures)| {
            let twice: u64 = figures.iter().filter_map(twice).sum();
            (twice > 0).then(|| format!("{}, {}: {twice} fires", cell.name(), subject.name()))
        });
        seen.collect()
    }
}

/// `None`: a signal came first. Whatever process was being measured is gone then.
pub(crate) async fn until_stopped(options: &Options) -> Result<Option<Measured>, String> {
    let hear = |kind| signal(kind).map_err(|error| format!("hear of signals: {error}"));
    let (mut interrupt, mut terminate) =
        (hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?);
    tokio::select! {
        measured = all(options) => Ok(Some(measured)),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    }
}

async fn all(options: &Options) -> Measured {
    let begun = Instant::now();
    let mut measured = Measured {
        machine: machine(),
        command: options.command.clone(),
        rounds: 0,
        took: Duration::ZERO,
        cells: Cell::all(options.quick),
        figures: BTreeMap::new(),
        left_out: Vec::new(),
    };
    for &cell in &measured.cells {
        for subject in Subject::ALL {
            if let Meant::No(why) = cell.measures(subject) {
                measured.left_out.push(format!("{}, {}: {why}", cell.name(), subject.name()));
            }
        }
    }
    let cells = measured.cells.clone();
    'rounds: for round in 0..options.rounds {
        for &cell in &cells {
            if round > 0 && cell.once_is_enough() {
                continue;
            }
            for subject in Subject::ALL {
                if !matches!(cell.measures(subject), Meant::Yes) {
                    continue;
                }
                if begun.elapsed() >= options.time {
                    let (at, time) = (format!("{}, {}", cell.name(), subject.name()), options.time);
                    let why = format!("time was over ({time:?}) in round {} at {at}", round + 1);
                    measured.left_out.push(why);
                    break 'rounds;
                }
                eprintln!("round {}: {}, {}", round + 1, cell.name(), subject.name());
                match process(cell, subject).await {
                    Ok(figures) => {
                        measured.figures.entry((cell, subject)).or_default().push(figures)
                    }
                    Err(why) => {
                        eprintln!("  {why}");
                        let row = format!("{}, {}: {why}", cell.name(), subject.name());
                        measured.left_out.push(row);
                    }
                }
            }
        }
        measured.rounds = round + 1;
    }
    measured.took = begun.elapsed();
    measured
}

/// One measurement in a process of its own: none sees what another left in its allocator, its threads or its processor time. Dropping
/// the future kills it.
async fn process(cell: Cell, subject: Subject) -> Result<Map<String, Value>, String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let child = Command::new(program)
        .args(["one", cell.what.name(), &cell.jobs.to_string(), subject.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("start a process: {error}"))?;
    // It ends by itself before.
    let limit = cell.limit() + Duration::from_secs(15);
    let output = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = output.map_err(|_| format!("did not end within {limit:?}"))?;
    let output = output.map_err(|error| format!("wait for a process: {error}"))?;
    if !output.status.success() {
        return Err(format!("its process ended with {}", output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| format!("{error} in {last:?}"))
}
