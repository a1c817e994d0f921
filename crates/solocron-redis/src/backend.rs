//! The driver: turns requests into scripts, and answers into replies.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Fencing, Holder, LockBackend, LockKey, MarkAfter,
    Nonce, Note, Released, Renewal, Reply, Request, Scope, TtlRange, Watch,
};
use solocron::{BackendError, Kind, LeaseInstant};

use crate::config::{RedisBuilder, Settings};
use crate::lease::RedisLease;
use crate::link::Link;
use crate::memory;
use crate::reply::{self, Odd};
use crate::script;
use crate::waiters::RedisWatch;
use crate::wire::{self, Attempted, Call};

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
        let settings = link.settings();
        let session = link.session().await?;
        let slugs: Vec<_> = requests.iter().map(|request| request.key.slug()).collect();
        let call =
            wire::acquire(&settings.names, &session.run, link.memory().known(), requests, &slugs);
        let (answer, replicas) = link.grant(&session, &script::ACQUIRE, &call).await?;
        let mut attempted = Attempted::read(answer)?;
        link.learn(&attempted.epoch);
        let mut replies = Vec::with_capacity(requests.len());
        for (request, slug) in requests.iter().zip(slugs) {
            let answer = attempted.answers.next().unwrap_or_default();
            let reply = wire::replied(settings, request, &slug, attempted.now, answer);
            match &reply {
                Ok(Reply::Won(_)) => link.waiters().taken(&slug, true),
                Ok(Reply::Busy { .. }) => link.waiters().taken(&slug, false),
                _ => {}
            }
            replies.push(reply);
        }
        if replicas < settings.replicas {
            self.hold_back(requests, &mut replies, replicas);
        }
        Ok(replies)
    }

    /// Too few replicas have what was granted. Not revoked here: grants travel on a connection of their own, and a revocation could
    /// overtake a second copy of the request, or come after it. The core asks again, which waits again, or revokes in the end.
    fn hold_back(
        &self,
        requests: &[Request],
        replies: &mut [Result<Reply<RedisLease>, BackendError>],
        replicas: u32,
    ) {
        let wanted = self.0.settings().replicas;
        for (request, reply) in requests.iter().zip(replies) {
            if matches!(reply, Ok(Reply::Won(_))) {
                let why = format!(
                    "only {replicas} of {wanted} replicas have the grant of lock {}: start replicas, or ask for fewer",
                    request.key
                );
                *reply = Err(BackendError::new(Kind::Unavailable, why).effect_unknown());
            }
        }
    }

    async fn settle(
        &self,
        key: &LockKey,
        slug: &str,
        nonce: Nonce,
        mark: MarkAfter,
        revoke: bool,
    ) -> Result<Released, BackendError> {
        let settings = self.0.settings();
        let call = wire::release(&settings.names, key, slug, nonce, mark, revoke);
        wire::released(settings, key, slug, self.0.repeat(&script::RELEASE, &call).await?)
    }

    async fn enroll_some(
        &self,
        jobs: &[Enrolment],
    ) -> Result<Vec<Result<Enrolled, BackendError>>, BackendError> {
        let settings = self.0.settings();
        let call = wire::enroll(&settings.names, jobs);
        wire::enrolled(settings, jobs, self.0.repeat(&script::ENROLL, &call).await?)
    }

    async fn renew_some(
        &self,
        leases: &[&RedisLease],
        sent: LeaseInstant,
    ) -> Result<Vec<Result<Renewal, BackendError>>, BackendError> {
        let settings = self.0.settings();
        let call = wire::renew(&settings.names, leases);
        wire::renewed(settings, leases, sent, self.0.repeat(&script::RENEW, &call).await?)
    }

    /// Looks through the whole database, a page at a time: an operator's question, not a program's.
    async fn list(&self, prefix: &str) -> Result<Vec<Holder>, BackendError> {
        const PAGE: u32 = 1000;
        let link = &self.0;
        let session = link.session().await?;
        let pattern = link.settings().names.locks_like(prefix);
        let (mut holders, mut seen) = (Vec::new(), HashSet::new());
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE);
            let page = link.ask(&session, script::HOLDERS.doing, &scan).await?;
            let mut page = reply::array(page, "page")?;
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
            if !call.keys.is_empty() {
                holders.extend(wire::holders(prefix, link.repeat(&script::HOLDERS, &call).await?)?);
            }
            if cursor == "0" {
                return Ok(holders);
            }
        }
    }
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
            max: wire::LONGEST,
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
        let call = wire::open(&link.settings().names, &session.run, link.memory().known());
        let words = reply::array(link.send(&session, &script::OPEN, &call).await?, "epoch")?;
        let epoch = wire::opened(&words)?;
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
        let settings = self.0.settings();
        let call = wire::note(&settings.names, key, expected, body);
        wire::noted(settings, key, self.0.repeat(&script::NOTE, &call).await?)
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
