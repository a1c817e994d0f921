//! One process that wants the key, with any number of tasks.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use solocron_testkit::fleet;
use solocron_testkit::history::monotonic_ns;

use super::history::Turn;
use super::subject;

/// How a contender behaves, as its role says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) tasks: u32,
    pub(crate) hold: Duration,
    pub(crate) away: Duration,
}

/// The role of a process: `subject address process tasks hold_us away_us`.
pub(crate) fn role(subject: &str, address: &str, process: u32, pace: Pace) -> String {
    let Pace { tasks, hold, away } = pace;
    format!("{subject} {address} {process} {tasks} {} {}", hold.as_micros(), away.as_micros())
}

/// Takes part until told to stop: `go` begins, `stop` ends, then one line a turn, then `done`.
pub(crate) fn contend(role: &str) -> ExitCode {
    let words: Vec<_> = role.split(' ').collect();
    let [subject, address, process, tasks, hold, away] = words[..] else {
        eprintln!("contend: not a role: {role:?}");
        return ExitCode::from(2);
    };
    let number = |word: &str| word.parse::<u32>().expect("the director writes numbers");
    let micros = |word: &str| Duration::from_micros(number(word).into());
    let pace = Pace { tasks: number(tasks), hold: micros(hold), away: micros(away) };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(take_part(subject, address, number(process), pace)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("contend {subject}: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn take_part(subject: &str, address: &str, process: u32, pace: Pace) -> Result<(), String> {
    let mut contenders = subject::contenders(subject, address, pace.tasks).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (told, mut commands) = tokio::sync::mpsc::unbounded_channel();
    fleet::hear(move |command| drop(told.send(command)));
    say("ready")?;
    let turns = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(command) = commands.recv().await {
        match command.as_str() {
            "go" => {
                for (task, mut contender) in contenders.drain(..).enumerate() {
                    let (stop, turns) = (Arc::clone(&stop), Arc::clone(&turns));
                    let who = (process, u32::try_from(task).expect("few"));
                    tasks.spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            let asked = monotonic_ns();
                            contender.take().await?;
                            let taken = monotonic_ns();
                            pause(pace.hold).await;
                            let giving = monotonic_ns();
                            contender.give().await?;
                            turns.lock().expect("no poison").push(Turn {
                                taken,
                                giving,
                                asked,
                                who,
                            });
                            pause(pace.away).await;
                        }
                        Ok::<_, String>(())
                    });
                }
            }
            // Takes it, says so, and never gives it back.
            "hold" => {
                let mut contender = contenders.pop().ok_or("nobody to take it")?;
                tasks.spawn(async move {
                    contender.take().await?;
                    say(&format!("taken {}", monotonic_ns()))?;
                    std::future::pending().await
                });
            }
            _ => {
                stop.store(true, Ordering::Relaxed);
                while let Some(ended) = tasks.join_next().await {
                    ended.map_err(|error| error.to_string())??;
                }
                for Turn { taken, giving, asked, who } in turns.lock().expect("no poison").iter() {
                    say(&format!("turn {asked} {taken} {giving} {}", who.1))?;
                }
                return say("done");
            }
        }
    }
    Ok(())
}

/// Busy for `time`, to the microsecond; a timer is too coarse for a hold of one millisecond.
async fn pause(time: Duration) {
    if !time.is_zero() {
        use solocron::Clock as _;
        solocron::SystemClock.sleep(time).await;
    }
}

fn say(line: &str) -> Result<(), String> {
    fleet::reply(line).map_err(|error| format!("tell the director: {error}"))
}
