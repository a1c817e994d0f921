//! Events as lines of text, and back. The form is described in the head of [`super`].

use std::fmt::{self, Display, Write as _};
use std::str::{FromStr, SplitAsciiWhitespace};

use super::event::{Claim, Event, Meta, Outcome, Schedule, What};

/// Writes the event as one line, without the line's end.
impl Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t={} node={} pid={} event=", self.t, Text(&self.node), self.pid)?;
        match &self.what {
            What::Meta(meta) => write_meta(f, meta),
            What::Boot => f.write_str("boot"),
            What::Stop => f.write_str("stop"),
            What::Bye => f.write_str("bye"),
            What::Grant { claim, asked, answered } => {
                write!(f, "grant {} asked={asked} answered={answered}", Words(claim))
            }
            What::Start { claim, attempt } => write!(f, "start {} attempt={attempt}", Words(claim)),
            What::Effect { claim, n } => write!(f, "effect {} n={n}", Words(claim)),
            What::Over { claim, outcome } => {
                write!(f, "{} {}", outcome_word(*outcome), Words(claim))
            }
            What::Undo { claim } => write!(f, "undo {}", Words(claim)),
            What::Missed { job, tick } => write!(f, "missed job={} tick={tick}", Text(job)),
            What::Skipped { job, tick, why } => {
                write!(f, "skipped job={} tick={tick} why={}", Text(job), Text(why))
            }
            What::Abandoned { job, tick } => write!(f, "abandoned job={} tick={tick}", Text(job)),
            What::Fault { kind, node } => write!(f, "fault kind={} of={}", Text(kind), Text(node)),
            What::Heal { kind, node } => write!(f, "heal kind={} of={}", Text(kind), Text(node)),
            What::Leak { what } => write!(f, "leak what={}", Text(what)),
        }
    }
}

/// Reads one line, without the line's end.
///
/// # Errors
///
/// A sentence that says what is wrong, for anything that [`Event`]'s `Display` would not have
/// written just so.
impl FromStr for Event {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = Reader(line.split_ascii_whitespace());
        let event = Self {
            t: words.number("t")?,
            node: words.text("node")?,
            pid: words.number("pid")?,
            what: read_what(&mut words)?,
        };
        // One form only: a word too many, a double space, `+7` and `%61` all fail here.
        if event.to_string() == line {
            Ok(event)
        } else {
            Err(format!("not in its one form: `{event}`"))
        }
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::End => "end",
        Outcome::Lost => "lost",
        Outcome::Panic => "panic",
    }
}

fn write_meta(f: &mut fmt::Formatter<'_>, meta: &Meta) -> fmt::Result {
    write!(f, "meta wall={} grace={} settle={}", meta.wall_ms, meta.grace_ms, meta.settle_ms)?;
    for (job, schedule) in &meta.jobs {
        write!(f, " job={}", Text(job))?;
        match schedule {
            Schedule::Every { period_ms } => write!(f, " every={period_ms}")?,
            Schedule::At(ticks) => {
                f.write_str(" at=")?;
                for (i, tick) in ticks.iter().enumerate() {
                    write!(f, "{}{tick}", if i == 0 { "" } else { "," })?;
                }
            }
        }
    }
    Ok(())
}

fn read_what(words: &mut Reader<'_>) -> Result<What, String> {
    Ok(match words.value("event")? {
        "meta" => What::Meta(read_meta(words)?),
        "boot" => What::Boot,
        "stop" => What::Stop,
        "bye" => What::Bye,
        "grant" => What::Grant {
            claim: words.claim()?,
            asked: words.number("asked")?,
            answered: words.number("answered")?,
        },
        "start" => What::Start { claim: words.claim()?, attempt: words.number("attempt")? },
        "effect" => What::Effect { claim: words.claim()?, n: words.number("n")? },
        "end" => What::Over { claim: words.claim()?, outcome: Outcome::End },
        "lost" => What::Over { claim: words.claim()?, outcome: Outcome::Lost },
        "panic" => What::Over { claim: words.claim()?, outcome: Outcome::Panic },
        "undo" => What::Undo { claim: words.claim()? },
        "missed" => What::Missed { job: words.text("job")?, tick: words.number("tick")? },
        "skipped" => What::Skipped {
            job: words.text("job")?,
            tick: words.number("tick")?,
            why: words.text("why")?,
        },
        "abandoned" => What::Abandoned { job: words.text("job")?, tick: words.number("tick")? },
        "fault" => What::Fault { kind: words.text("kind")?, node: words.text("of")? },
        "heal" => What::Heal { kind: words.text("kind")?, node: words.text("of")? },
        "leak" => What::Leak { what: words.text("what")? },
        other => return Err(format!("no event is called `{other}`")),
    })
}

fn read_meta(words: &mut Reader<'_>) -> Result<Meta, String> {
    let mut meta = Meta {
        wall_ms: words.number("wall")?,
        grace_ms: words.number("grace")?,
        settle_ms: words.number("settle")?,
        jobs: [].into(),
    };
    while let Some(job) = words.0.next() {
        let job = decode(
            job.strip_prefix("job=").ok_or_else(|| format!("expected `job=`, found `{job}`"))?,
        )?;
        let when = words.0.next().ok_or_else(|| format!("no schedule for job `{job}`"))?;
        let schedule = match when.split_once('=') {
            Some(("every", period)) => match parse("every", period)? {
                0 => return Err(format!("job `{job}` has a period of zero")),
                period_ms => Schedule::Every { period_ms },
            },
            Some(("at", "")) => Schedule::At(vec![]),
            Some(("at", ticks)) => Schedule::At(
                ticks.split(',').map(|tick| parse("at", tick)).collect::<Result<_, _>>()?,
            ),
            _ => return Err(format!("expected `every=` or `at=`, found `{when}`")),
        };
        meta.jobs.insert(job, schedule);
    }
    Ok(meta)
}

struct Reader<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Reader<'a> {
    fn value(&mut self, key: &str) -> Result<&'a str, String> {
        let word = self.0.next().ok_or_else(|| format!("the line ends before `{key}=`"))?;
        match word.split_once('=') {
            Some((found, value)) if found == key => Ok(value),
            _ => Err(format!("expected `{key}=`, found `{word}`")),
        }
    }

    fn number<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        parse(key, self.value(key)?)
    }

    fn text(&mut self, key: &str) -> Result<String, String> {
        decode(self.value(key)?)
    }

    fn claim(&mut self) -> Result<Claim, String> {
        Ok(Claim {
            job: self.text("job")?,
            tick: self.number("tick")?,
            fence: self.number("fence")?,
        })
    }
}

fn parse<T: FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is no number that fits `{key}=`"))
}

fn decode(value: &str) -> Result<String, String> {
    let wrong = || format!("`{value}` is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
            let code = digit().zip(digit()).map(|(high, low)| high * 16 + low).ok_or_else(wrong)?;
            u8::try_from(code).map_err(|_| wrong())?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A text as a value: what could be mistaken for the line's own signs is percent-encoded.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_graphic() && byte != b'%' && byte != b'=' {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

struct Words<'a>(&'a Claim);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job={} tick={} fence={}", Text(&self.0.job), self.0.tick, self.0.fence)
    }
}
