//! A backend that lies.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Holder, LockBackend, LockKey, Lost, MarkAfter, Nonce,
    Note, Released, Renewal, Reply, Request, Watch,
};
use solocron::{BackendError, Kind, LeaseInstant};

use crate::Dice;

/// One method of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`LockBackend::enroll`].
    Enroll,
    /// [`LockBackend::try_acquire`].
    TryAcquire,
    /// [`LockBackend::renew`].
    Renew,
    /// [`LockBackend::release`].
    Release,
    /// [`LockBackend::revoke`].
    Revoke,
    /// [`LockBackend::watch`].
    Watch,
    /// [`LockBackend::epoch`].
    Epoch,
    /// [`LockBackend::holders`].
    Holders,
    /// [`LockBackend::set_note`].
    SetNote,
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing bad.
    Pass,
    /// It fails before it has any effect.
    Fail,
    /// It is carried out, and the answer is lost.
    LostReply,
    /// The caller is told that nobody knows; a copy is carried out later: see [`Faulty::deliver_late`]. Calls that cannot be
    /// copied, because they need a lease, are never carried out.
    Late,
    /// It is never carried out and never answered.
    Hang,
    /// It is carried out and never answered.
    HangAfter,
    /// It is carried out this much later.
    DelayBefore(Duration),
    /// It is carried out at once and answered this much later.
    DelayAfter(Duration),
}

/// How often a seeded [`Faulty`] lies, in calls of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Odds {
    /// Of [`Fault::Fail`].
    pub fail: u32,
    /// Of [`Fault::LostReply`].
    pub lost_reply: u32,
    /// Of [`Fault::Late`].
    pub late: u32,
    /// Of [`Fault::Hang`] and of [`Fault::HangAfter`], each.
    pub hang: u32,
    /// Of [`Fault::DelayBefore`] and of [`Fault::DelayAfter`], each.
    pub delay: u32,
    /// The longest delay.
    pub longest_delay: Duration,
}

/// Wraps a backend and lies about it: from a script, from a seed, or only by being slow. Clones are the same client.
///
/// ```
/// use solocron::lock::{Locks, MemoryBackend};
/// use solocron_testkit::{Call, Fault, Faulty};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let faulty = Faulty::script(MemoryBackend::new(), [(Call::TryAcquire, Fault::LostReply)]);
/// let locks = Locks::new(faulty.clone())?;
/// // The answer is lost, the same nonce is sent again, and finds its own grant.
/// assert!(locks.try_lock("report").await?.won().is_some());
/// assert_eq!(faulty.calls(Call::TryAcquire), 2);
/// # Ok::<(), solocron::Error>(()) }).unwrap();
/// ```
pub struct Faulty<B>(Arc<Shared<B>>);

struct Shared<B> {
    backend: B,
    seed: Option<u64>,
    yields: u32,
    calls: [AtomicU64; 9],
    /// While positive, every call fails.
    down: AtomicU32,
    plan: Mutex<Plan>,
}

struct Plan {
    script: VecDeque<(Call, Fault)>,
    dice: Dice,
    odds: Odds,
    late: VecDeque<LateCall>,
    mischief: Vec<(u32, Arc<dyn Fn() + Send + Sync>)>,
}

/// A copy of a call that is still on its way.
enum LateCall {
    TryAcquire(Vec<Request>),
    Revoke(LockKey, Nonce, MarkAfter),
}

impl<B> Clone for Faulty<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: LockBackend> Faulty<B> {
    /// Passes everything on, and counts.
    pub fn new(backend: B) -> Self {
        Self::build(backend, None, 0, VecDeque::new(), Odds::default())
    }

    /// The next call of each kind meets the first fault that is written for its kind; what is not written passes.
    pub fn script(backend: B, faults: impl IntoIterator<Item = (Call, Fault)>) -> Self {
        Self::build(backend, None, 0, faults.into_iter().collect(), Odds::default())
    }

    /// Lies by chance. The same seed and the same calls, the same lies; the seed is printed when a test panics.
    pub fn seeded(backend: B, seed: u64, odds: Odds) -> Self {
        Self::build(backend, Some(seed), 0, VecDeque::new(), odds)
    }

    /// Adds `points` await points to every call, before and after its effect.
    pub fn slow(backend: B, points: u32) -> Self {
        Self::build(backend, None, points, VecDeque::new(), Odds::default())
    }

    fn build(
        backend: B,
        seed: Option<u64>,
        yields: u32,
        script: VecDeque<(Call, Fault)>,
        odds: Odds,
    ) -> Self {
        let plan = Plan {
            script,
            dice: Dice::new(seed.unwrap_or_default()),
            odds,
            late: VecDeque::new(),
            mischief: Vec::new(),
        };
        Self(Arc::new(Shared {
            backend,
            seed,
            yields,
            calls: Default::default(),
            down: AtomicU32::new(0),
            plan: Mutex::new(plan),
        }))
    }

    /// Also does this, before that many calls of a thousand: end a lease early, make the store forget.
    #[must_use]
    pub fn mischief(self, per_mille: u32, act: impl Fn() + Send + Sync + 'static) -> Self {
        self.plan().mischief.push((per_mille, Arc::new(act)));
        self
    }

    /// Writes more faults at the end of the script.
    pub fn then(&self, faults: impl IntoIterator<Item = (Call, Fault)>) {
        self.plan().script.extend(faults);
    }

    /// From now on nothing bad happens any more, but what is late already may still arrive.
    pub fn calm(&self) {
        let mut plan = self.plan();
        plan.script.clear();
        plan.odds = Odds::default();
        plan.mischief.clear();
        self.0.down.store(0, Ordering::SeqCst);
    }

    /// From now on every call fails before it has any effect, until [`calm`](Self::calm).
    pub fn down(&self) {
        self.0.down.store(1, Ordering::SeqCst);
    }

    /// How often a method was called.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.0.calls[call as usize].load(Ordering::SeqCst)
    }

    /// The backend inside.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.0.backend
    }

    /// Delivers the copies that are still on their way. Answers with how many of their requests won something that nobody waits
    /// for any more.
    pub async fn deliver_late(&self) -> usize {
        let mut won = 0;
        loop {
            let late = self.plan().late.pop_front();
            let Some(late) = late else { return won };
            won += self.deliver(late).await;
        }
    }

    async fn deliver(&self, late: LateCall) -> usize {
        match late {
            LateCall::TryAcquire(requests) => {
                let replies = self.0.backend.try_acquire(&requests).await;
                replies.iter().filter(|reply| matches!(reply, Ok(Reply::Won(_)))).count()
            }
            LateCall::Revoke(key, nonce, after) => {
                // Nobody reads this answer.
                drop(self.0.backend.revoke(&key, nonce, after).await);
                0
            }
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        // Mischief runs outside of the lock, and nothing else in here panics.
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes one call through whatever is planned for it. `failed` makes an answer of an error.
    async fn pass<T>(
        &self,
        call: Call,
        copy: impl FnOnce() -> Option<LateCall> + Send,
        failed: impl FnOnce(BackendError) -> T + Send,
        carry_out: impl Future<Output = T> + Send,
    ) -> T {
        self.0.calls[call as usize].fetch_add(1, Ordering::SeqCst);
        let (fault, mischief, late) = self.plan().next(call);
        for act in mischief {
            act();
        }
        if let Some(late) = late {
            self.deliver(late).await;
        }
        if self.0.down.load(Ordering::SeqCst) > 0 {
            return failed(BackendError::new(Kind::Unavailable, "the faulty backend is down"));
        }
        self.stall().await;
        let answer = match fault {
            Fault::Pass => carry_out.await,
            Fault::Fail => {
                let why = "the faulty backend failed before the effect";
                failed(BackendError::new(Kind::Unavailable, why))
            }
            Fault::LostReply => {
                drop(carry_out.await);
                let why = "the faulty backend lost the reply";
                failed(BackendError::new(Kind::Timeout, why).effect_unknown())
            }
            Fault::Late => {
                let late = copy();
                self.plan().late.extend(late);
                let why = "the faulty backend will carry it out later";
                failed(BackendError::new(Kind::Timeout, why).effect_unknown())
            }
            Fault::Hang => std::future::pending().await,
            Fault::HangAfter => {
                // Kept until the caller gives up, as an answer that waits in a buffer is.
                let _unread = carry_out.await;
                std::future::pending().await
            }
            Fault::DelayBefore(delay) => {
                tokio::time::sleep(delay).await;
                carry_out.await
            }
            Fault::DelayAfter(delay) => {
                let answer = carry_out.await;
                tokio::time::sleep(delay).await;
                answer
            }
        };
        self.stall().await;
        answer
    }

    async fn stall(&self) {
        for _ in 0..self.0.yields {
            tokio::task::yield_now().await;
        }
    }
}

impl Plan {
    #[expect(clippy::type_complexity, reason = "the three parts of one draw, taken apart at once")]
    fn next(&mut self, call: Call) -> (Fault, Vec<Arc<dyn Fn() + Send + Sync>>, Option<LateCall>) {
        let mut mischief = Vec::new();
        for (share, act) in &self.mischief {
            if self.dice.per_mille(*share) {
                mischief.push(Arc::clone(act));
            }
        }
        let due = self.odds.late > 0 && !self.late.is_empty() && self.dice.per_mille(300);
        let late = if due { self.late.pop_front() } else { None };
        let written = self.script.iter().position(|(kind, _)| *kind == call);
        let fault = match written.and_then(|at| self.script.remove(at)) {
            Some((_, fault)) => fault,
            None => self.draw(),
        };
        (fault, mischief, late)
    }

    fn draw(&mut self) -> Fault {
        let Odds { fail, lost_reply, late, hang, delay, longest_delay } = self.odds;
        let mut left = self.dice.below(1_000);
        let mut longest = || {
            let nanos = u64::try_from(longest_delay.as_nanos()).unwrap_or(u64::MAX);
            Duration::from_nanos(self.dice.below(nanos))
        };
        let (before, after) = (longest(), longest());
        for (share, fault) in [
            (fail, Fault::Fail),
            (lost_reply, Fault::LostReply),
            (late, Fault::Late),
            (hang, Fault::Hang),
            (hang, Fault::HangAfter),
            (delay, Fault::DelayBefore(before)),
            (delay, Fault::DelayAfter(after)),
        ] {
            match left.checked_sub(u64::from(share)) {
                None => return fault,
                Some(rest) => left = rest,
            }
        }
        Fault::Pass
    }
}

impl<B: fmt::Debug> fmt::Debug for Faulty<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("backend", &self.0.backend)
            .field("seed", &self.0.seed)
            .finish_non_exhaustive()
    }
}

impl<B> Drop for Shared<B> {
    fn drop(&mut self) {
        if let (true, Some(seed)) = (std::thread::panicking(), self.seed) {
            eprintln!("the seed of the faulty backend was {seed}");
        }
    }
}

#[async_trait]
impl<B: LockBackend> LockBackend for Faulty<B> {
    type Lease = B::Lease;

    fn capabilities(&self) -> Capabilities {
        self.0.backend.capabilities()
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let failed = |error| vec![Err(error); jobs.len()];
        self.pass(Call::Enroll, || None, failed, self.0.backend.enroll(jobs)).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<B::Lease>, BackendError>> {
        let copy = || Some(LateCall::TryAcquire(requests.to_vec()));
        let failed =
            |error: BackendError| requests.iter().map(|_| Err(error.clone())).collect::<Vec<_>>();
        self.pass(Call::TryAcquire, copy, failed, self.0.backend.try_acquire(requests)).await
    }

    async fn renew(
        &self,
        leases: &[&B::Lease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let failed = |error| vec![Err(error); leases.len()];
        self.pass(Call::Renew, || None, failed, self.0.backend.renew(leases, sent)).await
    }

    async fn release(&self, lease: &B::Lease, mark: MarkAfter) -> Result<Released, BackendError> {
        self.pass(Call::Release, || None, Err, self.0.backend.release(lease, mark)).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let copy = || Some(LateCall::Revoke(key.clone(), nonce, mark));
        self.pass(Call::Revoke, copy, Err, self.0.backend.revoke(key, nonce, mark)).await
    }

    async fn lost(&self, lease: &B::Lease) -> Lost {
        self.0.backend.lost(lease).await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        self.pass(Call::Watch, || None, Err, self.0.backend.watch(key)).await
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        self.pass(Call::Epoch, || None, Err, self.0.backend.epoch()).await
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        self.pass(Call::Holders, || None, Err, self.0.backend.holders(prefix)).await
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        let carry_out = self.0.backend.set_note(key, expected, body);
        self.pass(Call::SetNote, || None, Err, carry_out).await
    }
}
