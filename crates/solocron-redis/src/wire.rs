//! What goes to the scripts and what comes back: pure, so that a test can hold the scripts to the rules without this crate's
//! connection in between.

use std::time::Duration;

use redis::Value;
use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, ClaimState, Delivery, Enrolled, Enrolment, Grant, Holder, LockKey, Lost, Mark,
    MarkAfter, NodeId, Nonce, Note, Released, Renewal, Reply, Request, Validity,
};
use solocron::{BackendError, Kind, LeaseInstant};

use crate::config::Settings;
use crate::error;
use crate::lease::RedisLease;
use crate::names::Names;
use crate::record::{self, Bytes, Record};
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

/// Asks which memory the store has. `known`: what we know of it.
pub(crate) fn open(names: &Names, run: &str, known: &[u8]) -> Call {
    let mut call = epoch(names, run, known);
    call.argument(&Nonce::random().as_u128().to_be_bytes()[..8]);
    call.argument(names.everybody());
    call
}

fn epoch(names: &Names, run: &str, known: &[u8]) -> Call {
    let mut call = Call::default();
    call.key(names.epoch());
    call.argument(known);
    call.argument(run);
    call
}

/// Tries whether others can be woken.
pub(crate) fn ready(names: &Names, channel: &str) -> Call {
    let mut call = Call::default();
    call.key(names.waiters(""));
    call.argument(channel);
    call
}

/// The store's time and its epoch, which an answer begins with; nothing where the epoch is the one that was known.
pub(crate) fn opened<'a>(answer: &mut Bytes<'a>) -> reply::Result<(Timestamp, &'a [u8])> {
    let now = answer.micros()?;
    let count = answer.byte()?;
    Ok((now, answer.take(count.into())?))
}

/// One attempt for each request.
pub(crate) fn acquire(
    names: &Names,
    run: &str,
    known: &[u8],
    requests: &[Request],
    slugs: &[String],
) -> Call {
    let mut call = epoch(names, run, known);
    for (request, slug) in requests.iter().zip(slugs) {
        call.key(names.lock(slug));
        call.argument(asked(request));
    }
    call
}

/// `<c16ddddI4H`, name and node, for `lua/acquire.lua`.
fn asked(request: &Request) -> Vec<u8> {
    let (name, node) = (request.key.as_str().as_bytes(), request.node.as_str().as_bytes());
    let mut ask = Vec::with_capacity(54 + name.len() + node.len());
    ask.extend(request.nonce.as_u128().to_be_bytes());
    ask.extend(micros(granted(request.ttl)));
    ask.extend(micros(request.longest_ttl));
    let (mut tick, mut after, mut attempts) = (f64::NAN, f64::NEG_INFINITY, 0);
    if let Some(Claim { tick: claimed, after: wanted, delivery }) = request.claim {
        tick = claimed.as_millis() as f64;
        after = wanted.map_or(after, |wanted| wanted.as_millis() as f64);
        if let Delivery::AtLeastOnce { max_attempts } = delivery {
            attempts = max_attempts;
        }
    }
    ask.extend(tick.to_le_bytes());
    ask.extend(after.to_le_bytes());
    ask.extend(attempts.to_le_bytes());
    ask.extend(length(name));
    ask.extend(name);
    ask.extend(node);
    ask
}

fn micros(duration: Duration) -> [u8; 8] {
    (duration.as_micros() as f64).to_le_bytes()
}

/// Names are shorter than this by far.
fn length(text: &[u8]) -> [u8; 2] {
    u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes()
}

/// The reply to one request.
pub(crate) fn replied(
    settings: &Settings,
    request: &Request,
    slug: &str,
    now: Timestamp,
    mut answer: Bytes<'_>,
) -> Result<Reply<RedisLease>, BackendError> {
    let letter = answer.byte()?;
    let detail = answer.rest();
    let holder = |record: &Record<'_>| Box::new(record.holder(&request.key, now));
    let stale = |record: Record<'_>, last: ClaimState| {
        let owner = if record.is_held(now) {
            Some(holder(&record))
        } else {
            last.owner.map(|node| Box::new(gone(&request.key, node, last.mark)))
        };
        Reply::Stale { mark: last.mark, done: last.done, owner }
    };
    Ok(match letter {
        b'W' => Reply::Won(grant(request, slug, now, Record::read(detail)?)),
        b'S' => {
            let mut record = Record::read(detail)?;
            let last = record.last.take().ok_or(Odd("claim"))?;
            stale(record, last)
        }
        b'L' => {
            let mark = answer.mark()?.ok_or(Odd("mark"))?;
            let last = ClaimState { mark, done: true, attempts: 0, owner: None };
            stale(Record::read(answer.rest())?, last)
        }
        b'B' => Reply::Busy { holder: Some(holder(&Record::read(detail)?)) },
        b'H' => {
            let mark = answer.mark()?.ok_or(Odd("mark"))?;
            Reply::Behind { mark, unfinished: answer.byte()? == 1 }
        }
        b'Y' => Reply::Early { store_now: now },
        b'X' => return Err(BackendError::new(Kind::Refused, "this acquisition was given back")),
        b'U' => {
            return Err(BackendError::new(
                Kind::NotEnrolled,
                "the key takes no claims: enroll the job first",
            ));
        }
        b'R' => {
            let wait = u64::try_from(answer.number()?).map_err(|_| Odd("wait"))?;
            let wait = Duration::from_micros(wait);
            let why = format!(
                "redis may have lost what it knew; the first grant waits another {wait:?} for leases of before"
            );
            return Err(BackendError::new(Kind::Recovering, why).after(wait));
        }
        _ => return Err(wrong(settings, &script::ACQUIRE, &request.key, slug, letter, detail)),
    })
}

fn grant(request: &Request, slug: &str, now: Timestamp, record: Record<'_>) -> Grant<RedisLease> {
    let ttl = granted(request.ttl);
    let lease =
        RedisLease { key: request.key.clone(), slug: slug.to_owned(), nonce: request.nonce, ttl };
    let validity = Validity::Until { since: request.first_sent, ttl };
    let mut grant = Grant::new(lease, record.fence, validity);
    grant.attempt = record.attempt;
    grant.previous = record.tick.and(record.before);
    grant.schedule = record.schedule;
    grant.note = record.note;
    grant.store_now = Some(now);
    grant
}

/// Who claimed last, and does not hold the lock any more.
fn gone(key: &LockKey, node: NodeId, mark: Mark) -> Holder {
    let mut holder = Holder::new(key.clone(), Nonce::from_u128(0), node, mark.timestamp());
    (holder.nonce, holder.tick, holder.living) = (None, Some(mark), false);
    holder
}

/// Something to be given back: a lease, or whatever this nonce holds and may come to hold.
#[derive(Debug, Clone)]
pub(crate) struct Return {
    pub(crate) key: LockKey,
    pub(crate) slug: String,
    pub(crate) nonce: Nonce,
    pub(crate) mark: MarkAfter,
    pub(crate) revoke: bool,
}

/// Gives these back.
pub(crate) fn release(names: &Names, returns: &[Return]) -> Call {
    let mut call = Call::default();
    call.argument(names.channels());
    for returned in returns {
        call.key(names.lock(&returned.slug));
        call.key(names.waiters(&returned.slug));
        // `<c16dBB` and the name, for `lua/release.lua`.
        let (after, to) = match returned.mark {
            MarkAfter::Done => (0, f64::NAN),
            MarkAfter::DoneAndSkip(to) => (1, to.as_millis() as f64),
            MarkAfter::Unfinished => (2, f64::NAN),
            MarkAfter::Undo => (3, f64::NAN),
        };
        let name = returned.key.as_str().as_bytes();
        let mut ask = Vec::with_capacity(26 + name.len());
        ask.extend(returned.nonce.as_u128().to_be_bytes());
        ask.extend(to.to_le_bytes());
        ask.extend([after, u8::from(returned.revoke)]);
        ask.extend(name);
        call.argument(ask);
    }
    call
}

/// What one return of a [`release`] was answered with.
pub(crate) fn released(
    settings: &Settings,
    returned: &Return,
    mut answer: Bytes<'_>,
) -> Result<Released, BackendError> {
    let letter = answer.byte()?;
    match letter {
        b'D' => Ok(Released::Done),
        b'O' => Ok(Released::NotOwner { mark: answer.mark()? }),
        _ => {
            let Return { key, slug, .. } = returned;
            Err(wrong(settings, &script::RELEASE, key, slug, letter, answer.rest()))
        }
    }
}

/// The answers about many, behind the store's time.
pub(crate) fn frames(answer: &Value) -> reply::Result<(Timestamp, Bytes<'_>)> {
    let mut answer = Bytes::of(answer, "answer")?;
    Ok((answer.micros()?, answer))
}

/// Makes these take claims.
pub(crate) fn enroll(names: &Names, jobs: &[Enrolment]) -> Call {
    let mut call = Call::default();
    for job in jobs {
        call.key(names.lock(&job.key.slug()));
        call.argument([&job.fingerprint.to_le_bytes(), job.key.as_str().as_bytes()].concat());
    }
    call
}

/// What an [`enroll`] was answered with, one for each.
pub(crate) fn enrolled(
    settings: &Settings,
    jobs: &[Enrolment],
    answer: &Value,
) -> Result<Vec<Result<Enrolled, BackendError>>, BackendError> {
    let (now, mut answers) = frames(answer)?;
    let read = |job: &Enrolment, answer: reply::Result<Bytes<'_>>| {
        let mut answer = answer?;
        let letter = answer.byte()?;
        if letter != b'C' && letter != b'K' {
            let (key, slug) = (&job.key, &job.key.slug());
            return Err(wrong(settings, &script::ENROLL, key, slug, letter, answer.rest()));
        }
        let record = Record::read(answer.rest())?;
        let (Some(last), Some(schedule)) = (record.last, record.schedule) else {
            return Err(Odd("enrolment").into());
        };
        let mut enrolled = Enrolled::new(last, schedule, letter == b'C', record.note);
        enrolled.store_now = Some(now);
        Ok(enrolled)
    };
    Ok(jobs.iter().map(|job| read(job, answers.frame())).collect())
}

/// Extends these leases.
pub(crate) fn renew(names: &Names, leases: &[&RedisLease]) -> Call {
    let mut call = Call::default();
    for lease in leases {
        call.key(names.lock(&lease.slug));
        let nonce = lease.nonce.as_u128().to_be_bytes();
        call.argument([nonce.as_slice(), &micros(lease.ttl)].concat());
    }
    call
}

/// What a [`renew`] was answered with, one for each.
pub(crate) fn renewed(
    settings: &Settings,
    leases: &[&RedisLease],
    sent: LeaseInstant,
    answer: &Value,
) -> Result<Vec<Result<Renewal, BackendError>>, BackendError> {
    let (_, mut answers) = frames(answer)?;
    let read = |lease: &RedisLease, answer: reply::Result<Bytes<'_>>| {
        let mut answer = answer?;
        match answer.byte()? {
            b'Y' => Ok(Renewal::Extended(Validity::Until { since: sent, ttl: lease.ttl })),
            b'N' if answer.is_empty() => Ok(Renewal::NotOwner(Lost::TakenOver)),
            letter => {
                let RedisLease { key, slug, .. } = lease;
                Err(wrong(settings, &script::RENEW, key, slug, letter, answer.rest()))
            }
        }
    };
    Ok(leases.iter().map(|lease| read(lease, answers.frame())).collect())
}

/// Writes a note if its version is still `expected`.
pub(crate) fn note(names: &Names, key: &LockKey, expected: u64, body: &[u8]) -> Call {
    let mut call = Call::default();
    call.key(names.lock(&key.slug()));
    let next = expected.saturating_add(1);
    call.argument([expected.to_le_bytes(), next.to_le_bytes()].concat());
    call.argument(key.as_str());
    call.argument(body);
    call
}

/// What a [`note`] was answered with.
pub(crate) fn noted(
    settings: &Settings,
    key: &LockKey,
    answer: &Value,
) -> Result<Note, BackendError> {
    let mut answer = frames(answer)?.1.frame()?;
    match answer.byte()? {
        b'K' => Ok(Record::read(answer.rest())?.note),
        letter => Err(wrong(settings, &script::NOTE, key, &key.slug(), letter, answer.rest())),
    }
}

/// Who holds these, of those whose names begin with `prefix`.
pub(crate) fn holders(prefix: &str, answer: &Value) -> reply::Result<Vec<Holder>> {
    let (now, mut answers) = frames(answer)?;
    let mut holders = Vec::new();
    while !answers.is_empty() {
        let record = Record::read(answers.frame()?.rest())?;
        if record.name.starts_with(prefix) {
            let key = LockKey::new(record.name).map_err(|_| Odd("name"))?;
            holders.push(record.holder(&key, now));
        }
    }
    Ok(holders)
}

/// A lock that is none of ours, or that failed alone: a letter, and some detail.
fn wrong(
    settings: &Settings,
    script: &Script,
    key: &LockKey,
    slug: &str,
    letter: u8,
    detail: &[u8],
) -> BackendError {
    if letter != b'E' {
        return record::wrong(key, &settings.names.lock(slug), letter, detail);
    }
    let text = String::from_utf8_lossy(detail);
    error::caught(settings, &format!("{} ({key})", script.doing), &text)
}

/// What is granted for a ttl: whole milliseconds, rounded up.
fn granted(ttl: Duration) -> Duration {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests;
