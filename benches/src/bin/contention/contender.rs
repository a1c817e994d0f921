//! One process that wants the key, with any number of tasks.

use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use solocron_testkit::fleet;
use solocron_testkit::history::monotonic_ns;

use super::families::By;
use super::rivals;
use super::subject::{self, Contender, Place};

/// The part that one process plays.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub(crate) subject: String,
    pub(crate) place: Place,
    pub(crate) process: u32,
    pub(crate) tasks: u32,
    pub(crate) hold: Duration,
    pub(crate) away: Duration,
}

impl Role {
    fn words(&self) -> [String; 8] {
        let Place { address, key, ttl } = &self.place;
        [
            self.subject.clone(),
            address.clone(),
            key.clone(),
            self.process.to_string(),
            self.tasks.to_string(),
            self.hold.as_micros().to_string(),
            self.away.as_micros().to_string(),
            ttl.as_millis().to_string(),
        ]
    }

    fn read(role: &str) -> Option<Self> {
        let words: Vec<_> = role.split('\t').collect();
        let [subject, address, key, process, tasks, hold, away, ttl] = words[..] else {
            return None;
        };
        let number = |word: &str| word.parse::<u32>().ok();
        Some(Self {
            subject: subject.to_owned(),
            place: Place {
                address: address.to_owned(),
                key: key.to_owned(),
                ttl: Duration::from_millis(number(ttl)?.into()),
            },
            process: number(process)?,
            tasks: number(tasks)?,
            hold: Duration::from_micros(number(hold)?.into()),
            away: Duration::from_micros(number(away)?.into()),
        })
    }

    /// The process that plays it.
    pub(crate) fn command(&self, by: By) -> std::io::Result<Command> {
        match by {
            By::Rust => fleet::this_program(&self.words().join("\t")),
            By::Python | By::Node => {
                let mut command = rivals::program(by);
                command.args(self.words());
                Ok(command)
            }
        }
    }
}

/// Takes part until told to stop: `go` begins, `stop` ends, then one line a turn, then `done`. The director ends the process.
pub(crate) fn contend(role: &str) -> ExitCode {
    let Some(role) = Role::read(role) else {
        eprintln!("contend: not a role: {role:?}");
        return ExitCode::from(2);
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(take_part(&role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("contend {}: {why}", role.subject);
            ExitCode::FAILURE
        }
    }
}

/// What a task has to tell in the end.
#[derive(Debug, Default)]
struct Told {
    /// Asked, taken, giving.
    turns: Vec<[u64; 3]>,
    waiting: Option<u64>,
}

async fn take_part(role: &Role) -> Result<(), String> {
    let (heard, mut commands) = tokio::sync::mpsc::unbounded_channel();
    fleet::hear(move |command| drop(heard.send(command)));
    let mut contenders = subject::contenders(&role.subject, &role.place, role.tasks).await?;
    say("ready")?;
    let mut told: Vec<Arc<Mutex<Told>>> = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let command = tokio::select! {
            command = commands.recv() => command.ok_or("nobody listens")?,
            Some(ended) = tasks.join_next() => return ended.map_err(|error| error.to_string())?,
        };
        match command.as_str() {
            "go" => {
                for contender in contenders.drain(..) {
                    let mine = Arc::default();
                    told.push(Arc::clone(&mine));
                    tasks.spawn(turns(contender, role.hold, role.away, mine));
                }
            }
            "hold" => {
                let contender = contenders.pop().ok_or("nobody to take it")?;
                tasks.spawn(keep(contender, role.place.ttl));
            }
            _ => {
                for (task, told) in told.iter().enumerate() {
                    let told = told.lock().expect("no poison");
                    for [asked, taken, giving] in &told.turns {
                        say(&format!("turn {asked} {taken} {giving} {task}"))?;
                    }
                    if let Some(asked) = told.waiting {
                        say(&format!("waiting {asked}"))?;
                    }
                }
                say("done")?;
            }
        }
    }
}

/// One turn after the other.
async fn turns(
    mut contender: Box<dyn Contender>,
    hold: Duration,
    away: Duration,
    told: Arc<Mutex<Told>>,
) -> Result<(), String> {
    loop {
        let asked = monotonic_ns();
        told.lock().expect("no poison").waiting = Some(asked);
        contender.take().await?;
        let taken = monotonic_ns();
        pause(hold).await;
        let giving = monotonic_ns();
        contender.give().await?;
        {
            let mut told = told.lock().expect("no poison");
            told.turns.push([asked, taken, giving]);
            told.waiting = None;
        }
        pause(away).await;
        // A lock that never waits would leave the other tasks of this process no turn at all.
        tokio::task::yield_now().await;
    }
}

/// Takes it, says so, and never gives it back.
async fn keep(mut contender: Box<dyn Contender>, ttl: Duration) -> Result<(), String> {
    contender.take().await?;
    say(&format!("taken {}", monotonic_ns()))?;
    loop {
        tokio::time::sleep(ttl / 3).await;
        contender.renew().await?;
    }
}

/// To the microsecond; a timer of milliseconds is too coarse for a hold of one.
async fn pause(time: Duration) {
    if !time.is_zero() {
        use solocron::Clock as _;
        solocron::SystemClock.sleep(time).await;
    }
}

fn say(line: &str) -> Result<(), String> {
    fleet::reply(line).map_err(|error| format!("tell the director: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_as_it_was_written() {
        let role = Role {
            subject: "rslock".into(),
            place: Place {
                address: "/tmp/with space".into(),
                key: "7-1".into(),
                ttl: Duration::from_secs(3),
            },
            process: 5,
            tasks: 8,
            hold: Duration::from_millis(1),
            away: Duration::ZERO,
        };
        let read = Role::read(&role.words().join("\t")).expect("it is a role");
        assert_eq!(read.words(), role.words());
        assert!(Role::read("rslock\tx").is_none());
    }
}
