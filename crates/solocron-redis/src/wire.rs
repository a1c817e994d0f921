//! What goes to the scripts and what comes back: pure, so that a test can hold the scripts to the rules without this crate's
//! connection in between.

use std::time::Duration;

use redis::Value;
use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, Delivery, Enrolled, Enrolment, Grant, Holder, LockKey, Lost, Mark, MarkAfter, NodeId,
    Nonce, Note, Released, Renewal, Reply, Request, Validity,
};
use solocron::{BackendError, Kind, LeaseInstant};

use crate::config::Settings;
use crate::error;
use crate::lease::RedisLease;
use crate::memory::Memory;
use crate::names::Names;
use crate::reply::{self, Odd};
use crate::script::{self, Script};

/// The longest lease.
pub(crate) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The keys and arguments of a script.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) keys: Vec<String>,
    pub(crate) arguments: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn key(&mut self, key: String) {
        self.keys.push(key);
    }

    pub(crate) fn argument(&mut self, argument: impl Into<Vec<u8>>) {
        self.arguments.push(argument.into());
    }
}

/// Asks which memory the store has.
pub(crate) fn open(names: &Names, run: &str, known: String) -> Call {
    let mut call = epoch(names, run, known);
    call.argument(names.everybody());
    call
}

fn epoch(names: &Names, run: &str, known: String) -> Call {
    let mut call = Call::default();
    call.key(names.epoch());
    call.argument(run);
    call.argument(known);
    call.argument(Memory::candidate());
    call
}

/// Tries whether others can be woken.
pub(crate) fn ready(names: &Names, channel: &str) -> Call {
    let mut call = Call::default();
    call.key(names.waiters(""));
    call.argument(channel);
    call
}

/// The epoch, of the answers that begin with it.
pub(crate) fn opened(words: &[Value]) -> reply::Result<&str> {
    reply::text(words.first(), "epoch")
}

/// One attempt for each request.
pub(crate) fn acquire(
    names: &Names,
    run: &str,
    known: String,
    requests: &[Request],
    slugs: &[String],
) -> Call {
    let mut call = epoch(names, run, known);
    for (request, slug) in requests.iter().zip(slugs) {
        call.key(names.lock(slug));
        call.argument(request.key.as_str());
        call.argument(hex(request.nonce));
        call.argument(request.node.as_str());
        call.argument(granted(request.ttl).as_micros().to_string());
        call.argument(request.longest_ttl.as_micros().to_string());
        let Some(Claim { tick, after, delivery }) = request.claim else {
            for nothing in ["", "", "0"] {
                call.argument(nothing);
            }
            continue;
        };
        let attempts = match delivery {
            Delivery::AtLeastOnce { max_attempts } => max_attempts,
            _ => 0,
        };
        call.argument(tick.as_millis().to_string());
        call.argument(after.map_or_else(String::new, |after| after.as_millis().to_string()));
        call.argument(attempts.to_string());
    }
    call
}

/// What an [`acquire`] was answered with.
pub(crate) struct Attempted {
    pub(crate) epoch: String,
    pub(crate) now: Timestamp,
    /// One for each request.
    pub(crate) answers: std::vec::IntoIter<Value>,
}

impl Attempted {
    pub(crate) fn read(answer: Value) -> reply::Result<Self> {
        let mut answers = reply::array(answer, "attempt")?.into_iter();
        let head: Vec<_> = answers.by_ref().take(3).collect();
        Ok(Self { epoch: opened(&head)?.to_owned(), now: time(head.get(1))?, answers })
    }
}

/// The reply to one request.
pub(crate) fn replied(
    settings: &Settings,
    request: &Request,
    slug: &str,
    now: Timestamp,
    answer: Value,
) -> Result<Reply<RedisLease>, BackendError> {
    let words = reply::array(answer, "attempt")?;
    let word = |at: usize| reply::text(words.get(at), "attempt");
    let holder = |text: &str| reply::holder(&request.key, text, now).map(Box::new);
    Ok(match word(0)? {
        "won" => Reply::Won(grant(request, slug, now, &words)?),
        "stale" => {
            let last = reply::claim(word(1)?)?;
            let owner = match word(2)? {
                "" => last.owner.map(|node| Box::new(gone(&request.key, node, last.mark))),
                living => Some(holder(living)?),
            };
            Reply::Stale { mark: last.mark, done: last.done, owner }
        }
        "busy" => Reply::Busy { holder: Some(holder(word(1)?)?) },
        "behind" => {
            Reply::Behind { mark: reply::mark(word(1)?, "mark")?, unfinished: word(2)? == "1" }
        }
        "early" => Reply::Early { store_now: now },
        "refused" => {
            return Err(BackendError::new(Kind::Refused, "this acquisition was given back"));
        }
        "unknown" => {
            return Err(BackendError::new(
                Kind::NotEnrolled,
                "the key takes no claims: enroll the job first",
            ));
        }
        "recovering" => {
            let wait = Duration::from_micros(reply::number(word(1)?, "wait")?);
            let why = format!(
                "redis may have lost what it knew; the first grant waits another {wait:?} for leases of before"
            );
            return Err(BackendError::new(Kind::Recovering, why).after(wait));
        }
        _ => return Err(wrong(settings, &script::ACQUIRE, &request.key, slug, &words)),
    })
}

fn grant(
    request: &Request,
    slug: &str,
    now: Timestamp,
    words: &[Value],
) -> reply::Result<Grant<RedisLease>> {
    let word = |at: usize| reply::text(words.get(at), "grant");
    let ttl = granted(request.ttl);
    let lease =
        RedisLease { key: request.key.clone(), slug: slug.to_owned(), nonce: request.nonce, ttl };
    let validity = Validity::Until { since: request.first_sent, ttl };
    let mut grant = Grant::new(lease, reply::fence(word(1)?)?, validity);
    grant.attempt = reply::number(word(2)?, "attempt")?;
    grant.previous = match word(3)? {
        "" => None,
        previous => Some(reply::claim(previous)?),
    };
    grant.schedule = match word(4)? {
        "" => None,
        schedule => Some(reply::schedule(schedule)?),
    };
    grant.note = reply::note(reply::bytes(words.get(5), "note")?)?;
    grant.store_now = Some(now);
    Ok(grant)
}

/// Who claimed last, and does not hold the lock any more.
fn gone(key: &LockKey, node: NodeId, mark: Mark) -> Holder {
    let mut holder = Holder::new(key.clone(), Nonce::from_u128(0), node, mark.timestamp());
    (holder.nonce, holder.tick, holder.living) = (None, Some(mark), false);
    holder
}

/// Gives back a lease, or whatever this nonce holds and may come to hold.
pub(crate) fn release(
    names: &Names,
    key: &LockKey,
    slug: &str,
    nonce: Nonce,
    mark: MarkAfter,
    revoke: bool,
) -> Call {
    let (after, to) = match mark {
        MarkAfter::Done => ("done", String::new()),
        MarkAfter::DoneAndSkip(to) => ("skip", to.as_millis().to_string()),
        MarkAfter::Unfinished => ("unfinished", String::new()),
        MarkAfter::Undo => ("undo", String::new()),
    };
    let mut call = Call::default();
    call.key(names.lock(slug));
    call.key(names.waiters(slug));
    call.argument(key.as_str());
    call.argument(hex(nonce));
    call.argument(after);
    call.argument(to);
    call.argument(if revoke { "1" } else { "0" });
    call.argument(names.channels());
    call.argument(slug);
    call
}

/// What a [`release`] was answered with.
pub(crate) fn released(
    settings: &Settings,
    key: &LockKey,
    slug: &str,
    answer: Value,
) -> Result<Released, BackendError> {
    let (_, words) = about_one(answer)?;
    match reply::text(words.first(), "release")? {
        "done" => Ok(Released::Done),
        "other" => {
            let mark = match reply::text(words.get(1), "mark")? {
                "" => None,
                mark => Some(reply::mark(mark, "mark")?),
            };
            Ok(Released::NotOwner { mark })
        }
        _ => Err(wrong(settings, &script::RELEASE, key, slug, &words)),
    }
}

/// Makes these take claims.
pub(crate) fn enroll(names: &Names, jobs: &[Enrolment]) -> Call {
    let mut call = Call::default();
    for job in jobs {
        call.key(names.lock(&job.key.slug()));
        call.argument(job.key.as_str());
        call.argument(job.fingerprint.to_string());
    }
    call
}

/// What an [`enroll`] was answered with, one for each.
pub(crate) fn enrolled(
    settings: &Settings,
    jobs: &[Enrolment],
    answer: Value,
) -> Result<Vec<Result<Enrolled, BackendError>>, BackendError> {
    let mut answers = reply::array(answer, "enrolment")?.into_iter();
    let now = time(answers.next().as_ref())?;
    let read = |job: &Enrolment, answer: Value| {
        let words = reply::array(answer, "enrolment")?;
        let word = |at: usize| reply::text(words.get(at), "enrolment");
        if word(0)? != "ok" {
            return Err(wrong(settings, &script::ENROLL, &job.key, &job.key.slug(), &words));
        }
        let note = reply::note(reply::bytes(words.get(4), "note")?)?;
        let (last, schedule) = (reply::claim(word(2)?)?, reply::schedule(word(3)?)?);
        let mut enrolled = Enrolled::new(last, schedule, word(1)? == "1", note);
        enrolled.store_now = Some(now);
        Ok(enrolled)
    };
    Ok(jobs.iter().map(|job| read(job, answers.next().unwrap_or_default())).collect())
}

/// Extends these leases.
pub(crate) fn renew(names: &Names, leases: &[&RedisLease]) -> Call {
    let mut call = Call::default();
    for lease in leases {
        call.key(names.lock(&lease.slug));
        call.argument(hex(lease.nonce));
        call.argument(lease.ttl.as_micros().to_string());
    }
    call
}

/// What a [`renew`] was answered with, one for each.
pub(crate) fn renewed(
    settings: &Settings,
    leases: &[&RedisLease],
    sent: LeaseInstant,
    answer: Value,
) -> Result<Vec<Result<Renewal, BackendError>>, BackendError> {
    let mut answers = reply::array(answer, "renewal")?.into_iter().skip(1);
    let read = |lease: &RedisLease, answer: Value| match answer {
        Value::Int(1) => Ok(Renewal::Extended(Validity::Until { since: sent, ttl: lease.ttl })),
        Value::Int(0) => Ok(Renewal::NotOwner(Lost::TakenOver)),
        Value::Array(words) => {
            Err(wrong(settings, &script::RENEW, &lease.key, &lease.slug, &words))
        }
        _ => Err(Odd("renewal").into()),
    };
    Ok(leases.iter().map(|lease| read(lease, answers.next().unwrap_or_default())).collect())
}

/// Writes a note if its version is still `expected`.
pub(crate) fn note(names: &Names, key: &LockKey, expected: u64, body: &[u8]) -> Call {
    let mut call = Call::default();
    call.key(names.lock(&key.slug()));
    call.argument(key.as_str());
    call.argument(expected.to_string());
    call.argument(expected.saturating_add(1).to_string());
    call.argument(body);
    call
}

/// What a [`note`] was answered with.
pub(crate) fn noted(
    settings: &Settings,
    key: &LockKey,
    answer: Value,
) -> Result<Note, BackendError> {
    let (_, words) = about_one(answer)?;
    match reply::text(words.first(), "note")? {
        "ok" => Ok(reply::note(reply::bytes(words.get(1), "note")?)?),
        _ => Err(wrong(settings, &script::NOTE, key, &key.slug(), &words)),
    }
}

/// Who holds these, of those whose names begin with `prefix`.
pub(crate) fn holders(prefix: &str, answer: Value) -> reply::Result<Vec<Holder>> {
    let mut answers = reply::array(answer, "holders")?.into_iter();
    let now = time(answers.next().as_ref())?;
    let mut holders = Vec::new();
    for answer in answers {
        let words = reply::array(answer, "holder")?;
        let name = reply::text(words.first(), "holder")?;
        if name.starts_with(prefix) {
            let key = LockKey::new(name).map_err(|_| Odd("name"))?;
            holders.push(reply::holder(&key, reply::text(words.get(1), "holder")?, now)?);
        }
    }
    Ok(holders)
}

/// The store's time, and the words about one lock.
pub(crate) fn about_one(answer: Value) -> reply::Result<(Timestamp, Vec<Value>)> {
    let mut answers = reply::array(answer, "answer")?.into_iter();
    let now = time(answers.next().as_ref())?;
    Ok((now, reply::array(answers.next().unwrap_or_default(), "answer")?))
}

/// The store's time.
pub(crate) fn time(value: Option<&Value>) -> reply::Result<Timestamp> {
    reply::micros(reply::text(value, "time")?, "time")
}

/// A lock that is none of ours, or that failed alone.
fn wrong(
    settings: &Settings,
    script: &Script,
    key: &LockKey,
    slug: &str,
    words: &[Value],
) -> BackendError {
    match reply::text(words.first(), "answer") {
        Ok("error") => {
            let text =
                String::from_utf8_lossy(reply::bytes(words.get(1), "error").unwrap_or_default());
            error::caught(settings, &format!("{} ({key})", script.doing), &text)
        }
        _ => reply::wrong(key, &settings.names.lock(slug), words),
    }
}

/// What is granted for a ttl: whole milliseconds, rounded up.
fn granted(ttl: Duration) -> Duration {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).min(LONGEST)
}

fn hex(nonce: Nonce) -> String {
    format!("{:032x}", nonce.as_u128())
}

#[cfg(test)]
mod tests;
