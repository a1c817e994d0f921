//! What the winner holds.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backend::{ClaimState, Lost, MarkAfter, Note, Released, Schedule};
use super::held::Held;
use super::keep::{Chore, Keep};
use super::{Fence, LockKey, Mark};
use crate::error::{Error, Result};

/// A held lock. It is renewed for as long as it lives and given back when it is dropped.
///
/// What it promises: until [`lost`](Self::lost) fires nobody else is granted the lock, provided that this process is not stopped
/// between a check and a write. Against that, hand [`fence`](Self::fence) to whatever you write to.
///
/// Dropping it gives the lock back without blocking: a task of this process does it a moment later. Use [`release`](Self::release)
/// to know when it is done.
///
/// # Forked children
///
/// In a forked child the guard is [`Lost::Forked`]: it neither renews nor releases what belongs to the parent.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once holds nothing"]
pub struct LockGuard {
    pub(super) held: Arc<Held>,
    pub(super) keep: Arc<Keep>,
    pub(super) after: MarkAfter,
    /// Given back, and acknowledged.
    pub(super) gone: bool,
}

impl LockGuard {
    pub(crate) fn new(held: Arc<Held>, keep: Arc<Keep>, after: MarkAfter) -> Self {
        Self { held, keep, after, gone: false }
    }

    /// The lock.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.held.key
    }

    /// The fencing token of this win. Give it to whatever you write to, and let *that* refuse older ones.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.held.fence
    }

    /// Whether the lock is still held, without asking anybody: by this process's clock, now.
    ///
    /// Best effort, as every check before an effect is: only a resource that compares the fence is safe against a pause between
    /// the two.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] once it is lost; it stays lost.
    pub fn check(&self) -> Result<Fence> {
        self.held
            .check(self.keep.clock.lease_now())
            .map_err(|why| Error::Lost { key: self.held.key.clone(), why })
    }

    /// Returns once the lock is lost; pending for as long as it is not. Where leases expire it returns a tenth of the ttl before
    /// another node can hold the lock; where the lock was taken away (freed by an operator, its file replaced, forgotten by the
    /// store) it can only say so afterwards.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn lost(&self) -> Lost {
        self.held.lost().await
    }

    /// A token that is cancelled when the lock is lost, for code that cannot hold the guard.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.held.token()
    }

    /// Runs `work` on the caller's task and hands its value back untouched.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] where the lock is lost first: `work` is dropped at its next await point.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work`; the lock stays held by the guard.
    ///
    /// ```
    /// # use solocron::lock::{Locks, MemoryBackend};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let locks = Locks::new(MemoryBackend::new())?;
    /// let guard = locks.try_lock("report").await?.won().expect("free");
    /// let rows = guard.run(async { 42 }).await?;
    /// assert_eq!(rows, 42);
    /// # Ok::<(), solocron::Error>(()) }).unwrap();
    /// ```
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.check()?;
        tokio::select! {
            biased;
            why = self.lost() => Err(Error::Lost { key: self.held.key.clone(), why }),
            value = work => Ok(value),
        }
    }

    /// Gives the lock back and waits until that is acknowledged. For a claimed tick: the run ended.
    ///
    /// Answers [`Released::NotOwner`] where it had been lost before; that is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where the store did not answer: it is tried on in the background, and the lease ends by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the rest to the background.
    pub async fn release(self) -> Result<Released> {
        let after = if self.after == MarkAfter::Unfinished { MarkAfter::Done } else { self.after };
        self.release_as(after).await
    }

    /// [`release`](Self::release), saying what becomes of the claimed tick.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    ///
    /// # Cancel safety
    ///
    /// As [`release`](Self::release).
    pub async fn release_as(self, after: MarkAfter) -> Result<Released> {
        self.release_after(0, after).await
    }

    /// [`release_as`](Self::release_as), where it was tried some times before.
    pub(super) async fn release_after(
        mut self,
        mut tries: u32,
        after: MarkAfter,
    ) -> Result<Released> {
        const TRIES: u32 = 3;
        // From here on, dropping this future leaves the same thing to the reaper.
        self.after = after;
        if self.held.forked() {
            self.gone = true;
            return Ok(Released::NotOwner { mark: None });
        }
        self.keep.let_go(&self.held);
        loop {
            if tries > 0 {
                self.keep.clock.sleep(self.held.timing.request_timeout / 10).await;
            }
            tries += 1;
            match self.keep.give_back(&self.held, after).await {
                Ok(released) => {
                    self.gone = true;
                    return Ok(released);
                }
                Err(error) if tries < TRIES && Keep::worth_retrying(&error) => {}
                Err(source) => {
                    return Err(Error::Backend {
                        doing: "release lock",
                        key: Some(self.held.key.clone()),
                        source,
                    });
                }
            }
        }
    }

    /// A way to check the lease for those who do not hold its guard.
    pub(crate) fn check_from_afar(&self) -> LeaseCheck {
        let (held, keep) = (Arc::clone(&self.held), Arc::clone(&self.keep));
        LeaseCheck { held, keep }
    }

    /// What happens to the claimed tick if the guard is dropped.
    pub(crate) fn on_drop(&mut self, after: MarkAfter) {
        self.after = after;
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.gone || self.held.forked() {
            return;
        }
        self.keep.let_go(&self.held);
        self.keep.leave(Chore::GiveBack { held: Arc::clone(&self.held), after: self.after });
    }
}

/// [`LockGuard::check`], without the guard.
#[derive(Debug)]
pub(crate) struct LeaseCheck {
    held: Arc<Held>,
    keep: Arc<Keep>,
}

impl LeaseCheck {
    pub(crate) fn check(&self) -> Result<Fence, Lost> {
        self.held.check(self.keep.clock.lease_now())
    }

    pub(crate) fn lease_now(&self) -> crate::clock::LeaseInstant {
        self.keep.clock.lease_now()
    }

    pub(crate) fn fence(&self) -> Fence {
        self.held.fence
    }

    /// Why it was lost, if somebody has noticed.
    pub(crate) fn why_lost(&self) -> Option<Lost> {
        self.held.why_lost()
    }

    /// [`LockGuard::lost`].
    pub(crate) async fn lost(&self) -> Lost {
        self.held.lost().await
    }

    /// Whether its guard is gone, or about to go.
    pub(crate) fn is_given_back(&self) -> bool {
        self.held.is_given_back()
    }

    /// Says that its guard is about to go.
    pub(crate) fn give_up(&self) {
        self.held.give_up();
    }

    /// Returns once it is lost or given back.
    pub(crate) async fn over(&self) {
        self.held.over().await;
    }

    /// How long after `why` was announced the lock may still be relied on: nothing, but where its end was seen coming.
    pub(crate) fn notice(&self, why: Lost) -> Duration {
        let remaining = self.held.deadline().saturating_since(self.lease_now());
        match why {
            Lost::Expired => remaining,
            Lost::MaxRuntime => remaining.min(self.held.timing.notice),
            _ => Duration::ZERO,
        }
    }

    /// Returns once the lock cannot be relied on any more: at its deadline, also where nobody announces that, or when it was taken
    /// away.
    pub(crate) async fn gone(&self) {
        loop {
            tokio::select! {
                biased;
                why = self.lost() => return self.keep.clock.sleep(self.notice(why)).await,
                () = self.keep.clock.sleep_until(self.held.deadline()) => if self.check().is_err() {
                    return;
                },
            }
        }
    }
}

/// A claimed tick: its lease, and what the record said when it was won.
#[derive(Debug)]
#[must_use = "a claimed tick that is dropped at once is a tick that nobody runs"]
#[non_exhaustive]
pub struct ClaimGuard {
    /// The lease. Dropping it leaves the tick unfinished, for its delivery to decide; releasing it says that the run ended.
    pub lease: LockGuard,
    /// The tick.
    pub tick: Mark,
    /// Which attempt of the tick, from 1.
    pub attempt: u32,
    /// The claim before this one.
    pub previous: Option<ClaimState>,
    /// The store's clock, if it has one.
    pub store_now: Option<jiff::Timestamp>,
    /// The schedule on record.
    pub schedule: Option<Schedule>,
    /// The note of the key.
    pub note: Note,
}

impl ClaimGuard {
    pub(crate) fn new(lease: LockGuard, tick: Mark, told: Told) -> Self {
        let Told { attempt, previous, store_now, schedule, note } = told;
        Self { lease, tick, attempt, previous, store_now, schedule, note }
    }

    /// Gives the tick back as if it had never been claimed. Only before its run has had any effect.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`].
    ///
    /// # Cancel safety
    ///
    /// As [`LockGuard::release`].
    pub async fn undo(self) -> Result<Released> {
        self.lease.release_as(MarkAfter::Undo).await
    }
}

/// The rest of a grant, without its lease.
pub(crate) struct Told {
    pub(crate) attempt: u32,
    pub(crate) previous: Option<ClaimState>,
    pub(crate) store_now: Option<jiff::Timestamp>,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) note: Note,
}
