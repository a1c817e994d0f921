//! Starts servers and contenders, measures in turns, prints the tables.

use std::time::Duration;

use solocron_benches::{Samples, Table, machine, round};
use solocron_testkit::fleet::{Fleet, this_program};
use solocron_testkit::history::monotonic_ns;

use super::contender::{Pace, role};
use super::history::{Figures, Turn, figures};

/// A family of subjects that are compared with each other: the floor first.
struct Family {
    name: &'static str,
    subjects: &'static [&'static str],
    /// Tasks of one process, where the floors can wait in it.
    crowds: &'static [Crowd],
}

#[derive(Clone, Copy)]
struct Crowd {
    processes: u32,
    tasks: u32,
    hold: Duration,
    away: Duration,
}

const fn crowd(processes: u32, tasks: u32, hold_ms: u64, away_ms: u64) -> Crowd {
    Crowd {
        processes,
        tasks,
        hold: Duration::from_millis(hold_ms),
        away: Duration::from_millis(away_ms),
    }
}

const FAMILIES: &[Family] = &[Family {
    name: "flock",
    subjects: &["blocked-flock", "pipe-token", "solocron-flock"],
    crowds: &[crowd(2, 1, 5, 2), crowd(8, 1, 5, 10), crowd(8, 8, 1, 10)],
}];

const MEASURED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything, `rounds` times in turns.
pub(crate) fn direct(rounds: usize) -> Result<(), String> {
    println!("{}; {rounds} rounds, in turns; medians [middle half]\n", machine());
    for family in FAMILIES {
        let place = tempfile::tempdir().map_err(|error| format!("make a directory: {error}"))?;
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)
            .map_err(|error| format!("make a pipe: {error}"))?;
        let address = place.path().to_string_lossy().into_owned();
        let mut token = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&pipe)
            .map_err(|error| format!("open the pipe: {error}"))?;
        std::io::Write::write_all(&mut token, &[1])
            .map_err(|error| format!("fill the pipe: {error}"))?;
        contention(family, &address, rounds)?;
        failover(family, &address, rounds * 6)?;
    }
    Ok(())
}

fn contention(family: &Family, address: &str, rounds: usize) -> Result<(), String> {
    let headings = [
        family.name,
        "waiters",
        "hand-over p50 ms",
        "x floor",
        "p99 ms",
        "max ms",
        "turns/s",
        "max:min",
        "worst wait ms",
    ];
    let mut table = Table::new(&headings);
    for &crowd in family.crowds {
        let mut measured: Vec<(&str, Vec<Figures>)> =
            family.subjects.iter().map(|subject| (*subject, Vec::new())).collect();
        for _ in 0..rounds {
            for (subject, figures) in &mut measured {
                figures.push(one_round(subject, address, crowd)?);
            }
        }
        let median = |figures: &[Figures], of: &dyn Fn(&Figures) -> f64| -> Samples {
            figures.iter().map(of).collect()
        };
        let quantile = |share: f64| {
            move |figures: &Figures| figures.handover.quantile(share).unwrap_or(f64::NAN)
        };
        let floor = median(&measured[0].1, &quantile(0.5)).median();
        for (subject, figures) in &measured {
            let p50 = median(figures, &quantile(0.5));
            let ratio =
                p50.median().zip(floor).map_or("–".into(), |(p50, floor)| round(p50 / floor));
            let most: usize = figures.iter().map(|figures| figures.most).sum();
            let least: usize = figures.iter().map(|figures| figures.least).sum();
            table.row([
                (*subject).into(),
                format!("{} × {}", crowd.processes, crowd.tasks),
                p50.show(),
                ratio,
                median(figures, &quantile(0.99)).show(),
                median(figures, &quantile(1.0)).show(),
                median(figures, &|figures| figures.per_second).show(),
                format!("{most}:{least}"),
                median(figures, &|figures| figures.worst_wait).show(),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}

fn one_round(subject: &str, address: &str, crowd: Crowd) -> Result<Figures, String> {
    let doing = |error: std::io::Error| format!("{subject}: {error}");
    let mut fleet = Fleet::new();
    let pace = Pace { tasks: crowd.tasks, hold: crowd.hold, away: crowd.away };
    for process in 0..crowd.processes {
        let command = this_program(&role(subject, address, process, pace)).map_err(doing)?;
        fleet.start(process.to_string(), command).map_err(doing)?;
    }
    for member in fleet.members() {
        member.expect("ready", PATIENCE).map_err(doing)?;
    }
    let begun = monotonic_ns();
    for member in fleet.members() {
        member.send("go").map_err(doing)?;
    }
    std::thread::sleep(MEASURED);
    let ended = monotonic_ns();
    for member in fleet.members() {
        member.send("stop").map_err(doing)?;
    }
    let mut turns = Vec::new();
    for process in 0..crowd.processes {
        loop {
            let line = fleet[&*process.to_string()].recv(PATIENCE).map_err(doing)?;
            let words: Vec<_> = line.split(' ').collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
            match (words[0], number(1), number(2), number(3), number(4)) {
                ("turn", Some(asked), Some(taken), Some(giving), Some(task)) => {
                    let who = (process, u32::try_from(task).unwrap_or(u32::MAX));
                    turns.push(Turn { taken, giving, asked, who });
                }
                ("done", ..) => break,
                _ => return Err(format!("{subject}: said {line:?}")),
            }
        }
    }
    // While they come to an end, those that are through leave the rest more turns.
    turns.retain(|turn| turn.taken < ended);
    let contenders = (crowd.processes * crowd.tasks) as usize;
    figures(turns, contenders, (ended - begun) as f64 / 1e9)
        .map_err(|why| format!("{subject}: {why}"))
}

/// From the kill of the holder to the return of another one's `take`.
fn failover(family: &Family, address: &str, kills: usize) -> Result<(), String> {
    let mut table = Table::new(&[family.name, "kills", "kill -9 to taken, p50 ms", "max ms"]);
    for subject in family.subjects.iter().filter(|subject| **subject != "pipe-token") {
        let doing = |error: std::io::Error| format!("{subject}: {error}");
        let pace = Pace { tasks: 1, hold: Duration::ZERO, away: Duration::ZERO };
        let mut took = Samples::default();
        let mut fleet = Fleet::new();
        let enter = |fleet: &mut Fleet, process: usize| {
            let number = u32::try_from(process).unwrap_or(u32::MAX);
            let command = this_program(&role(subject, address, number, pace)).map_err(doing)?;
            let member = fleet.start(process.to_string(), command).map_err(doing)?;
            member.expect("ready", PATIENCE).map_err(doing)?;
            member.send("hold").map_err(doing)
        };
        enter(&mut fleet, 0)?;
        fleet["0"].expect("taken", PATIENCE).map_err(doing)?;
        for kill in 0..kills {
            enter(&mut fleet, kill + 1)?;
            // There is no event for "it waits": a moment to get there. One that comes too late is not faster than it is.
            std::thread::sleep(Duration::from_millis(50));
            let killed = monotonic_ns();
            fleet[&*kill.to_string()].kill().map_err(doing)?;
            let line = fleet[&*(kill + 1).to_string()].expect("taken", PATIENCE).map_err(doing)?;
            let taken: u64 = line.rsplit(' ').next().and_then(|at| at.parse().ok()).unwrap_or(0);
            took.push(taken.saturating_sub(killed) as f64 / 1e6);
        }
        let max = took.quantile(1.0).map_or("–".into(), round);
        table.row([(*subject).into(), kills.to_string(), took.show(), max]);
    }
    println!("{table}");
    Ok(())
}
