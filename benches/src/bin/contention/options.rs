//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use super::families::FAMILIES;

pub(crate) const USAGE: &str = "\
usage: contention [--quick] [--rounds N] [--only FAMILY]... [--out DIR]
       contention --check A.json B.json

  --quick        one short round: whether it runs, not what it costs
  --rounds N     so many rounds, 1 to 20 (default 5)
  --only FAMILY  flock, socket, redis or etcd; again for another one (default all)
  --out DIR      where contention.json, contention.md and the plots go (default target/bench)
  --check A B    whether two runs agree within the spreads that they print";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Options),
    Check(PathBuf, PathBuf),
    Help,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Nothing: all families.
    pub(crate) only: Vec<String>,
    pub(crate) out: PathBuf,
}

impl Options {
    /// How long one subject is measured in one round.
    pub(crate) fn measured(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 1000 })
    }

    /// How often every holder is killed in one round, and in how many rounds: where a take-over takes no ttl, and where it does.
    pub(crate) fn kills(&self, ttl: Duration) -> (u32, usize) {
        match (ttl.is_zero(), self.quick) {
            (true, false) => (6, self.rounds),
            (true, true) => (3, self.rounds),
            // One at each third of the time between two renewals.
            (false, false) => (3, self.rounds.min(3)),
            (false, true) => (1, 1),
        }
    }
}

/// Reads the command line, without the program's name.
///
/// # Errors
///
/// What is wrong with which word.
pub(crate) fn read(words: &[String]) -> Result<Asked, String> {
    let out = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench");
    let mut options = Options { quick: false, rounds: 5, only: Vec::new(), out: out.into() };
    let mut rounds = None;
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = |what: &str| words.next().ok_or(format!("{word} needs {what}"));
        match word {
            "--help" | "-h" => return Ok(Asked::Help),
            "--quick" => options.quick = true,
            "--rounds" => {
                let number = value("a number of rounds")?;
                let parsed = number.parse().ok().filter(|rounds| (1..=20).contains(rounds));
                rounds =
                    Some(parsed.ok_or(format!("--rounds {number}: not a number from 1 to 20"))?);
            }
            "--only" => {
                let family = value("a family")?;
                if !FAMILIES.iter().any(|known| known.name == family) {
                    let known: Vec<_> = FAMILIES.iter().map(|known| known.name).collect();
                    return Err(format!("--only {family}: not one of {}", known.join(", ")));
                }
                options.only.push(family.to_owned());
            }
            "--out" => options.out = value("a directory")?.into(),
            "--check" => {
                let (first, second) = (value("two files")?.into(), value("two files")?.into());
                return match words.next() {
                    None => Ok(Asked::Check(first, second)),
                    Some(more) => {
                        Err(format!("--check takes two files and nothing else, not {more}"))
                    }
                };
            }
            other => return Err(format!("{other}: not an option")),
        }
    }
    options.rounds = rounds.unwrap_or(if options.quick { 1 } else { 5 });
    Ok(Asked::Run(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Asked, String> {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read() {
        let Ok(Asked::Run(options)) = words("--only redis --rounds 3 --only etcd --out /tmp/x")
        else {
            panic!("these are options");
        };
        assert_eq!((options.rounds, options.quick), (3, false));
        assert_eq!(
            (options.only, options.out),
            (vec!["redis".into(), "etcd".into()], "/tmp/x".into())
        );
        let Ok(Asked::Run(quick)) = words("--quick") else { panic!("this is an option") };
        assert_eq!(quick.rounds, 1);
        assert_eq!(words("--check a b"), Ok(Asked::Check("a".into(), "b".into())));
    }

    #[test]
    fn a_wrong_word_is_named() {
        for (line, wrong) in [
            ("--rounds", "--rounds needs a number"),
            ("--rounds 0", "--rounds 0: not a number from 1 to 20"),
            ("--rounds x", "--rounds x"),
            ("--only mysql", "not one of flock, socket, redis, etcd"),
            ("--only", "--only needs a family"),
            ("--out", "--out needs a directory"),
            ("--check a", "--check needs two files"),
            ("--check a b c", "not c"),
            ("quick", "quick: not an option"),
        ] {
            let error = words(line).unwrap_err();
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }
}
