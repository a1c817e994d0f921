//! The larger searches: `cargo run --release -p solocron-testkit --example check`. Minutes, and some gigabytes.
#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::process::ExitCode;
use std::time::Instant;

use solocron_testkit::check::Fault::{
    Crash, Cut, Late, LostReply, LostRequest, Pause, Slow, Stop, Wipe,
};
use solocron_testkit::check::{Config, Fault, search};

const ALL: [Fault; 9] = [LostRequest, LostReply, Late, Slow, Crash, Pause, Cut, Stop, Wipe];

fn main() -> ExitCode {
    let configs = [
        Config::new("any two faults", &ALL, 2),
        Config::new("any two faults, no pushes", &ALL, 2).without_pushes(),
        Config::new("any two faults, at least once", &ALL, 2).at_least_once(2).ticks(&[2]),
        Config::new("any two faults, run all", &ALL, 2).run_all().longest_run(4).ticks(&[2]),
        Config::new("any two faults, a fast clock", &ALL, 2).skew(&[0, 1]).ticks(&[2]),
        Config::new("any two faults, a slow clock", &ALL, 2).skew(&[0, -1]).ticks(&[2]),
        Config::new("one node, any four faults", &ALL, 4).skew(&[0]).ticks(&[2]),
        Config::new("three crashes, come back", &[Crash], 3).boots(2).at_least_once(3).ticks(&[2]),
        Config::new("three messages", &[LostRequest, LostReply, Late], 3).ticks(&[2]),
        Config::new("three nodes, any fault", &ALL, 1).skew(&[0, 0, 0]).ticks(&[2]),
    ];
    let mut broken = false;
    for cfg in configs {
        let begun = Instant::now();
        let searched = search(&cfg);
        println!(
            "{:40} {:>10} states {:>10} steps {:>8} ends of paths {:>6.1?}",
            cfg.name,
            searched.states,
            searched.steps,
            searched.ends,
            begun.elapsed()
        );
        if let Some(found) = searched.found {
            broken = true;
            println!("{found}");
        }
    }
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
