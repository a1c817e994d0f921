//! What a user holds: all locks of one backend.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;

use super::attempt::{Known, Outcome, attempt};
use super::backend::{
    Claim, Enrolled, Enrolment, Epoch, Holder, LockBackend, MarkAfter, Note, Released, Reply, Watch,
};
use super::driver::{Driver, Erased};
use super::guard::{ClaimGuard, LockGuard};
use super::keep::Keep;
use super::keeper::Keeper;
use super::key::Nonces;
use super::options::{LockOptions, Timing};
use super::{Capabilities, LockKey, Mark, MemoryBackend, NodeId, Nonce};
use crate::clock::{Clock, LeaseInstant, SystemClock, within};
use crate::error::{BackendError, Error, Invalid, Kind, Result};

/// All locks of one backend, seen from one node. Clones are the same node.
///
/// ```
/// use std::time::Duration;
/// use solocron::lock::{Locks, MemoryBackend};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let locks = Locks::new(MemoryBackend::new())?;
/// let guard = locks.lock("report", Duration::from_secs(5)).await?;
/// let written = guard.run(async { "the report" }).await?;
/// guard.release().await?;
/// # assert_eq!(written, "the report");
/// # Ok::<(), solocron::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Locks {
    keep: Arc<Keep>,
    gates: Arc<Mutex<Gates>>,
    node: NodeId,
    timing: Timing,
    longest_ttl: Duration,
}

/// What this process knows of waiting for keys.
#[derive(Debug, Default)]
struct Gates {
    /// One queue per key and process: only its head goes to the network.
    queues: HashMap<LockKey, Weak<tokio::sync::Mutex<()>>>,
    /// Keys that were busy when somebody last came to wait for them.
    contended: HashSet<LockKey>,
}

impl Gates {
    /// More are not remembered: it costs whoever waits one attempt to find out.
    const CONTENDED: usize = 1024;
}

/// The answer of [`Locks::try_lock`].
#[derive(Debug)]
#[must_use]
pub enum TryLock {
    /// It is mine.
    Won(LockGuard),
    /// Somebody has it; who, if the backend knows.
    Busy(Option<Box<Holder>>),
}

impl TryLock {
    /// The guard, if it was won.
    pub fn won(self) -> Option<LockGuard> {
        match self {
            Self::Won(guard) => Some(guard),
            Self::Busy(_) => None,
        }
    }
}

/// The answer of [`Locks::claim`].
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum ClaimReply {
    /// The tick is mine, and so is the lease.
    Won(Box<ClaimGuard>),
    /// This tick, or a later one, is already claimed.
    Stale {
        /// The last claimed tick.
        mark: Mark,
        /// Whether its run has ended.
        done: bool,
        /// Who runs it now ([`Holder::living`]), or claimed it last.
        owner: Option<Box<Holder>>,
    },
    /// A run still holds the key.
    Busy(Option<Box<Holder>>),
    /// An earlier tick goes first: `mark` itself if it is unfinished, else the first one after it.
    Behind {
        /// The last claimed tick.
        mark: Mark,
        /// Whether `mark` itself is to be claimed again.
        unfinished: bool,
    },
    /// The tick lies in the future of the store's clock.
    Early {
        /// The store's clock.
        store_now: Timestamp,
    },
}

impl ClaimReply {
    fn of(outcome: Outcome, tick: Mark) -> Self {
        match outcome {
            Outcome::Won(guard, told) => Self::Won(Box::new(ClaimGuard::new(guard, tick, told))),
            Outcome::Lost { reply: Reply::Stale { mark, done, owner }, .. } => {
                Self::Stale { mark, done, owner }
            }
            Outcome::Lost { reply: Reply::Busy { holder }, .. } => Self::Busy(holder),
            Outcome::Lost { reply: Reply::Behind { mark, unfinished }, .. } => {
                Self::Behind { mark, unfinished }
            }
            Outcome::Lost { reply: Reply::Early { store_now }, .. } => Self::Early { store_now },
            Outcome::Lost { reply: Reply::Won(_), .. } => {
                unreachable!("a won reply became a guard")
            }
        }
    }

    /// The claimed tick, if it was won.
    #[must_use]
    pub fn won(self) -> Option<ClaimGuard> {
        match self {
            Self::Won(guard) => Some(*guard),
            _ => None,
        }
    }
}

/// Settings of [`Locks`].
#[derive(Debug)]
pub struct LocksBuilder {
    driver: Arc<dyn Driver>,
    options: LockOptions,
    longest_ttl: Option<Duration>,
    clock: Arc<dyn Clock>,
    keeper: Option<Keeper>,
    node: NodeId,
}

impl LocksBuilder {
    /// The options of every lock that is not given others. Default [`LockOptions::default`].
    #[must_use]
    pub fn options(mut self, options: LockOptions) -> Self {
        self.options = options;
        self
    }

    /// The longest ttl that anybody uses in this namespace: how long a store that forgot everything waits before it grants again.
    /// Default: the ttl of [`options`](Self::options).
    #[must_use]
    pub fn longest_ttl(mut self, ttl: Duration) -> Self {
        self.longest_ttl = Some(ttl);
        self
    }

    /// The node's clocks. Default [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where renewals run. Default [`Keeper::thread`].
    #[must_use]
    pub fn keeper(mut self, keeper: Keeper) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// The node's name. Default [`NodeId::unique`].
    #[must_use]
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }

    /// The locks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where options contradict each other or the backend cannot grant the ttl; [`Error::Backend`] where the
    /// operating system gives no thread to renew on.
    pub fn build(self) -> Result<Locks> {
        let Self { driver, options, longest_ttl, clock, keeper, node } = self;
        let timing = options.timing()?.fit(driver.capabilities().ttl)?;
        let longest_ttl = longest_ttl.unwrap_or(timing.ttl);
        if longest_ttl < timing.ttl {
            let why =
                format!("it is shorter than the ttl of {:?} in use here: raise it", timing.ttl);
            return Err(Invalid::new("longest_ttl", format_args!("{longest_ttl:?}"), why).into());
        }
        let keeper = match keeper {
            Some(keeper) => keeper,
            None => Keeper::thread().map_err(|error| Error::Backend {
                doing: "start the thread that renews leases",
                key: None,
                source: BackendError::new(Kind::Unavailable, error),
            })?,
        };
        Ok(Locks {
            keep: Arc::new(Keep::new(driver, clock, keeper)),
            gates: Arc::default(),
            node,
            timing,
            longest_ttl,
        })
    }
}

impl Locks {
    /// The locks of `backend`, with every default.
    ///
    /// # Errors
    ///
    /// As [`LocksBuilder::build`].
    pub fn new(backend: impl LockBackend) -> Result<Self> {
        Self::builder(backend).build()
    }

    /// The locks of `backend`, with settings.
    pub fn builder(backend: impl LockBackend) -> LocksBuilder {
        LocksBuilder {
            driver: Arc::new(Erased(backend)),
            options: LockOptions::default(),
            longest_ttl: None,
            clock: Arc::new(SystemClock),
            keeper: None,
            node: NodeId::unique(),
        }
    }

    /// The same locks, taken with other options.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where they contradict each other, the backend, or the namespace's longest ttl.
    pub fn with_options(&self, options: LockOptions) -> Result<Self> {
        let timing = options.timing()?.fit(self.capabilities().ttl)?;
        if timing.ttl > self.longest_ttl {
            let why = format!(
                "it is longer than the namespace's longest ttl of {:?}: raise that with LocksBuilder::longest_ttl",
                self.longest_ttl
            );
            return Err(Invalid::new("ttl", format_args!("{:?}", timing.ttl), why).into());
        }
        Ok(Self { timing, ..self.clone() })
    }

    /// What the backend promises.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.keep.driver.capabilities()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.keep.clock
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keep.keeper
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.timing.ttl
    }

    /// The same locks, held for as long as their guards live.
    pub(crate) fn unlimited(&self) -> Self {
        Self { timing: Timing { max_runtime: None, ..self.timing }, ..self.clone() }
    }

    /// Locks in the memory of this process, with the same node, clock, keeper and options: where a leader keeps marks whose
    /// backend keeps none.
    pub(crate) fn ledger(&self) -> Self {
        let clock = Arc::clone(self.clock());
        let backend = MemoryBackend::with_clock(Arc::clone(&clock)).process_bound();
        let keep = Keep::new(Arc::new(Erased(backend)), clock, self.keeper().clone());
        Self { keep: Arc::new(keep), gates: Arc::default(), ..self.clone() }
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where nobody knows whether it is free. Nothing is held then, and what may have been granted is given
    /// back in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives back what it may have won.
    pub async fn try_lock<K>(&self, key: K) -> Result<TryLock>
    where
        K: TryInto<LockKey>,
        Error: From<K::Error>,
    {
        self.try_key(key.try_into()?.not_reserved()?).await
    }

    /// [`try_lock`](Self::try_lock), of a reserved name too.
    pub(crate) async fn try_key(&self, key: LockKey) -> Result<TryLock> {
        self.try_as(key, Nonce::random()).await.map(|(outcome, _)| outcome)
    }

    /// [`try_key`](Self::try_key), as the acquisition `nonce`. Says also whether that was revoked meanwhile.
    async fn try_as(&self, key: LockKey, nonce: Nonce) -> Result<(TryLock, bool)> {
        let mut outcome = None;
        let one = |known: Vec<Known>| outcome = known.into_iter().next();
        self.attempt(vec![(key.clone(), None)], [nonce], one).await;
        match outcome.expect("one request, one answer").1 {
            Ok(Outcome::Won(mut guard, _)) => {
                guard.on_drop(MarkAfter::Done);
                Ok((TryLock::Won(guard), false))
            }
            Ok(Outcome::Lost { reply: Reply::Busy { holder }, revoked }) => {
                Ok((TryLock::Busy(holder), revoked))
            }
            Ok(Outcome::Lost { reply, .. }) => {
                let why = format!(
                    "a plain lock was answered with {reply:?}, which is an answer to a claim"
                );
                Err(self.failed("take lock", &key, BackendError::new(Kind::Corrupt, why)))
            }
            Err(error) => Err(self.failed("take lock", &key, error)),
        }
    }

    /// Takes the lock, waiting for it for up to `timeout`. Waiters on one [`Locks`] and its clones queue in order and only
    /// the first of them goes to the store; where the backend can push, nobody polls.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], naming the holder; [`Error::Backend`] where the store gives an answer that waiting cannot mend.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue and gives back what it may have won.
    pub async fn lock<K>(&self, key: K, timeout: Duration) -> Result<LockGuard>
    where
        K: TryInto<LockKey>,
        Error: From<K::Error>,
    {
        let key = key.try_into()?.not_reserved()?;
        let mut holder = None;
        let deadline = self.clock().lease_now() + timeout;
        let waiting = self.wait_for(&key, deadline, &mut holder);
        match within(&**self.clock(), timeout, waiting).await {
            Some(Some(outcome)) => outcome,
            Some(None) | None => Err(Error::TimedOut { key, waited: timeout, holder }),
        }
    }

    /// One acquisition from its first attempt to the last: all have one nonce, for as long as each is answered, so that a backend
    /// which keeps lines may grant it in between. `None`: the deadline has passed.
    ///
    /// ```text
    ///   attempt ─► Busy ─► watch ─► attempt, which gets in line ─► Busy ─► news, or the holder's lease ends ─► attempt ─► Won
    ///                        ▲
    ///   busy the last time ──┘
    /// ```
    async fn wait_for(
        &self,
        key: &LockKey,
        deadline: LeaseInstant,
        last_holder: &mut Option<Box<Holder>>,
    ) -> Option<Result<LockGuard>> {
        /// A pushed wake-up can be lost with its connection, so no wait is endless.
        const CAP: Duration = Duration::from_secs(5);
        const POLL: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

        let gate = self.gate(key);
        let _first_in_line = gate.lock().await;
        let mut nonce = Nonce::random();
        let contended = self.is_contended(key);
        let mut watch = if contended { self.watch_as(key, nonce).await } else { None };
        let mut free = true;
        let mut poll = POLL[0];
        loop {
            let wait = match self.try_as(key.clone(), nonce).await {
                Ok((TryLock::Won(guard), _)) => {
                    if free == contended {
                        self.set_contended(key, !free);
                    }
                    return Some(Ok(guard));
                }
                Ok((TryLock::Busy(holder), revoked)) => {
                    free = false;
                    if revoked {
                        // It may be granted all the same, and then taken away again: another acquisition, which waits until that is
                        // over.
                        nonce = another(&mut watch);
                        *last_holder = holder;
                        if self.clock().lease_now() >= deadline {
                            return None;
                        }
                        continue;
                    }
                    let lease_ends = holder
                        .as_ref()
                        .and_then(|holder| holder.remaining)
                        .map(|left| left + Duration::from_millis(1));
                    *last_holder = holder;
                    lease_ends.unwrap_or(CAP).min(CAP)
                }
                Err(Error::Backend { source, .. }) if source.kind().is_transient() => {
                    // What became of this nonce is settled by others, or it is used up: another acquisition, at the end of the line.
                    nonce = another(&mut watch);
                    if self.clock().lease_now() >= deadline {
                        return None;
                    }
                    poll = (poll * 2).min(POLL[1]);
                    let pause = source.retry_after().unwrap_or(poll).clamp(POLL[0], CAP);
                    self.clock().sleep(pause).await;
                    continue;
                }
                Err(error) => return Some(Err(error)),
            };
            if self.clock().lease_now() >= deadline {
                return None;
            }
            let Some(watching) = &mut watch else {
                // Watch first, then try again, then wait: a release in between must not be missed.
                watch = self.watch_as(key, nonce).await;
                if watch.is_none() {
                    self.clock().sleep(wait.min(poll)).await;
                    poll = (poll * 2).min(POLL[1]);
                }
                continue;
            };
            within(&**self.clock(), wait, watching.changed()).await;
        }
    }

    /// A watch for the acquisition `nonce` to wait at.
    async fn watch_as(&self, key: &LockKey, nonce: Nonce) -> Option<PacedWatch> {
        let mut watch = self.watch(key).await?;
        watch.wait_as(nonce);
        Some(watch)
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        // Every change is complete in itself.
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether whoever waited for `key` last found it busy.
    fn is_contended(&self, key: &LockKey) -> bool {
        let gates = self.gates();
        !gates.contended.is_empty() && gates.contended.contains(key)
    }

    fn set_contended(&self, key: &LockKey, contended: bool) {
        let mut gates = self.gates();
        if !contended {
            gates.contended.remove(key);
            return;
        }
        if gates.contended.len() >= Gates::CONTENDED {
            gates.contended.clear();
        }
        gates.contended.insert(key.clone());
    }

    /// The queue of this process for `key`.
    pub(crate) fn gate(&self, key: &LockKey) -> Arc<tokio::sync::Mutex<()>> {
        let queues = &mut self.gates().queues;
        if let Some(gate) = queues.get(key).and_then(Weak::upgrade) {
            return gate;
        }
        queues.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::default();
        queues.insert(key.clone(), Arc::downgrade(&gate));
        gate
    }

    /// Makes these jobs take claims, and reads what is on record for them. Claims of a job that was never enrolled fail.
    ///
    /// # Errors
    ///
    /// [`Error::Lacks`] where the backend keeps no marks; [`Error::Invalid`] for a [reserved](LockKey::RESERVED) name;
    /// [`Error::Backend`] for the first job that failed.
    ///
    /// # Cancel safety
    ///
    /// Enrolling again is harmless.
    pub async fn enroll(&self, jobs: &[Enrolment]) -> Result<Vec<Enrolled>> {
        if !self.capabilities().marks {
            return Err(Error::Lacks {
                need: "marks",
                instead: "it cannot claim ticks; pick a backend that keeps marks".into(),
            });
        }
        for job in jobs {
            job.key.clone().not_reserved()?;
        }
        let answers = self.enroll_each(jobs).await.into_iter().zip(jobs);
        answers
            .map(|(enrolled, job)| {
                enrolled.map_err(|source| self.failed("enroll job", &job.key, source))
            })
            .collect()
    }

    pub(crate) async fn enroll_each(
        &self,
        jobs: &[Enrolment],
    ) -> Vec<Result<Enrolled, BackendError>> {
        let limit = self.timing.request_timeout;
        let answers = within(&**self.clock(), limit, self.keep.driver.enroll(jobs)).await;
        answers.unwrap_or_else(|| jobs.iter().map(|_| Err(BackendError::timeout(limit))).collect())
    }

    /// Claims one tick of an [enrolled](Self::enroll) job.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where nobody knows; nothing is claimed then, or it is given back in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future undoes what it may have won.
    ///
    /// ```
    /// use solocron::lock::{Claim, ClaimReply, Delivery, Enrolment, LockKey, Locks, Mark, MemoryBackend};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let (key, locks) = (LockKey::new("report")?, Locks::new(MemoryBackend::new())?);
    /// locks.enroll(&[Enrolment { key: key.clone(), fingerprint: 0 }]).await?;
    /// # tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    /// let tick = Mark::floor(jiff::Timestamp::now());
    /// let claim = Claim { tick, after: None, delivery: Delivery::AtMostOnce };
    /// let claimed = locks.claim(key.clone(), claim).await?.won().expect("nobody else is here");
    /// claimed.lease.release().await?;
    /// // Once is enough, however short the run was.
    /// assert!(matches!(locks.claim(key, claim).await?, ClaimReply::Stale { done: true, .. }));
    /// # Ok::<(), solocron::Error>(()) }).unwrap();
    /// ```
    pub async fn claim<K>(&self, key: K, claim: Claim) -> Result<ClaimReply>
    where
        K: TryInto<LockKey>,
        Error: From<K::Error>,
    {
        let key = key.try_into()?.not_reserved()?;
        let mut reply = None;
        let one = |known: Vec<_>| reply = known.into_iter().next();
        self.claim_each(vec![(key.clone(), claim)], one).await;
        let (_, reply) = reply.expect("one claim, one answer");
        let mut reply = reply.map_err(|source| self.failed("claim a tick of", &key, source))?;
        if let ClaimReply::Won(claimed) = &mut reply {
            // The caller has it now and may have acted on it: from here on, only an explicit undo takes the tick back.
            claimed.lease.on_drop(MarkAfter::Unfinished);
        }
        Ok(reply)
    }

    /// Claims many ticks in one round trip where the store can; `answer` gets replies, each with its place in `claims`, as soon as
    /// they are known. A claimed tick whose guard is dropped is undone.
    pub(crate) async fn claim_each(
        &self,
        claims: Vec<(LockKey, Claim)>,
        mut answer: impl FnMut(Vec<(usize, Result<ClaimReply, BackendError>)>),
    ) {
        let ticks: Vec<_> = claims.iter().map(|(_, claim)| claim.tick).collect();
        let wanted = claims.into_iter().map(|(key, claim)| (key, Some(claim))).collect();
        let reply =
            |(at, outcome): Known| (at, outcome.map(|outcome| ClaimReply::of(outcome, ticks[at])));
        let nonces = Nonces::random(ticks.len());
        self.attempt(wanted, nonces, |known| answer(known.into_iter().map(reply).collect())).await;
    }

    async fn attempt(
        &self,
        wanted: Vec<(LockKey, Option<Claim>)>,
        nonces: impl IntoIterator<Item = Nonce>,
        answer: impl FnMut(Vec<Known>),
    ) {
        let Self { keep, node, timing, longest_ttl, .. } = self;
        attempt(keep, node, *timing, *longest_ttl, wanted, nonces, answer).await;
    }

    /// Pushed news about a key, where the backend has any.
    pub(crate) async fn watch(&self, key: &LockKey) -> Option<PacedWatch> {
        let limit = self.timing.request_timeout;
        let watch = within(&**self.clock(), limit, self.keep.driver.watch(key))
            .await
            .and_then(Result::ok)
            .flatten();
        watch.map(|watch| PacedWatch { watch, clock: Arc::clone(self.clock()), hasty: 0 })
    }

    pub(crate) async fn epoch(&self) -> Result<Epoch, BackendError> {
        let limit = self.timing.request_timeout;
        within(&**self.clock(), limit, self.keep.driver.epoch())
            .await
            .unwrap_or_else(|| Err(BackendError::timeout(limit)))
    }

    /// Who holds the locks whose names begin with `prefix`; the empty prefix means all. `None`: the backend cannot tell.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where the store does not answer.
    pub async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>> {
        let answer =
            within(&**self.clock(), self.timing.request_timeout, self.keep.driver.holders(prefix))
                .await;
        let answer =
            answer.unwrap_or_else(|| Err(BackendError::timeout(self.timing.request_timeout)));
        answer.map_err(|source| Error::Backend {
            doing: "list the holders of locks",
            key: None,
            source,
        })
    }

    /// Frees a lock that somebody else holds, exactly as `holder` says: whoever holds it by the time this arrives is not hit. The
    /// holder's tick stays claimed and unfinished.
    ///
    /// # Errors
    ///
    /// [`Error::Lacks`] where the backend cannot, or does not tell who holds what; [`Error::Backend`] where the store refuses.
    pub async fn force_release(&self, holder: &Holder) -> Result<Released> {
        let (Some(nonce), true) = (holder.nonce, self.capabilities().force_release) else {
            return Err(Error::Lacks {
                need: "force-release",
                instead: format!("end the process of {} instead", holder.node).into(),
            });
        };
        let call = self.keep.driver.revoke(&holder.key, nonce, MarkAfter::Unfinished);
        let answer = within(&**self.clock(), self.timing.request_timeout, call).await;
        let answer =
            answer.unwrap_or_else(|| Err(BackendError::timeout(self.timing.request_timeout)));
        answer.map_err(|source| self.failed("free lock", &holder.key, source))
    }

    /// Replaces the note of a key if its version is still `expected` (0 for one that was never written). Answers with the note
    /// that stands now: yours if its version is one higher.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where the store does not answer or the note is longer than [`Note::MAX_BYTES`].
    pub async fn set_note(&self, key: &LockKey, expected: u64, body: &[u8]) -> Result<Note> {
        let answer = within(
            &**self.clock(),
            self.timing.request_timeout,
            self.keep.driver.set_note(key, expected, body),
        )
        .await;
        let answer =
            answer.unwrap_or_else(|| Err(BackendError::timeout(self.timing.request_timeout)));
        answer.map_err(|source| self.failed("write the note of", key, source))
    }

    /// Returns when everything that was dropped has been given back. Call it before a process ends, to leave nothing behind.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn settled(&self) {
        self.keep.settled().await;
        self.keep.driver.settled().await;
    }

    fn failed(&self, doing: &'static str, key: &LockKey, source: BackendError) -> Error {
        Error::Backend { doing, key: Some(key.clone()), source }
    }
}

/// Another acquisition, which `watch` waits for from now on.
fn another(watch: &mut Option<PacedWatch>) -> Nonce {
    let nonce = Nonce::random();
    if let Some(watch) = watch {
        watch.wait_as(nonce);
    }
    nonce
}

/// A watch that may fire for no reason as often as it likes, and makes nobody spin.
pub(crate) struct PacedWatch {
    watch: Box<dyn Watch>,
    clock: Arc<dyn Clock>,
    /// How often in a row it fired after hardly any time.
    hasty: u32,
}

impl PacedWatch {
    /// What fires later than this after the last time is passed on at once.
    const HASTE: Duration = Duration::from_millis(10);
    /// This many hasty ones in a row are passed on at once, too: a lock may change hands quickly.
    const FREE: u32 = 16;
    const LONGEST: Duration = Duration::from_millis(100);

    /// [`Watch::wait_as`].
    fn wait_as(&mut self, nonce: Nonce) {
        self.watch.wait_as(nonce);
    }

    /// [`Watch::changed`].
    pub(crate) async fn changed(&mut self) {
        let since = self.clock.lease_now();
        self.watch.changed().await;
        if self.clock.lease_now().saturating_since(since) > Self::HASTE {
            self.hasty = 0;
            return;
        }
        self.hasty = self.hasty.saturating_add(1);
        if let Some(beyond) = self.hasty.checked_sub(Self::FREE) {
            let pause = Duration::from_millis(1 << beyond.min(7));
            self.clock.sleep(pause.min(Self::LONGEST)).await;
        }
    }
}
