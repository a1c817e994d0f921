//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::cell::{Cell, Subject};

const USAGE: &str =
    "usage: load [--quick] [--rounds N] [--json FILE] [--markdown FILE] [--plots DIR]
  --quick          one round of the small sizes, under a minute
  --rounds N       how often each is measured, if the time suffices (default 3)
  --json FILE      every figure of every round
  --markdown FILE  the tables
  --plots DIR      plots, as SVG";

pub(crate) enum Command {
    /// A measurement in this process.
    One(Cell, Subject),
    All(Options),
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// No new round begins, and no cell, once so much time has passed.
    pub(crate) time: Duration,
    pub(crate) json: Option<PathBuf>,
    pub(crate) markdown: Option<PathBuf>,
    pub(crate) plots: Option<PathBuf>,
    /// As it was typed.
    pub(crate) command: String,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Command, String> {
        if let [one, what, jobs, subject] = arguments
            && one == "one"
        {
            let cell = Cell::parse(what, jobs).ok_or(format!("no measurement {what} of {jobs}"))?;
            let subject = Subject::parse(subject).ok_or(format!("no subject {subject}"))?;
            return Ok(Command::One(cell, subject));
        }
        let command = std::iter::once("load").chain(arguments.iter().map(String::as_str));
        let mut options = Self {
            quick: false,
            rounds: 3,
            time: Duration::from_secs(660),
            json: None,
            markdown: None,
            plots: None,
            command: command.collect::<Vec<_>>().join(" "),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--quick" => {
                    (options.quick, options.rounds) = (true, 1);
                    options.time = Duration::from_secs(50);
                }
                "--rounds" => {
                    let rounds = value()?;
                    options.rounds = rounds
                        .parse()
                        .ok()
                        .filter(|rounds| (1..=100).contains(rounds))
                        .ok_or(format!("--rounds {rounds}: choose a number from 1 to 100"))?;
                }
                "--json" => options.json = Some(value()?.into()),
                "--markdown" => options.markdown = Some(value()?.into()),
                "--plots" => options.plots = Some(value()?.into()),
                _ => return Err(format!("unknown argument {word:?}\n{USAGE}")),
            }
        }
        Ok(Command::All(options))
    }
}
