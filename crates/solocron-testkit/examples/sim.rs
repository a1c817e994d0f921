//! Simulates many seeds, an hour each: `cargo run --release -p solocron-testkit --example sim -- --seeds 10000`.
//!
//! `--seed N` replays one and prints its history; `--profile faults|wipes|leader|calm` (faults is the default), `--from N`.
#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use solocron_testkit::sim::{Judged, Profile, run};

#[derive(Default)]
struct Sum {
    counts: BTreeMap<String, u64>,
    broken: Vec<u64>,
}

impl Sum {
    fn add(&mut self, judged: &Judged) {
        let ledger = &judged.ledger;
        let numbers = [
            ("ticks due", ledger.due),
            ("ticks run once", ledger.ran_once),
            ("ticks run more than once", ledger.ran_again),
            ("ticks skipped", ledger.skipped),
            ("ticks abandoned", ledger.abandoned),
            ("ticks excused", ledger.excused.values().sum()),
            ("runs", ledger.runs),
            ("runs interrupted by death", ledger.interrupted),
            ("claims undone", ledger.undone),
            ("overlaps after a pause", ledger.overlaps),
            ("kills of a holder", ledger.kills_of_holders),
        ];
        for (what, n) in numbers {
            *self.counts.entry(what.to_owned()).or_default() += n as u64;
        }
        for (kind, n) in &ledger.faults {
            *self.counts.entry(format!("fault: {kind}")).or_default() += n;
        }
        if !judged.is_clean() {
            self.broken.push(judged.seed);
            println!("{judged}");
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let value =
        |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str| value(name).and_then(|value| value.parse::<u64>().ok());
    let profile = match value("--profile").map(String::as_str) {
        Some("wipes") => Profile::Wipes,
        Some("calm") => Profile::Calm,
        Some("leader") => Profile::Leader,
        _ => Profile::Faults,
    };
    if let Some(seed) = number("--seed") {
        let judged = run(seed, profile);
        for event in judged.history.events() {
            println!("{event}");
        }
        println!("{}\n{judged}", judged.ledger);
        return if judged.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (from, seeds) = (number("--from").unwrap_or(0), number("--seeds").unwrap_or(200));
    let begun = Instant::now();
    let (next, sum) = (AtomicU64::new(from), Mutex::new(Sum::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let judged = run(seed, profile);
                    sum.lock().expect("nobody panics with it").add(&judged);
                }
            });
        }
    });
    let Sum { counts, broken } = sum.into_inner().expect("nobody panics with it");
    for (what, n) in counts {
        println!("{what:32} {n:>12}");
    }
    println!(
        "{seeds} seeds from {from} ({profile:?}), {seeds} virtual hours in {:.0?}: {} with a broken promise {broken:?}",
        begun.elapsed(),
        broken.len()
    );
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
