//! The driver: turns requests into scripts, and answers into replies.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Fencing, Holder, LockBackend, LockKey, MarkAfter,
    Nonce, Note, Released, Renewal, Reply, Request, Scope, TtlRange, Watch,
};
use solocron::{BackendError, Kind, LeaseInstant};

use crate::config::{RedisBuilder, Settings};
use crate::lease::RedisLease;
use crate::link::Link;
use crate::record::Bytes;
use crate::reply::{self, Odd};
use crate::script;
use crate::session::Session;
use crate::waiters::{RedisWatch, Waiters};
use crate::wire::{self, Call, Place, Return};

/// Keys in one script call; more go in several calls, sent together. Larger: fewer calls. Smaller: nobody else waits for long behind one.
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
        // As long as one attempt may take, so that it is told why it failed.
        let limit = self.0.settings().request_timeout * 3;
        self.0.session_within(limit).await.map(drop)
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
        session: &Session,
        requests: &[Request],
    ) -> Result<Vec<Result<Reply<RedisLease>, BackendError>>, BackendError> {
        let link = &self.0;
        let settings = link.settings();
        let slugs: Vec<_> = requests.iter().map(|request| request.key.slug()).collect();
        let known = link.memory().known(&session.run);
        let mut joining = link.waiters().join(requests);
        let places = joining.places();
        let call = wire::acquire(&settings.names, &session.run, &known, requests, &slugs, &places);
        let (answer, replicas) = link.grant(session, &script::ACQUIRE, &call).await?;
        let mut answers = Bytes::of(&answer, "attempt")?;
        let now = link.learn_from(&mut answers)?;
        let mut replies = Vec::with_capacity(requests.len());
        for (at, (request, slug)) in requests.iter().zip(slugs).enumerate() {
            let waits = places.get(at).is_some_and(Place::is_wanted);
            let mut in_line = false;
            let mut reply = match answers.frame() {
                Ok(answer) => {
                    in_line = wire::in_line(answer);
                    wire::replied(settings, request, &slug, now, answer, waits)
                }
                Err(odd) => Err(odd.into()),
            };
            joining.answered(at, link, &mut reply, in_line, request.first_sent, now);
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

    /// One attempt, together with what others ask at the same time where that is faster.
    async fn acquire_one(&self, request: &Request) -> Result<Reply<RedisLease>, BackendError> {
        let session = self.0.session().await?;
        let alone = async {
            let outcome = self.acquire(&session, std::slice::from_ref(request)).await?;
            outcome.into_iter().next().unwrap_or_else(|| Err(Odd("attempt").into()))
        };
        let Some(lane) = &session.lane else { return alone.await };
        let backend = self.clone();
        let send = move |requests: Vec<Request>| {
            let backend = backend.clone();
            async move { backend.acquire_all(&requests).await }
        };
        let answer = lane.acquires.ask(|| request.clone(), alone, send).await;
        answer.unwrap_or_else(|| Err(unanswered()))
    }

    async fn acquire_all(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<RedisLease>, BackendError>> {
        let session = match self.0.session().await {
            Ok(session) => session,
            Err(error) => return each(requests.len(), Err(error)),
        };
        let batches = requests
            .chunks(BATCH)
            .map(async |some| each(some.len(), self.acquire(&session, some).await));
        join_all(batches).await.into_iter().flatten().collect()
    }

    /// Gives back, together with what others give back at the same time where that is faster.
    async fn settle(&self, returned: Return) -> Result<Released, BackendError> {
        let session = self.0.session().await?;
        let alone = async {
            let outcome = self.settle_some(&session, std::slice::from_ref(&returned)).await?;
            outcome.into_iter().next().unwrap_or_else(|| Err(Odd("release").into()))
        };
        let Some(lane) = &session.lane else { return alone.await };
        let backend = self.clone();
        let send = move |returns: Vec<Return>| {
            let backend = backend.clone();
            async move { backend.settle_all(&returns).await }
        };
        let answer = lane.releases.ask(|| returned.clone(), alone, send).await;
        answer.unwrap_or_else(|| Err(unanswered()))
    }

    async fn settle_all(&self, returns: &[Return]) -> Vec<Result<Released, BackendError>> {
        let session = match self.0.session().await {
            Ok(session) => session,
            Err(error) => return each(returns.len(), Err(error)),
        };
        let batches = returns
            .chunks(BATCH)
            .map(async |some| each(some.len(), self.settle_some(&session, some).await));
        join_all(batches).await.concat()
    }

    async fn settle_some(
        &self,
        session: &Session,
        returns: &[Return],
    ) -> Result<Vec<Result<Released, BackendError>>, BackendError> {
        let settings = self.0.settings();
        let known = self.0.memory().known(&session.run);
        let call = wire::release(&settings.names, &known, returns);
        let answer = self.0.repeat_on(session, &script::RELEASE, &call).await?;
        let (_, mut answers) = wire::frames(&answer)?;
        let read = |returned| wire::released(settings, returned, answers.frame()?);
        Ok(returns.iter().map(read).collect())
    }

    async fn enroll_some(
        &self,
        jobs: &[Enrolment],
    ) -> Result<Vec<Result<Enrolled, BackendError>>, BackendError> {
        let settings = self.0.settings();
        let call = wire::enroll(&settings.names, jobs);
        wire::enrolled(settings, jobs, &self.0.repeat(&script::ENROLL, &call).await?)
    }

    async fn renew_some(
        &self,
        leases: &[&RedisLease],
        sent: LeaseInstant,
    ) -> Result<Vec<Result<Renewal, BackendError>>, BackendError> {
        let settings = self.0.settings();
        let call = wire::renew(&settings.names, leases);
        wire::renewed(settings, leases, sent, &self.0.repeat(&script::RENEW, &call).await?)
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
                let answer = link.repeat(&script::HOLDERS, &call).await?;
                holders.extend(wire::holders(prefix, &answer)?);
            }
            if cursor == "0" {
                return Ok(holders);
            }
        }
    }
}

/// It was to be sent with others, and whoever was to do it is gone.
fn unanswered() -> BackendError {
    BackendError::new(Kind::Unavailable, "the runtime that was to send this is gone")
        .effect_unknown()
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
        let batches =
            jobs.chunks(BATCH).map(async |some| each(some.len(), self.enroll_some(some).await));
        join_all(batches).await.concat()
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<RedisLease>, BackendError>> {
        match requests {
            [request] => match Waiters::pick_up(&self.0, request) {
                Some(grant) => vec![grant],
                None => vec![self.acquire_one(request).await],
            },
            requests => self.acquire_all(requests).await,
        }
    }

    async fn renew(
        &self,
        leases: &[&RedisLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let batches = leases
            .chunks(RENEWALS)
            .map(async |some| each(some.len(), self.renew_some(some, sent).await));
        join_all(batches).await.concat()
    }

    async fn release(&self, lease: &RedisLease, mark: MarkAfter) -> Result<Released, BackendError> {
        let (key, slug, nonce) = (lease.key.clone(), lease.slug.clone(), lease.nonce);
        self.0.waiters().spent(nonce);
        self.settle(Return { key, slug, nonce, mark, revoke: false, leave: None }).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let (key, slug) = (key.clone(), key.slug());
        self.0.waiters().spent(nonce);
        self.settle(Return { key, slug, nonce, mark, revoke: true, leave: None }).await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        Ok(Some(Box::new(RedisWatch::begin(&self.0, key))))
    }

    async fn settled(&self) {
        let mut leaving = self.0.waiters().leaving.subscribe();
        // It lives as long as this.
        let _ = leaving.wait_for(|leaving| *leaving == 0).await;
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        let link = &self.0;
        let session = link.session().await?;
        let known = link.memory().known(&session.run);
        let call = wire::open(&link.settings().names, &session.run, &known);
        let answer = link.send(&session, &script::OPEN, &call).await?;
        link.learn_from(&mut Bytes::of(&answer, "epoch")?)?;
        link.memory().number().ok_or_else(|| Odd("epoch").into())
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
        wire::noted(settings, key, &self.0.repeat(&script::NOTE, &call).await?)
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
