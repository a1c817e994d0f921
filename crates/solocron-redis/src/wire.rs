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

/// Where in its line an acquisition waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// What stands in the line; nothing where nobody wants to.
    pub(crate) member: Vec<u8>,
    /// 0: at the end.
    pub(crate) score: f64,
}

impl Place {
    /// Whether anybody waits there.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.member.is_empty()
    }
}

/// What stands in a line for an acquisition that waits, as `lua/wake.lua` draws it. `request`: from its first attempt on, as much as it
/// takes to grant it.
pub(crate) fn member(place: &str, nonce: Nonce, request: Option<&Request>) -> Vec<u8> {
    let mut member = [place.as_bytes(), b"=", &nonce.as_u128().to_be_bytes()].concat();
    if let Some(request) = request {
        member.extend(micros(granted(request.ttl)));
        member.extend(micros(request.longest_ttl));
        member.extend(request.node.as_str().as_bytes());
    }
    member
}

/// One attempt for each request. `places`: for as many of them, in their order.
pub(crate) fn acquire(
    names: &Names,
    run: &str,
    known: &[u8],
    requests: &[Request],
    slugs: &[String],
    places: &[Place],
) -> Call {
    let mut call = epoch(names, run, known);
    let nowhere = Place::default();
    let mut places = places.iter();
    let mut lines = Vec::new();
    for (request, slug) in requests.iter().zip(slugs) {
        let place = places.next().unwrap_or(&nowhere);
        call.key(names.lock(slug));
        call.argument(asked(request, place));
        if place.is_wanted() {
            lines.push(names.waiters(slug));
        }
    }
    call.keys.extend(lines);
    call
}

/// `<c16ddddI4dHH`, name, place and node, for `lua/acquire.lua`.
fn asked(request: &Request, place: &Place) -> Vec<u8> {
    let (name, node) = (request.key.as_str().as_bytes(), request.node.as_str().as_bytes());
    let mut ask = Vec::with_capacity(64 + name.len() + place.member.len() + node.len());
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
    ask.extend(place.score.to_le_bytes());
    ask.extend(length(&place.member));
    ask.extend(length(name));
    ask.extend(name);
    ask.extend(&place.member);
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

/// Whether this answer says that the acquisition stands in line.
pub(crate) fn in_line(mut answer: Bytes<'_>) -> bool {
    matches!(answer.byte(), Ok(b'J'))
}

/// The reply to one request. `waited`: it may have been granted before it was sent.
pub(crate) fn replied(
    settings: &Settings,
    request: &Request,
    slug: &str,
    now: Timestamp,
    mut answer: Bytes<'_>,
    waited: bool,
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
        b'W' => {
            let record = Record::read(detail)?;
            let age = if waited { record.age(now) } else { Duration::ZERO };
            Reply::Won(grant(request, slug, now, request.first_sent.minus(age), record))
        }
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
        b'B' | b'J' => Reply::Busy { holder: Some(holder(&Record::read(detail)?)) },
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

/// A grant that counts from `since`.
pub(crate) fn grant(
    request: &Request,
    slug: &str,
    now: Timestamp,
    since: LeaseInstant,
    record: Record<'_>,
) -> Grant<RedisLease> {
    let ttl = granted(request.ttl);
    let lease = RedisLease {
        key: request.key.clone(),
        slug: slug.to_owned(),
        nonce: request.nonce,
        ttl,
        kept: None,
    };
    let validity = Validity::Until { since, ttl };
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
    /// Whoever waited there does not wait any more.
    pub(crate) leave: Option<Leave>,
}

/// See [`Return::leave`].
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    pub(crate) member: Vec<u8>,
    /// It was told that the lock is free, and did nothing with it.
    pub(crate) pass_on: bool,
}

/// Gives these back. `known`: what we know of the store's memory; a lock is granted to the next in line only where it is right.
pub(crate) fn release(names: &Names, known: &[u8], returns: &[Return]) -> Call {
    let mut call = Call::default();
    call.key(names.epoch());
    call.argument(names.channels());
    call.argument(known);
    for returned in returns {
        call.key(names.lock(&returned.slug));
        call.key(names.waiters(&returned.slug));
        // `<c16dBBH`, name and place, for `lua/release.lua`.
        let (after, to) = match returned.mark {
            MarkAfter::Done => (0, f64::NAN),
            MarkAfter::DoneAndSkip(to) => (1, to.as_millis() as f64),
            MarkAfter::Unfinished => (2, f64::NAN),
            MarkAfter::Undo => (3, f64::NAN),
        };
        let name = returned.key.as_str().as_bytes();
        let (how, place) = match &returned.leave {
            Some(leave) => (2 + u8::from(leave.pass_on), leave.member.as_slice()),
            None => (u8::from(returned.revoke), [].as_slice()),
        };
        let mut ask = Vec::with_capacity(28 + name.len() + place.len());
        ask.extend(returned.nonce.as_u128().to_be_bytes());
        ask.extend(to.to_le_bytes());
        ask.extend([after, how]);
        ask.extend(length(name));
        ask.extend(name);
        ask.extend(place);
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

/// What a node is told, as `lua/wake.lua` draws it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// The lock of this slug may be free, and whoever waits for news of it was chosen.
    Free(&'a str),
    /// The same, and an acquisition was chosen that waits.
    FreeFor(&'a str, Nonce),
    /// This acquisition was granted the lock, then; the record.
    Granted(Nonce, Timestamp, &'a [u8]),
}

impl<'a> Message<'a> {
    pub(crate) fn read(message: &'a [u8]) -> reply::Result<Self> {
        const PART: &str = "message";
        let slug = message.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut rest = Bytes::new(&message[slug.len()..], PART);
        let slug = std::str::from_utf8(slug).map_err(|_| Odd(PART))?;
        if rest.is_empty() {
            return Ok(Self::Free(slug));
        }
        rest.byte()?;
        let nonce = rest.nonce()?;
        if rest.is_empty() {
            return Ok(Self::FreeFor(slug, nonce));
        }
        Ok(Self::Granted(nonce, rest.micros()?, rest.rest()))
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
