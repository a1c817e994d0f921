//! The record of a key: a lock with a memory, as a pure state machine.
//!
//! Whoever can keep a few hundred bytes under exclusion keeps a [`KeyRecord`] there and has a backend: the memory and the flock
//! backend are that. Stores with scripts or transactions write the same rules in their own words and are held to them by the laws.
//!
//! ```text
//!                       ┌──────────────── judge(request) ────────────────┐
//!   1 nonce refused     │ Refused     given back, or over: a late copy   │
//!   2 nonce is living   │ Again       the same grant, ttl not extended   │
//!     claims only:      │                                                │
//!     not enrolled      │ NotEnrolled                                    │
//!   3 tick > store now  │ Early       a fast node waits                  │
//!   4 tick ≤ mark       │ Stale       done, at most once, or attempts    │
//!                       │             used up                            │
//!   5 somebody lives    │ Busy                                           │
//!   6 earlier one first │ Behind      unfinished, or not yet claimed     │
//!   7 else              │ Grant       the mark moves now                 │
//!                       └────────────────────────────────────────────────┘
//! ```
//!
//! The order is the point: each line was put where it is because a trace loses or doubles a tick otherwise. The test kit's
//! exhaustive check keeps those traces.

mod acquire;
mod bytes;

use std::time::Duration;

use jiff::Timestamp;

pub use self::bytes::RecordError;
use super::backend::{
    Claim, ClaimState, Delivery, Enrolled, Enrolment, Holder, MarkAfter, Note, Released, Request,
    Schedule,
};
use super::rule::Rule;
use super::{Fence, LockKey, Mark, NodeId, Nonce};
use crate::error::BackendError;

/// Everything a store keeps for one key. Constant size, but for the note.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRecord {
    key: LockKey,
    fence: Fence,
    claims: Option<Claims>,
    holder: Option<LivingHolder>,
    released: Option<Nonce>,
    refused: Vec<Refused>,
    note: Note,
}

/// What an enrolled key remembers of its ticks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Claims {
    last: ClaimState,
    /// What an undo goes back to.
    previous: Option<ClaimState>,
    /// Who moved the mark to where it is.
    nonce: Option<Nonce>,
    schedule: Schedule,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LivingHolder {
    nonce: Nonce,
    node: NodeId,
    since: Timestamp,
    tick: Option<Mark>,
    attempt: u32,
    /// By the store's clock. `None`: process-bound, living for as long as the operating system says.
    until: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Refused {
    nonce: Nonce,
    until: Timestamp,
}

/// What a record answers to a request. See the table at the head of the module.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The nonce was given back earlier, or its lease is over.
    Refused,
    /// The nonce holds the key: the same grant.
    Again(Granted),
    /// Only an enrolled key takes claims.
    NotEnrolled,
    /// The tick lies in the future of the store's clock.
    Early,
    /// The tick, or a later one, is claimed.
    Stale {
        /// The last claimed tick.
        mark: Mark,
        /// Whether its run has ended.
        done: bool,
        /// Who runs it, or ran it.
        owner: Option<Holder>,
    },
    /// Somebody holds the key.
    Busy(Holder),
    /// An earlier tick goes first.
    Behind {
        /// The last claimed tick.
        mark: Mark,
        /// Whether it is that one, whose run never ended.
        unfinished: bool,
    },
    /// Call [`KeyRecord::grant`], as [`KeyRecord::acquire`] does.
    Grant,
}

/// What a winner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The fence of this win.
    pub fence: Fence,
    /// The claim before this one.
    pub previous: Option<ClaimState>,
    /// Which attempt of the tick.
    pub attempt: u32,
}

/// Until when a holder lives of whom the store alone knows how long it does. In the year 9987, which bytes can say.
const NEVER_ENDS: Timestamp = Timestamp::constant(253_000_000_000, 0);

impl KeyRecord {
    /// How many refused nonces are remembered. Each lives for [`REFUSED_FOR`](Self::REFUSED_FOR).
    pub const MAX_REFUSED: usize = 16;

    /// How long a nonce is refused: longer than a delayed request lives.
    pub const REFUSED_FOR: Duration = Duration::from_secs(60);

    /// A record of a key that was never locked and takes no claims.
    #[must_use]
    pub fn new(key: LockKey) -> Self {
        Self {
            key,
            fence: Fence::ZERO,
            claims: None,
            holder: None,
            released: None,
            refused: Vec::new(),
            note: Note::default(),
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.key
    }

    /// The fence of the last win.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The last claim, where the key is enrolled.
    #[must_use]
    pub fn last(&self) -> Option<&ClaimState> {
        self.claims.as_ref().map(|claims| &claims.last)
    }

    /// The schedule on record, where the key is enrolled.
    #[must_use]
    pub fn schedule(&self) -> Option<Schedule> {
        self.claims.as_ref().map(|claims| claims.schedule)
    }

    /// The note.
    #[must_use]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Makes the key take claims. Answers with what is on record; says whether anything was written.
    pub fn enroll(&mut self, job: &Enrolment, store_now: Timestamp) -> (Enrolled, bool) {
        let now = Mark::floor(store_now);
        let schedule = Schedule { fingerprint: job.fingerprint, since: now };
        let (created, changed) = match &mut self.claims {
            Some(claims) if claims.schedule.fingerprint == job.fingerprint => (false, false),
            Some(claims) => {
                claims.schedule = schedule;
                (false, true)
            }
            claims @ None => {
                let mark =
                    if Rule::ForgottenBeginsNow.holds() { now } else { Mark::from_millis(0) };
                let last = ClaimState { mark, done: true, attempts: 0, owner: None };
                *claims = Some(Claims { last, previous: None, nonce: None, schedule });
                (true, true)
            }
        };
        let claims = self.claims.as_ref().expect("enrolled just above");
        let mut enrolled =
            Enrolled::new(claims.last.clone(), claims.schedule, created, self.note.clone());
        enrolled.store_now = Some(store_now);
        (enrolled, changed)
    }

    /// What a request gets, without changing anything. `alive` says whether a process-bound holder still lives; a holder with a
    /// ttl lives until its time is over.
    #[must_use]
    pub fn judge(&self, request: &Request, store_now: Timestamp, alive: bool) -> Verdict {
        let revoked = self
            .refused
            .iter()
            .any(|refused| refused.nonce == request.nonce && refused.until > store_now);
        if (revoked || self.released == Some(request.nonce)) && Rule::RefusedNonce.holds() {
            return Verdict::Refused;
        }
        let holder = self.living(store_now, alive);
        let again = || Verdict::Again(self.granted());
        // A process-bound holder with this nonce may just have been closed (its reply was lost): still the same grant.
        let mine = self
            .holder
            .as_ref()
            .is_some_and(|h| h.nonce == request.nonce && (h.until.is_none() || holder.is_some()));
        if mine && Rule::NonceBeforeStale.holds() {
            return again();
        }
        // Its grant is over, and there is no second one: this is a late copy, or its sender comes too late to use it.
        let over = !mine && self.holder.as_ref().is_some_and(|h| h.nonce == request.nonce);
        if over && Rule::NonceBeforeStale.holds() {
            return Verdict::Refused;
        }
        if let Some(claim) = request.claim {
            match self.judge_claim(claim, store_now, holder) {
                Verdict::Grant => {}
                verdict => return verdict,
            }
        }
        match holder {
            _ if mine => again(),
            Some(holder) => Verdict::Busy(self.describe(holder, store_now, true)),
            None => match request.claim {
                Some(claim) => self.judge_order(claim),
                None => Verdict::Grant,
            },
        }
    }

    /// Rules 3 and 4.
    fn judge_claim(
        &self,
        claim: Claim,
        store_now: Timestamp,
        holder: Option<&LivingHolder>,
    ) -> Verdict {
        let Some(claims) = &self.claims else {
            return if Rule::Enrolled.holds() { Verdict::NotEnrolled } else { Verdict::Grant };
        };
        if claim.tick.timestamp() > store_now && Rule::Early.holds() {
            return Verdict::Early;
        }
        let last = &claims.last;
        let again = !last.done && may_run_again(claim.delivery, last.attempts);
        if (claim.tick < last.mark || (claim.tick == last.mark && !again)) && Rule::Mark.holds() {
            let owner = match holder {
                Some(holder) => Some(self.describe(holder, store_now, true)),
                None => last.owner.clone().map(|node| Holder {
                    key: self.key.clone(),
                    nonce: None,
                    node,
                    since: last.mark.timestamp(),
                    tick: Some(last.mark),
                    remaining: None,
                    living: false,
                }),
            };
            return Verdict::Stale { mark: last.mark, done: last.done, owner };
        }
        Verdict::Grant
    }

    /// Rule 6: nobody holds the key, the tick is new.
    fn judge_order(&self, claim: Claim) -> Verdict {
        let Some(Claims { last, .. }) = &self.claims else { return Verdict::Grant };
        if claim.tick == last.mark || !Rule::Behind.holds() {
            return Verdict::Grant;
        }
        let unfinished =
            !last.done && last.attempts > 0 && may_run_again(claim.delivery, last.attempts);
        let skipped = claim.after.is_some_and(|after| last.mark < after);
        if unfinished || skipped {
            Verdict::Behind { mark: last.mark, unfinished }
        } else {
            Verdict::Grant
        }
    }

    /// Grants the key. Only after [`judge`](Self::judge) said so, and in the same atomic step. `ttl`: `None` for a process-bound
    /// lease.
    pub fn grant(
        &mut self,
        request: &Request,
        store_now: Timestamp,
        ttl: Option<Duration>,
    ) -> Granted {
        self.fence = if Rule::FenceFromClock.holds() {
            self.fence.next(store_now)
        } else {
            Fence::new(self.fence.as_u64() + 1)
        };
        let mut attempt = 1;
        let mut tick = None;
        if let (Some(claim), None) = (request.claim, &self.claims) {
            // Only without the rule `Enrolled`: an acquisition that makes up its own past.
            let last = ClaimState {
                mark: claim.tick,
                done: false,
                attempts: 1,
                owner: Some(request.node.clone()),
            };
            let schedule = Schedule { fingerprint: 0, since: claim.tick };
            self.claims =
                Some(Claims { last, previous: None, nonce: Some(request.nonce), schedule });
        } else if let (Some(claim), Some(claims)) = (request.claim, &mut self.claims) {
            attempt = if claims.last.mark == claim.tick {
                claims.last.attempts.saturating_add(1)
            } else {
                1
            };
            tick = Some(claim.tick);
            let won = ClaimState {
                mark: claim.tick,
                done: false,
                attempts: attempt,
                owner: Some(request.node.clone()),
            };
            if Rule::MarkOnWin.holds() {
                claims.previous = Some(std::mem::replace(&mut claims.last, won));
                claims.nonce = Some(request.nonce);
            }
        }
        self.holder = Some(LivingHolder {
            nonce: request.nonce,
            node: request.node.clone(),
            since: store_now,
            tick,
            attempt,
            until: ttl.map(|ttl| later(store_now, ttl)),
        });
        self.granted()
    }

    /// What the living holder was told when it won.
    fn granted(&self) -> Granted {
        let holder = self.holder.as_ref();
        let claimed = holder.is_some_and(|holder| holder.tick.is_some());
        let previous = self
            .claims
            .as_ref()
            .and_then(|claims| if claimed { claims.previous.clone() } else { None });
        Granted { fence: self.fence, previous, attempt: holder.map_or(1, |holder| holder.attempt) }
    }

    /// Extends the lease of `nonce` if it lives. Never revives one.
    pub fn renew(&mut self, nonce: Nonce, ttl: Duration, store_now: Timestamp) -> bool {
        match &mut self.holder {
            Some(LivingHolder { nonce: holder, until: Some(until), .. })
                if *holder == nonce && *until > store_now =>
            {
                *until = later(store_now, ttl);
                true
            }
            _ => false,
        }
    }

    /// Gives the lease of `nonce` back and settles its tick. Idempotent.
    pub fn release(&mut self, nonce: Nonce, after: MarkAfter, store_now: Timestamp) -> Released {
        if self.released == Some(nonce) {
            return Released::Done;
        }
        let owner = self.holder.as_ref().is_some_and(|holder| holder.nonce == nonce);
        let living = owner && self.living(store_now, true).is_some();
        self.settle(nonce, after, store_now);
        if owner || !Rule::OwnerCheck.holds() {
            self.holder = None;
        }
        // Only what answered `Done` answers it again.
        if living || !Rule::OwnerCheck.holds() {
            self.released = Some(nonce);
        }
        if living {
            Released::Done
        } else {
            Released::NotOwner { mark: self.last().map(|last| last.mark) }
        }
    }

    /// Gives back whatever `nonce` may hold, and refuses it from now on.
    pub fn revoke(&mut self, nonce: Nonce, after: MarkAfter, store_now: Timestamp) -> Released {
        self.refused.retain(|refused| refused.until > store_now && refused.nonce != nonce);
        if self.refused.len() == Self::MAX_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push(Refused { nonce, until: later(store_now, Self::REFUSED_FOR) });
        if !Rule::RevokeAfterEnd.holds()
            && self.living(store_now, true).is_none_or(|holder| holder.nonce != nonce)
        {
            return Released::NotOwner { mark: self.last().map(|last| last.mark) };
        }
        // A revoked nonce that comes round again must not look like a second, harmless release.
        let released = self.release(nonce, after, store_now);
        self.released = self.released.filter(|released| *released != nonce);
        released
    }

    /// The process of a process-bound holder has died (or closed its lock) without a release.
    pub fn holder_died(&mut self) {
        self.holder = None;
    }

    /// The store may have lost claims of ticks up to `mark`: none of them is granted any more, and no undo goes back there. Says
    /// whether that changed anything.
    pub fn forget_before(&mut self, mark: Mark) -> bool {
        let Some(claims) = &mut self.claims else { return false };
        let forgotten = || ClaimState { mark, done: true, attempts: 0, owner: None };
        if claims.last.mark < mark {
            (claims.last, claims.previous, claims.nonce) = (forgotten(), None, None);
            return true;
        }
        let undo_goes_below = claims.previous.as_ref().is_some_and(|previous| previous.mark < mark);
        if undo_goes_below {
            claims.previous = Some(forgotten());
        }
        undo_goes_below
    }

    /// Replaces the note if its version is still `expected`; answers with the note that stands now.
    ///
    /// # Errors
    ///
    /// Where the body is longer than [`Note::MAX_BYTES`].
    pub fn set_note(&mut self, expected: u64, body: &[u8]) -> Result<(Note, bool), BackendError> {
        if body.len() > Note::MAX_BYTES {
            let why = format!(
                "a note of {} bytes is longer than the limit of {} bytes: shorten it",
                body.len(),
                Note::MAX_BYTES
            );
            return Err(BackendError::new(crate::Kind::Unsupported, why));
        }
        let write = self.note.version == expected;
        if write {
            self.note = Note { version: expected + 1, body: body.to_vec() };
        }
        Ok((self.note.clone(), write))
    }

    /// Who holds the key. `alive` as in [`judge`](Self::judge).
    #[must_use]
    pub fn holder(&self, store_now: Timestamp, alive: bool) -> Option<Holder> {
        self.living(store_now, alive).map(|holder| self.describe(holder, store_now, true))
    }

    /// Says who holds the key, for stores that keep the holder apart from the record: as a key that ends with its session. To be
    /// called whenever both were read, before anything else is asked of the record.
    ///
    /// `Some`: this one, in its `attempt` of a tick, for as long as the store says so. `None`: nobody; whoever the record names held
    /// it once, and its lease is over.
    pub fn set_holder(&mut self, holder: Option<(&Holder, u32)>) {
        match holder {
            Some((Holder { nonce, node, since, tick, .. }, attempt)) => {
                let (node, since, tick) = (node.clone(), *since, *tick);
                let until = Some(NEVER_ENDS);
                self.holder =
                    nonce.map(|nonce| LivingHolder { nonce, node, since, tick, attempt, until });
            }
            None => {
                if let Some(holder) = &mut self.holder {
                    holder.until = Some(Timestamp::UNIX_EPOCH);
                }
            }
        }
    }

    fn living(&self, store_now: Timestamp, alive: bool) -> Option<&LivingHolder> {
        self.holder.as_ref().filter(|holder| holder.until.map_or(alive, |until| until > store_now))
    }

    fn describe(&self, holder: &LivingHolder, store_now: Timestamp, living: bool) -> Holder {
        let remaining = holder
            .until
            .map(|until| Duration::try_from(until.duration_since(store_now)).unwrap_or_default());
        let LivingHolder { nonce, node, since, tick, .. } = holder.clone();
        Holder { key: self.key.clone(), nonce: Some(nonce), node, since, tick, remaining, living }
    }

    /// Settles the tick that `nonce` claimed, if the mark is still where this nonce put it.
    fn settle(&mut self, nonce: Nonce, after: MarkAfter, store_now: Timestamp) {
        let tick = self
            .holder
            .as_ref()
            .filter(|holder| holder.nonce == nonce)
            .and_then(|holder| holder.tick);
        let Some(claims) = &mut self.claims else { return };
        if let (false, Some(tick)) = (Rule::MarkOnWin.holds(), tick) {
            // Only without the rule: the mark moves when the run ends.
            if after != MarkAfter::Undo {
                claims.last = ClaimState { mark: tick, done: true, attempts: 1, owner: None };
            }
            return;
        }
        if claims.nonce != Some(nonce) || claims.last.done {
            return;
        }
        match after {
            MarkAfter::Unfinished => {}
            MarkAfter::Done => claims.last.done = true,
            MarkAfter::DoneAndSkip(to) => {
                let to = if Rule::SkipUpToStoreClock.holds() {
                    to.min(Mark::floor(store_now))
                } else {
                    to
                };
                if to > claims.last.mark {
                    claims.last = ClaimState {
                        mark: to,
                        done: true,
                        attempts: 0,
                        owner: claims.last.owner.take(),
                    };
                } else {
                    claims.last.done = true;
                }
            }
            MarkAfter::Undo if Rule::MarkBackOnUndo.holds() => {
                if let Some(previous) = claims.previous.take() {
                    claims.last = previous;
                }
                claims.nonce = None;
            }
            MarkAfter::Undo => {}
        }
    }
}

fn may_run_again(delivery: Delivery, attempts: u32) -> bool {
    match delivery {
        Delivery::AtMostOnce => false,
        Delivery::AtLeastOnce { max_attempts } => {
            attempts < max_attempts || !Rule::BoundedAttempts.holds()
        }
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
