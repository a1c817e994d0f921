//! The driver: everything a backend crate implements. Users hold [`Locks`](super::Locks) instead.
//!
//! # For authors of a backend
//!
//! Implement [`LockBackend`], run `solocron_testkit::conformance!` over it, done: waiting, renewal, deadlines, cancellation, lost
//! signals and cleaning up are written once, in the core. If your store gives you a place to keep a few hundred bytes under
//! exclusion, keep a [`KeyRecord`](super::KeyRecord) there and let it decide: it is the rules of a lock with a memory as a pure
//! function. A store with scripts or transactions writes the same rules in its own words.
//!
//! ```text
//!            try_acquire(nonce, claim T)                          release(Done | DoneAndSkip | Unfinished | Undo)
//!   free ───────────────────────────────────► Won: leased ───────────────────────────────────────────────────► free
//!    ▲                                         │  │  ▲  renew
//!    │ revoke(nonce): as if never asked        │  └──┘
//!    └─────────────────────────────────────────┘  ttl over, process dead, store forgot ─► lost, and free for others
//! ```

use std::fmt::{self, Debug};
use std::future::pending;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Capabilities, Fence, LockKey, Mark, NodeId, Nonce};
use crate::clock::{LeaseInstant, side_by_side};
use crate::error::BackendError;

/// A store of locks with a memory.
///
/// # Contract of every method
///
/// - **Cancellation**: a future may be dropped at any await point. What was sent may then still be carried out; the core revokes
///   the nonce of a dropped acquisition, repeats a dropped release and forgets a dropped renewal. Nothing else may stay behind.
/// - **Errors**: only what is certainly busy is [`Reply::Busy`]. Everything unclear is an error, with
///   [`Effect::Unknown`](crate::Effect::Unknown) if the request may have been carried out.
/// - **Batches**: answers come in the order of the requests, one each; one loser must not sink the others. A key stands at most
///   once in a batch.
/// - Never block the thread. Never print a secret.
#[async_trait]
pub trait LockBackend: Send + Sync + Debug + 'static {
    /// What the winner owns in this process: a descriptor, a nonce, a session. Dropping it frees what the operating system
    /// holds for it, and does nothing else.
    type Lease: Send + Sync + Debug + 'static;

    /// What this backend promises. Constant.
    fn capabilities(&self) -> Capabilities;

    /// Creates the records of these jobs where they are absent, with `mark = the store's now`, and reads them all; stores the
    /// fingerprint of a schedule that changed together with the store's now. Only called where marks are kept.
    ///
    /// An acquisition never creates a record that grants a claim: otherwise a new job would lose its first tick, and a record
    /// deleted under a living fleet would grant an old tick again.
    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        jobs.iter()
            .map(|_| {
                Err(BackendError::new(crate::Kind::Unsupported, "this backend keeps no marks"))
            })
            .collect()
    }

    /// One atomic attempt for each request, in the order of rules of [`KeyRecord::judge`](super::KeyRecord::judge). The same
    /// nonce gets the same grant.
    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<Self::Lease>, BackendError>>;

    /// Says that these leases are still wanted: extends them where they have a time, and verifies them where they are bound to
    /// the process. `sent` was read before the call. Never revives what was released, or lost for a moment.
    async fn renew(
        &self,
        leases: &[&Self::Lease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>>;

    /// Gives the lease back and settles its tick. Idempotent: a second call answers as the first.
    async fn release(&self, lease: &Self::Lease, mark: MarkAfter)
    -> Result<Released, BackendError>;

    /// [`release`](Self::release) of each of these leases; `answer` gets each answer, with its place in `leases`, as soon as it is
    /// known: one that is stuck holds up no other. What is never answered counts as a failure of unknown effect.
    ///
    /// By default each is released by itself, many side by side. Worth writing where the store takes many in one request: it is how
    /// the runs of one instant end.
    async fn release_each(
        &self,
        leases: &[(&Self::Lease, MarkAfter)],
        answer: &mut (dyn FnMut(usize, Result<Released, BackendError>) + Send),
    ) {
        let releases = leases.iter().map(|(lease, mark)| self.release(lease, *mark)).collect();
        side_by_side(releases, answer).await;
    }

    /// Gives back what `nonce` may hold of `key`: an acquisition of unknown outcome (`Undo`), or an operator's force-release.
    /// From now on the nonce is refused, for as long as a delayed request may live. No effect on anybody else's lease.
    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError>;

    /// Pushed news that this lease is lost. Pending for ever where there is none.
    async fn lost(&self, _lease: &Self::Lease) -> Lost {
        pending().await
    }

    /// Pushed news that `key` may be free. Whoever waits watches first, then tries, then waits: no wake-up is lost.
    /// `None`: this backend cannot push.
    ///
    /// A backend that keeps lines of waiters may do without asking the store: the first attempt of the acquisition that
    /// [waits here](Watch::wait_as) gets in line by itself.
    async fn watch(&self, _key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        Ok(None)
    }

    /// A number that changes when the store may have forgotten something. Asked about once a second while jobs are enrolled, so
    /// that a loss is dated when it happens and not at the next tick.
    async fn epoch(&self) -> Result<Epoch, BackendError> {
        Ok(Epoch(0))
    }

    /// Who holds the locks whose names begin with `prefix`. `None`: this backend cannot tell.
    async fn holders(&self, _prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        Ok(None)
    }

    /// Returns when nothing is left to be given back that this backend was to give back by itself: see [`Watch::wait_as`]. By default
    /// at once.
    async fn settled(&self) {}

    /// Replaces the note of `key` if its version is still `expected`. Answers with the note that stands now.
    async fn set_note(
        &self,
        _key: &LockKey,
        _expected: u64,
        _body: &[u8],
    ) -> Result<Note, BackendError> {
        Err(BackendError::new(crate::Kind::Unsupported, "this backend keeps no notes"))
    }
}

/// One acquisition.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// What to lock.
    pub key: LockKey,
    /// The random number of this acquisition.
    pub nonce: Nonce,
    /// Who asks.
    pub node: NodeId,
    /// How long the lease shall live without renewal. Ignored where leases are bound to the process.
    pub ttl: Duration,
    /// The longest ttl in use in this namespace: how long a store that lost its memory must wait before it grants again.
    pub longest_ttl: Duration,
    /// When this nonce was sent for the first time, read before sending: the grant is valid from here on.
    pub first_sent: LeaseInstant,
    /// The tick to claim. `None`: a plain lock, which touches no mark.
    pub claim: Option<Claim>,
}

impl Request {
    /// A request for a plain lock, sent at `first_sent`.
    #[must_use]
    pub fn new(
        key: LockKey,
        nonce: Nonce,
        node: NodeId,
        ttl: Duration,
        first_sent: LeaseInstant,
    ) -> Self {
        Self { key, nonce, node, ttl, longest_ttl: ttl, first_sent, claim: None }
    }

    /// The same request, also claiming a tick.
    #[must_use]
    pub fn claiming(mut self, claim: Claim) -> Self {
        self.claim = Some(claim);
        self
    }
}

/// A tick to be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The tick.
    pub tick: Mark,
    /// The tick before it, where every tick must be claimed in its turn (the policy that runs all missed ticks): a mark earlier
    /// than this is answered with [`Reply::Behind`].
    pub after: Option<Mark>,
    /// What happens to a tick whose run never ended.
    pub delivery: Delivery,
}

/// What happens to a tick that was claimed and whose run never ended, because its process died or lost its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Delivery {
    /// Nobody runs it again; it is reported as abandoned by the next winner. The default: prefer a skipped run to a double one.
    #[default]
    AtMostOnce,
    /// It is granted again, with a higher attempt and a higher fence, up to `max_attempts` attempts in all.
    AtLeastOnce {
        /// How many attempts in all; at least 1.
        max_attempts: u32,
    },
}

/// The answer to a [`Request`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply<L> {
    /// The lease is mine, and so is the tick.
    Won(Grant<L>),
    /// This tick, or a later one, is already claimed. Normal.
    Stale {
        /// The last claimed tick.
        mark: Mark,
        /// Whether the run of that tick has ended.
        done: bool,
        /// Who has the key now, if the run goes on; else who claimed last, if known.
        owner: Option<Box<Holder>>,
    },
    /// Somebody holds the key.
    Busy {
        /// Who, if known.
        holder: Option<Box<Holder>>,
    },
    /// An earlier tick must go first.
    Behind {
        /// The last claimed tick.
        mark: Mark,
        /// True: claim `mark` itself again, its run never ended. False: claim the first tick after it.
        unfinished: bool,
    },
    /// The tick lies in the future of the store's clock.
    Early {
        /// The store's clock.
        store_now: Timestamp,
    },
}

impl<L> Reply<L> {
    /// The same reply with another lease in its grant.
    pub fn map<M>(self, f: impl FnOnce(L) -> M) -> Reply<M> {
        match self {
            Self::Won(grant) => Reply::Won(grant.map(f)),
            Self::Stale { mark, done, owner } => Reply::Stale { mark, done, owner },
            Self::Busy { holder } => Reply::Busy { holder },
            Self::Behind { mark, unfinished } => Reply::Behind { mark, unfinished },
            Self::Early { store_now } => Reply::Early { store_now },
        }
    }
}

/// What a winner gets.
#[derive(Debug)]
#[non_exhaustive]
pub struct Grant<L> {
    /// What the winner owns in this process.
    pub lease: L,
    /// The fencing token.
    pub fence: Fence,
    /// The tick claimed before this one, if ticks were claimed.
    pub previous: Option<ClaimState>,
    /// Which attempt of the tick this is, from 1.
    pub attempt: u32,
    /// How long the lease may be trusted.
    pub validity: Validity,
    /// The store's clock, if it has one.
    pub store_now: Option<Timestamp>,
    /// The schedule that is on record.
    pub schedule: Option<Schedule>,
    /// The note of the key.
    pub note: Note,
}

impl<L> Grant<L> {
    /// A grant of a plain lock.
    pub fn new(lease: L, fence: Fence, validity: Validity) -> Self {
        Self {
            lease,
            fence,
            previous: None,
            attempt: 1,
            validity,
            store_now: None,
            schedule: None,
            note: Note::default(),
        }
    }

    /// The same grant with another lease in it.
    pub fn map<M>(self, f: impl FnOnce(L) -> M) -> Grant<M> {
        let Self { lease, fence, previous, attempt, validity, store_now, schedule, note } = self;
        Grant { lease: f(lease), fence, previous, attempt, validity, store_now, schedule, note }
    }
}

/// How long a lease may be trusted without hearing from the store again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Until this process dies: this machine's kernel frees it then, and nobody else does. A lock that lives on a network
    /// session is *not* process-bound.
    ProcessBound,
    /// For `ttl` from `since`, which was read **before** the request was sent.
    Until {
        /// When the request was first sent.
        since: LeaseInstant,
        /// What was granted.
        ttl: Duration,
    },
}

/// What is known of the last claim of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimState {
    /// The tick.
    pub mark: Mark,
    /// Whether its run has ended.
    pub done: bool,
    /// How often it was granted.
    pub attempts: u32,
    /// Who claimed it. `None` for a mark that was set by enrolling or by skipping.
    pub owner: Option<NodeId>,
}

/// What happens to the tick of a lease that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkAfter {
    /// The run ended.
    Done,
    /// The run ended, and it overlapped the ticks up to this one, which nobody wants any more. Cut at the store's clock.
    DoneAndSkip(Mark),
    /// The run was cut short: free, and the tick stays unfinished for its [`Delivery`] to decide.
    Unfinished,
    /// The run never started: free, and the mark goes back to where it was, if this nonce moved it and it is not done.
    Undo,
}

/// The answer to a release or a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It was held by this nonce until now, or already given back by it.
    Done,
    /// This nonce did not hold it any more.
    NotOwner {
        /// The mark that stands now, if marks are kept and the key has one.
        mark: Option<Mark>,
    },
}

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Still held, and for this long.
    Extended(Validity),
    /// Not held any more.
    NotOwner(Lost),
}

/// Why a lease is over although nobody gave it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lost {
    /// No renewal succeeded in time.
    Expired,
    /// The store says that this lease is not the living one: it ran out, was taken over, or was forgotten.
    TakenOver,
    /// An operator freed it.
    ForceReleased,
    /// The file under the lock was deleted or replaced.
    FileReplaced,
    /// The run took longer than its `max_runtime`.
    MaxRuntime,
    /// The guard is used in a forked child; the lock belongs to the parent.
    Forked,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no renewal succeeded in time",
            Self::TakenOver => "the store does not know this lease any more",
            Self::ForceReleased => "an operator freed it",
            Self::FileReplaced => "its lock file was deleted or replaced",
            Self::MaxRuntime => "it was held for longer than its max_runtime",
            Self::Forked => "this process is a forked child; the lock belongs to its parent",
        })
    }
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The lock.
    pub key: LockKey,
    /// The acquisition, for a force-release that cannot hit a successor. `None` where the store does not tell.
    pub nonce: Option<Nonce>,
    /// The node.
    pub node: NodeId,
    /// Since when, by the store's clock.
    pub since: Timestamp,
    /// The tick being run.
    pub tick: Option<Mark>,
    /// When the lease ends if it is not renewed, counted from the answer. `None`: process-bound, or already over.
    pub remaining: Option<Duration>,
    /// Whether the lease lives.
    pub living: bool,
}

impl Holder {
    /// A living, process-bound holder.
    #[must_use]
    pub fn new(key: LockKey, nonce: Nonce, node: NodeId, since: Timestamp) -> Self {
        Self { key, nonce: Some(nonce), node, since, tick: None, remaining: None, living: true }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (since {:.0}", self.node, self.since)?;
        if let Some(tick) = self.tick {
            write!(f, ", tick {tick}")?;
        }
        f.write_str(")")
    }
}

/// A job that takes part in claiming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its id.
    pub key: LockKey,
    /// The [fingerprint](crate::trigger::Trigger::fingerprint) of its trigger.
    pub fingerprint: u64,
}

/// What is on record for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enrolled {
    /// Its last claim.
    pub last: ClaimState,
    /// Its schedule.
    pub schedule: Schedule,
    /// Whether the record was created just now.
    pub created: bool,
    /// The store's clock, if it has one.
    pub store_now: Option<Timestamp>,
    /// Its note.
    pub note: Note,
}

impl Enrolled {
    /// What is on record.
    #[must_use]
    pub fn new(last: ClaimState, schedule: Schedule, created: bool, note: Note) -> Self {
        Self { last, schedule, created, store_now: None, note }
    }
}

/// The schedule that is on record. Nothing was missed before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// Its fingerprint.
    pub fingerprint: u64,
    /// When it was first seen.
    pub since: Mark,
}

/// A small text that a key carries: a pause flag, the last outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Note {
    /// Grows with every change; 0 for a note that was never written.
    pub version: u64,
    /// The text, at most [`Note::MAX_BYTES`] bytes.
    pub body: Vec<u8>,
}

impl Note {
    /// The longest note.
    pub const MAX_BYTES: usize = 256;
}

/// See [`LockBackend::epoch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u128);

/// Pushed news about one key. Dropping it ends the waiting: see [`wait_as`](Self::wait_as).
#[async_trait]
pub trait Watch: Send {
    /// From now on the plain acquisition `nonce` waits here, and none that was said before: it is attempted next, and again whenever
    /// there is news, with this nonce each time until it is answered with anything but [`Reply::Busy`], or revoked.
    ///
    /// A backend that keeps lines puts it in line with the first attempt that finds the lock busy, and may grant it by itself as soon
    /// as its turn has come. That is news, the next attempt is answered with [`Reply::Won`], and the
    /// [validity](Grant::validity) counts from no later than when it was granted. Where the watch is dropped, or given another nonce,
    /// before an attempt was told so, the backend takes the acquisition out of the line and gives back what it was granted, in the
    /// background; if that cannot be done, a grant ends with its ttl. Copies of an attempt that come later still may get in line
    /// again; what they are granted is given back in the same way.
    ///
    /// By default nothing: waiting is then nothing but news.
    fn wait_as(&mut self, _nonce: Nonce) {}

    /// Returns when the key may have become free since the watch began or since the last return. May return for no reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no news: the next call returns it.
    async fn changed(&mut self);
}
