//! How a scheduler bears load: jobs from one to a million; how late, how heavy, how fast.
//!
//! `cargo run --release -p solocron-benches --bin load` measures, side by side and in turns, solocron (over the memory backend), a
//! **floor** (a binary heap, a tokio timer, a spawn per fire; no locks, no triggers) and **rivals**. Every measurement is a process of
//! its own, which ends by itself and is killed when this one is interrupted.
//!
//! ```text
//!   report ◄── rounds: for each round, for each cell, for each subject ──► a process: one(cell, subject) ──► figures, as JSON
//! ```
//!
//! A fire that did not happen is counted as due, never left out; one that happened twice is an error of the whole run.

#![expect(clippy::print_stdout, reason = "a report is what it is for")]

mod cell;
mod fires;
mod floor;
mod options;
mod ours;
mod process;
mod report;
mod rivals;
mod rounds;
mod subject;
mod tasks;

use std::process::ExitCode;

use self::options::{Command, Options};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match Options::parse(&arguments) {
        Ok(Command::One(cell, subject)) => subject::one(cell, subject).map(|figures| {
            println!("{figures}");
            ExitCode::SUCCESS
        }),
        Ok(Command::All(options)) => all(&options),
        Err(why) => Err(why),
    };
    done.unwrap_or_else(|why| {
        eprintln!("load: {why}");
        ExitCode::FAILURE
    })
}

fn all(options: &Options) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    let Some(measured) = runtime.block_on(rounds::until_stopped(options))? else {
        eprintln!("load: stopped by a signal; nothing is reported");
        return Ok(ExitCode::from(130));
    };
    let report = report::Report::of(&measured);
    println!("{report}");
    report.write(options)?;
    Ok(if measured.ran_twice().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
