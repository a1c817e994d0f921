//! One subject, one crowd, once.

use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use solocron_testkit::fleet::Member;
use solocron_testkit::history::monotonic_ns;

use super::commands;
use super::contender::Role;
use super::families::{By, Crowd, Subject};
use super::history::{Figures, History, figures};
use super::stage::Stage;
use super::{stop, subject};

/// How long any single thing may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Until every waiter has asked for the first time and is where it waits.
const WARM_UP: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) figures: Figures,
    /// Of clients, for each turn; `None` where no server counts.
    pub(crate) commands: Option<f64>,
}

pub(crate) fn round(
    stage: &Stage,
    subject: &Subject,
    crowd: Crowd,
    measured: Duration,
) -> Result<Round, String> {
    let place = stage.place(subject.name, None)?;
    let _token =
        if subject.name == "pipe-token" { Some(subject::fill_pipe(&place)?) } else { None };
    let mut members = Vec::new();
    for process in 0..crowd.processes {
        let role = Role {
            subject: subject.name.to_owned(),
            place: place.clone(),
            process,
            tasks: crowd.tasks,
            hold: crowd.hold,
            away: crowd.away,
        };
        members.push(start(&role, subject.by)?);
    }
    for member in &mut members {
        stop::expect(member, "ready", PATIENCE)?;
    }
    tell(&mut members, "go")?;
    stop::sleep(WARM_UP)?;
    let before = stage.counts()?;
    let begun = monotonic_ns();
    stop::sleep(measured)?;
    let ended = monotonic_ns();
    let after = stage.counts()?;
    tell(&mut members, "stop")?;
    let mut history = History::default();
    for (process, member) in (0..).zip(&mut members) {
        loop {
            match stop::line(member, PATIENCE)?.as_str() {
                "done" => break,
                line => history.hear(process, line)?,
            }
        }
    }
    drop(members);
    let contenders = (crowd.processes * crowd.tasks) as usize;
    let figures = figures(history, contenders, (begun, ended));
    if figures.turns == 0 {
        return Err(format!("nobody had a turn within {measured:?}"));
    }
    let commands = before.zip(after).map(|(before, after)| {
        commands::sent(&before, &after, subject.inside) as f64 / figures.turns as f64
    });
    Ok(Round { figures, commands })
}

/// A contender. Ctrl-C reaches only the director, who then ends it.
pub(crate) fn start(role: &Role, by: By) -> Result<Member, String> {
    let mut command = role.command(by).map_err(|error| format!("{}: {error}", role.subject))?;
    command.process_group(0);
    Member::start(format!("{} {}", role.subject, role.process), command)
        .map_err(|error| error.to_string())
}

fn tell(members: &mut [Member], word: &str) -> Result<(), String> {
    members.iter_mut().try_for_each(|member| member.send(word).map_err(|error| error.to_string()))
}
