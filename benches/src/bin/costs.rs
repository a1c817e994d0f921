//! What things cost in one process, as ratios to the least that does the same work.
//!
//! `cargo run --release -p solocron-benches --bin costs` measures the floor, solocron and its rivals of each group in turns, round
//! after round, and prints medians with the middle half of the rounds. The ratio is taken within each round, to the floor's median.

#![expect(clippy::print_stdout, reason = "a report is what it is for")]

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use solocron_benches::costs::rounds::{Pace, measure};
use solocron_benches::costs::{FAMILIES, groups};
use solocron_benches::machine;

const USAGE: &str =
    "usage: costs [--quick] [--only GROUP,...] [--what PART] [--rounds N] [--workers N] [--json FILE]
  --only      of: redis etcd flock socket memory renew trigger fire
  --what      of each group only what has this in its name, for a profiler; no ratios to a floor then
  --workers   threads of the runtime; 0, the default, is tokio's current-thread runtime";

/// What a server or a crate lacked.
const LEFT_OUT: u8 = 3;

struct Settings {
    pace: Pace,
    only: Vec<String>,
    what: String,
    workers: usize,
    json: Option<String>,
}

fn settings(mut words: impl Iterator<Item = String>) -> Option<Settings> {
    let pace = Pace { slice: Duration::from_millis(150), rounds: 25 };
    let only = FAMILIES.iter().map(ToString::to_string).collect();
    let mut settings = Settings { pace, only, what: String::new(), workers: 0, json: None };
    while let Some(word) = words.next() {
        match &*word {
            "--quick" => settings.pace = Pace { slice: Duration::from_millis(40), rounds: 5 },
            "--only" => {
                settings.only = words.next()?.split(',').map(str::to_owned).collect();
                if settings.only.iter().any(|name| !FAMILIES.contains(&&**name)) {
                    return None;
                }
            }
            "--what" => settings.what = words.next()?,
            "--rounds" => settings.pace.rounds = words.next()?.parse().ok()?,
            "--workers" => settings.workers = words.next()?.parse().ok()?,
            "--json" => settings.json = Some(words.next()?),
            _ => return None,
        }
    }
    Some(settings)
}

fn main() -> ExitCode {
    let Some(settings) = settings(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = match settings.workers {
        0 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        workers => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
        }
    };
    let runtime = runtime.expect("threads");
    println!("{}; {} rounds\n", machine(), settings.pace.rounds);
    let (mut figures, mut left_out) = (Vec::new(), Vec::new());
    for family in &settings.only {
        let mut groups = match runtime.block_on(groups(family)) {
            Ok(groups) => groups,
            Err(missing) => {
                eprintln!("left out {family}: {missing}");
                println!("### {family}\n\nleft out: {missing}\n");
                left_out.push(json!({ "family": family, "why": missing.to_string() }));
                continue;
            }
        };
        for group in &mut groups {
            group.subjects.retain(|subject| subject.name.contains(&settings.what));
            let measured = measure(group, settings.pace, &|subject, times| {
                runtime.block_on(subject.run(times))
            });
            println!("{}", measured.table());
            figures.push(measured.json());
        }
        // Connections end within their runtime.
        runtime.block_on(async { drop(groups) });
    }
    if let Some(path) = settings.json {
        let report = json!({ "machine": machine(), "groups": figures, "left_out": left_out });
        if let Err(error) = std::fs::write(&path, format!("{report:#}\n")) {
            eprintln!("cannot write {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LEFT_OUT) }
}
