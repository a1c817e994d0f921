//! One key, many who want it: how fast it changes hands, how fairly, at what cost to the server, and how soon it is free when its
//! holder is killed.
//!
//! `cargo run --release -p solocron-benches --bin contention` starts its own servers and processes, measures every backend in turns with
//! its floor (the least that could do the same work) and its rivals, and prints tables of medians, ratios and spread. What is not
//! installed is named and left out. Every acquisition is checked: two holders at once end the run with an error.
//!
//! ```text
//!   director ──► P processes × M tasks, each:  take ─ hold ─ give ─ stay away ─┐
//!      ▲                                        ▲                             │
//!      └── asked, taken, giving: one line an acquisition ◄────────────────────┘
//!
//!   hand-over: from the beginning of one holder's `give` to the return of another one's `take`
//! ```

#![expect(clippy::print_stdout, reason = "a report is what it is for")]

mod contender;
mod director;
mod history;
mod subject;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(role) = solocron_testkit::fleet::role() {
        return contender::contend(&role);
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let rounds = match words[..] {
        [] => 5,
        ["--quick"] => 1,
        _ => {
            eprintln!("usage: contention [--quick]");
            return ExitCode::from(2);
        }
    };
    match director::direct(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("contention: {why}");
            ExitCode::FAILURE
        }
    }
}
