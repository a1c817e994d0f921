//! The driver: turns requests into scripts, and answers into replies.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Value;
use solocron::jiff::Timestamp;
use solocron::lock::{
    Capabilities, Claim, Delivery, Enrolled, Enrolment, Epoch, Fencing, Grant, Holder, LockBackend,
    LockKey, Lost, Mark, MarkAfter, Nonce, Note, Released, Renewal, Reply, Request, Scope,
    TtlRange, Validity, Watch,
};
use solocron::{BackendError, Kind, LeaseInstant};

use crate::config::RedisBuilder;
use crate::config::Settings;
use crate::error;
use crate::lease::RedisLease;
use crate::link::{Call, Link};
use crate::memory::{self, Memory};
use crate::reply::{self, Odd};
use crate::script::{self, Script};
use crate::waiters::RedisWatch;

/// Keys in one script call. Larger: fewer round trips. Smaller: nobody else waits for long behind one call.
const BATCH: usize = 250;

/// Leases renewed by one script call.
const RENEWALS: usize = 500;

/// Locks kept in Redis or Valkey. Clones share one connection.
#[derive(Clone)]
pub struct RedisBackend(Arc<Link>);

impl RedisBackend {
    /// The locks at `url`, with every default. Sends nothing: the first call connects, and every call connects again where needed.
    ///
    /// # Errors
    ///
    /// [`solocron::Error::Invalid`] where the URL cannot be used; see [`RedisBuilder::build`].
    pub fn open(url: &str) -> solocron::Result<Self> {
        Self::builder(url).build()
    }

    /// The locks at `url`, with every default, once the server has let us in.
    ///
    /// # Errors
    ///
    /// As [`RedisBuilder::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(url: &str) -> solocron::Result<Self> {
        Self::builder(url).connect().await
    }

    /// The same, with options.
    #[must_use]
    pub fn builder(url: &str) -> RedisBuilder {
        RedisBuilder::new(url)
    }

    pub(crate) fn new(settings: Settings) -> Self {
        Self(Link::new(settings))
    }

    pub(crate) async fn opened(&self) -> Result<(), BackendError> {
        self.0.session().await.map(drop)
    }

    /// What the locks share their names with.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.settings().names.namespace()
    }

    /// The redis key that holds the record of `key`, for a look at it with `redis-cli`.
    #[must_use]
    pub fn redis_key(&self, key: &LockKey) -> String {
        self.0.settings().names.lock(&key.slug())
    }

    async fn acquire(
        &self,
        requests: &[Request],
    ) -> Result<Vec<Result<Reply<RedisLease>, BackendError>>, BackendError> {
        let link = &self.0;
        let session = link.session().await?;
        let names = &link.settings().names;
        let slugs: Vec<_> = requests.iter().map(|request| request.key.slug()).collect();
        let mut call = Call::default();
        call.key(names.epoch());
        call.argument(&*session.run);
        call.argument(link.memory().known());
        call.argument(Memory::candidate());
        for (request, slug) in requests.iter().zip(&slugs) {
            call.key(names.lock(slug));
            ask(&mut call, request);
        }
        let (answer, replicas) = link.grant(&session, &script::ACQUIRE, &call).await?;
        let mut answers = reply::array(answer, "attempt")?.into_iter();
        let head: Vec<_> = answers.by_ref().take(3).collect();
        let told = || -> reply::Result<_> {
            Ok((
                reply::text(head.first(), "epoch")?,
                reply::micros(reply::text(head.get(1), "time")?, "time")?,
            ))
        };
        let (epoch, now) = told()?;
        link.learn(epoch);
        let mut replies = Vec::with_capacity(requests.len());
        for (request, slug) in requests.iter().zip(slugs) {
            let answer = answers.next().unwrap_or_default();
            let reply = self.reply(request, &slug, now, answer);
            match &reply {
                Ok(Reply::Won(_)) => link.waiters().taken(&slug, true),
                Ok(Reply::Busy { .. }) => link.waiters().taken(&slug, false),
                _ => {}
            }
            replies.push(reply);
        }
        let wanted = link.settings().replicas;
        if replicas < wanted && replies.iter().any(|reply| matches!(reply, Ok(Reply::Won(_)))) {
            self.give_back(requests, &mut replies, replicas).await;
        }
        Ok(replies)
    }

    /// Too few replicas have what was granted: nothing was.
    async fn give_back(
        &self,
        requests: &[Request],
        replies: &mut [Result<Reply<RedisLease>, BackendError>],
        replicas: u32,
    ) {
        let wanted = self.0.settings().replicas;
        for (request, reply) in requests.iter().zip(replies) {
            if !matches!(reply, Ok(Reply::Won(_))) {
                continue;
            }
            let why = format!(
                "only {replicas} of {wanted} replicas have the grant of lock {}: start replicas, or ask for fewer",
                request.key
            );
            let error = BackendError::new(Kind::Unavailable, why);
            *reply = Err(match self.revoke(&request.key, request.nonce, MarkAfter::Undo).await {
                Ok(_) => error,
                Err(_) => error.effect_unknown(),
            });
        }
    }

    fn reply(
        &self,
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
            _ => return Err(self.wrong(&script::ACQUIRE, &request.key, slug, &words)),
        })
    }

    /// A lock that is none of ours, or that failed alone.
    fn wrong(&self, script: &Script, key: &LockKey, slug: &str, words: &[Value]) -> BackendError {
        let settings = self.0.settings();
        match reply::text(words.first(), "answer") {
            Ok("error") => {
                let text = String::from_utf8_lossy(
                    reply::bytes(words.get(1), "error").unwrap_or_default(),
                );
                error::caught(settings, &format!("{} ({key})", script.doing), &text)
            }
            _ => reply::wrong(key, &settings.names.lock(slug), words),
        }
    }

    /// Gives back a lease, or whatever this nonce holds.
    async fn settle(
        &self,
        key: &LockKey,
        slug: &str,
        nonce: Nonce,
        mark: MarkAfter,
        revoke: bool,
    ) -> Result<Released, BackendError> {
        let names = &self.0.settings().names;
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
        let answer = self.0.repeat(&script::RELEASE, &call).await?;
        let words = second(answer)?;
        match reply::text(words.first(), "release")? {
            "done" => Ok(Released::Done),
            "other" => {
                let mark = match reply::text(words.get(1), "mark")? {
                    "" => None,
                    mark => Some(reply::mark(mark, "mark")?),
                };
                Ok(Released::NotOwner { mark })
            }
            _ => Err(self.wrong(&script::RELEASE, key, slug, &words)),
        }
    }

    async fn enroll_some(
        &self,
        jobs: &[Enrolment],
    ) -> Result<Vec<Result<Enrolled, BackendError>>, BackendError> {
        let names = &self.0.settings().names;
        let slugs: Vec<_> = jobs.iter().map(|job| job.key.slug()).collect();
        let mut call = Call::default();
        for (job, slug) in jobs.iter().zip(&slugs) {
            call.key(names.lock(slug));
            call.argument(job.key.as_str());
            call.argument(job.fingerprint.to_string());
        }
        let mut answers =
            reply::array(self.0.repeat(&script::ENROLL, &call).await?, "enrolment")?.into_iter();
        let head = answers.next();
        let now = reply::micros(reply::text(head.as_ref(), "time")?, "time")?;
        let enrolled = |key: &LockKey, slug: &str, answer: Value| {
            let words = reply::array(answer, "enrolment")?;
            let word = |at: usize| reply::text(words.get(at), "enrolment");
            if word(0)? != "ok" {
                return Err(self.wrong(&script::ENROLL, key, slug, &words));
            }
            let note = reply::note(reply::bytes(words.get(4), "note")?)?;
            let (last, schedule) = (reply::claim(word(2)?)?, reply::schedule(word(3)?)?);
            let mut enrolled = Enrolled::new(last, schedule, word(1)? == "1", note);
            enrolled.store_now = Some(now);
            Ok(enrolled)
        };
        Ok(jobs
            .iter()
            .zip(&slugs)
            .map(|(job, slug)| enrolled(&job.key, slug, answers.next().unwrap_or_default()))
            .collect())
    }

    async fn renew_some(
        &self,
        leases: &[&RedisLease],
        sent: LeaseInstant,
    ) -> Result<Vec<Result<Renewal, BackendError>>, BackendError> {
        let names = &self.0.settings().names;
        let mut call = Call::default();
        for lease in leases {
            call.key(names.lock(&lease.slug));
            call.argument(hex(lease.nonce));
            call.argument(lease.ttl.as_micros().to_string());
        }
        let mut answers = reply::array(self.0.repeat(&script::RENEW, &call).await?, "renewal")?
            .into_iter()
            .skip(1);
        let renewed = |lease: &RedisLease, answer: Value| match answer {
            Value::Int(1) => Ok(Renewal::Extended(Validity::Until { since: sent, ttl: lease.ttl })),
            Value::Int(0) => Ok(Renewal::NotOwner(Lost::TakenOver)),
            Value::Array(words) => Err(self.wrong(&script::RENEW, &lease.key, &lease.slug, &words)),
            _ => Err(Odd("renewal").into()),
        };
        Ok(leases.iter().map(|lease| renewed(lease, answers.next().unwrap_or_default())).collect())
    }
}

/// The name, nonce, node, times and claim of a request, as the script takes them.
fn ask(call: &mut Call, request: &Request) {
    call.argument(request.key.as_str());
    call.argument(hex(request.nonce));
    call.argument(request.node.as_str());
    call.argument(granted(request.ttl).as_micros().to_string());
    call.argument(request.longest_ttl.as_micros().to_string());
    let (tick, after, attempts) = match request.claim {
        None => (String::new(), String::new(), 0),
        Some(Claim { tick, after, delivery }) => {
            let attempts = match delivery {
                Delivery::AtLeastOnce { max_attempts } => max_attempts,
                _ => 0,
            };
            (
                tick.as_millis().to_string(),
                after.map_or_else(String::new, |after| after.as_millis().to_string()),
                attempts,
            )
        }
    };
    call.argument(tick);
    call.argument(after);
    call.argument(attempts.to_string());
}

/// What is granted for a ttl: whole milliseconds, rounded up.
fn granted(ttl: Duration) -> Duration {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).min(LONGEST)
}

const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

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
fn gone(key: &LockKey, node: solocron::lock::NodeId, mark: Mark) -> Holder {
    let mut holder = Holder::new(key.clone(), Nonce::from_u128(0), node, mark.timestamp());
    (holder.nonce, holder.tick, holder.living) = (None, Some(mark), false);
    holder
}

fn hex(nonce: Nonce) -> String {
    format!("{:032x}", nonce.as_u128())
}

/// The answer of a script about one lock: the store's time, and then the words.
fn second(answer: Value) -> reply::Result<Vec<Value>> {
    let mut answers = reply::array(answer, "answer")?;
    reply::array(answers.pop().unwrap_or_default(), "answer")
}

/// Spreads the failure of a whole call over everything that it was about.
fn each<T>(
    count: usize,
    outcome: Result<Vec<Result<T, BackendError>>, BackendError>,
) -> Vec<Result<T, BackendError>> {
    outcome.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
}

#[async_trait]
impl LockBackend for RedisBackend {
    type Lease = RedisLease;

    fn capabilities(&self) -> Capabilities {
        let ttl = TtlRange {
            min: Duration::from_millis(100),
            max: LONGEST,
            step: Duration::from_millis(1),
        };
        let mut capabilities = Capabilities::exclusion_only(Scope::Fleet);
        capabilities.fencing = Fencing::Stored;
        capabilities.marks = true;
        capabilities.ttl = Some(ttl);
        capabilities.wakes = true;
        capabilities.store_clock = true;
        capabilities.force_release = true;
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let mut answers = Vec::with_capacity(jobs.len());
        for some in jobs.chunks(BATCH) {
            answers.extend(each(some.len(), self.enroll_some(some).await));
        }
        answers
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<RedisLease>, BackendError>> {
        let mut replies = Vec::with_capacity(requests.len());
        for some in requests.chunks(BATCH) {
            replies.extend(each(some.len(), self.acquire(some).await));
        }
        replies
    }

    async fn renew(
        &self,
        leases: &[&RedisLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let mut answers = Vec::with_capacity(leases.len());
        for some in leases.chunks(RENEWALS) {
            answers.extend(each(some.len(), self.renew_some(some, sent).await));
        }
        answers
    }

    async fn release(&self, lease: &RedisLease, mark: MarkAfter) -> Result<Released, BackendError> {
        self.settle(&lease.key, &lease.slug, lease.nonce, mark, false).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.settle(key, &key.slug(), nonce, mark, true).await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        Ok(Some(Box::new(RedisWatch::begin(&self.0, key).await?)))
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        let link = &self.0;
        let session = link.session().await?;
        let answer = link.send(&session, &script::OPEN, &session.question(link)).await?;
        let words = reply::array(answer, "epoch")?;
        let epoch = reply::text(words.first(), "epoch")?;
        link.learn(epoch);
        memory::number(epoch).ok_or_else(|| Odd("epoch").into())
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        self.list(prefix).await.map(Some)
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        if body.len() > Note::MAX_BYTES {
            let why = format!(
                "a note of {} bytes is longer than the limit of {} bytes: shorten it",
                body.len(),
                Note::MAX_BYTES
            );
            return Err(BackendError::new(Kind::Unsupported, why));
        }
        let slug = key.slug();
        let mut call = Call::default();
        call.key(self.0.settings().names.lock(&slug));
        call.argument(key.as_str());
        call.argument(expected.to_string());
        call.argument(expected.saturating_add(1).to_string());
        call.argument(body);
        let words = second(self.0.repeat(&script::NOTE, &call).await?)?;
        match reply::text(words.first(), "note")? {
            "ok" => Ok(reply::note(reply::bytes(words.get(1), "note")?)?),
            _ => Err(self.wrong(&script::NOTE, key, &slug, &words)),
        }
    }
}

impl RedisBackend {
    /// Looks through the whole database, a page at a time: an operator's question, not a program's.
    async fn list(&self, prefix: &str) -> Result<Vec<Holder>, BackendError> {
        const PAGE: u32 = 1000;
        let link = &self.0;
        let session = link.session().await?;
        let pattern = link.settings().names.locks_like(prefix);
        let mut holders = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE);
            let mut page = reply::array(
                link.ask(&session, "list the holders of locks", &scan).await?,
                "page",
            )?;
            let keys = reply::array(page.pop().unwrap_or_default(), "page")?;
            cursor = reply::text(page.first(), "page")?.to_owned();
            let mut call = Call::default();
            for key in &keys {
                // A page may repeat what was on another one.
                let key = reply::text(Some(key), "page")?;
                if seen.insert(key.to_owned()) {
                    call.key(key.to_owned());
                }
            }
            if !call.is_empty() {
                let mut answers =
                    reply::array(link.repeat(&script::HOLDERS, &call).await?, "holders")?
                        .into_iter();
                let now = answers.next();
                let now = reply::micros(reply::text(now.as_ref(), "time")?, "time")?;
                for answer in answers {
                    let words = reply::array(answer, "holder")?;
                    let name = reply::text(words.first(), "holder")?;
                    if name.starts_with(prefix)
                        && let Ok(key) = LockKey::new(name)
                    {
                        holders.push(reply::holder(
                            &key,
                            reply::text(words.get(1), "holder")?,
                            now,
                        )?);
                    }
                }
            }
            if cursor == "0" {
                return Ok(holders);
            }
        }
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.0.settings();
        f.debug_struct("RedisBackend")
            .field("address", &settings.address)
            .field("namespace", &settings.names.namespace())
            .finish()
    }
}
