//! One key, many who want it: how fast it changes hands, how fairly, at what cost to the server, and how soon it is free when its
//! holder is killed.
//!
//! `cargo run --release -p solocron-benches --bin contention` starts its own servers and processes, measures every backend in turns with
//! its floor (the least that could do the same work) and its rivals, prints tables of medians, ratios and spread, and writes them, every
//! figure as JSON, and plots to `target/bench`. What is not installed is named and left out. Every acquisition is checked: two holders
//! at once of a lock of ours end the run with an error, of a rival's lock they are a finding.
//!
//! ```text
//!   director ──► P processes × M tasks, each:  take ─ hold ─ give ─ stay away ─┐
//!      ▲                                        ▲                             │
//!      └── asked, taken, giving: one line an acquisition ◄────────────────────┘
//!
//!   hand-over: from the beginning of one holder's `give` to the return of another one's `take`
//! ```

#![expect(clippy::print_stdout, reason = "a report is what it is for")]

mod agree;
mod commands;
mod contender;
mod director;
mod failover;
mod families;
mod findings;
mod history;
mod options;
mod report;
mod rivals;
mod round;
mod stage;
mod stop;
mod subject;
mod targets;

use std::process::ExitCode;

use self::options::{Asked, Options, USAGE};
use self::report::Head;

fn main() -> ExitCode {
    if let Some(role) = solocron_testkit::fleet::role() {
        return contender::contend(&role);
    }
    let words: Vec<_> = std::env::args().skip(1).collect();
    let done = match options::read(&words) {
        Err(why) => {
            eprintln!("contention: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
        Ok(Asked::Help) => {
            println!("{USAGE}");
            Ok(true)
        }
        Ok(Asked::Check(first, second)) => agree::check(&first, &second).map(|compared| {
            let agree::Comparison { common, differ, by_chance, table } = &compared;
            let by_chance = solocron_benches::round(*by_chance);
            println!("{differ} of {common} ratios differ by more than both spreads; by chance alone {by_chance} would");
            if *differ > 0 {
                println!("\n{table}");
            }
            println!("the runs {}", if compared.agrees() { "agree" } else { "do not agree" });
            compared.agrees()
        }),
        Ok(Asked::Run(options)) => measure(&options, &words).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("contention: {why}");
            if stop::check().is_err() { stop::INTERRUPTED.into() } else { ExitCode::FAILURE }
        }
    }
}

fn measure(options: &Options, words: &[String]) -> Result<(), String> {
    report::prepare(&options.out)?;
    stop::on_signals().map_err(|error| format!("hear signals: {error}"))?;
    let command = "cargo run --release -p solocron-benches --bin contention --";
    let head = Head {
        machine: solocron_benches::machine(),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        command: format!("{command} {}", words.join(" ")).trim_end_matches(" -- ").to_owned(),
        rounds: options.rounds,
    };
    let findings = director::direct(options)?;
    println!("{}", report::markdown(&head, &findings));
    report::write(&options.out, &head, &findings)?;
    println!("written to {}", options.out.display());
    Ok(())
}
