//! The keeping loop: renews leases, watches their deadlines, and gives back what was dropped.
//!
//! One loop for all leases of a [`Locks`](super::Locks), on its [`Keeper`]. It starts with the first lease, lingers for a second
//! after the last, and then ends, so that taking and releasing in quick succession wakes no other thread.
//!
//! ```text
//!   keep(lease) ──► leases ──► look: due for renewal ──► one renew call for all of them, with a timeout ──► look again
//!                              look: warn_at passed  ──► lost, whatever a hanging call may still say
//!   drop(guard) ──► chores ──► give back, until acknowledged or pointless (the reaper)
//! ```
//!
//! The deadline never waits for a call: renewals run beside the loop, not in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::backend::{Lost, MarkAfter, Released, Renewal};
use super::driver::Driver;
use super::held::Held;
use super::keeper::Keeper;
use super::options::Timing;
use super::validity::Term;
use super::{LockKey, Nonce};
use crate::clock::{Clock, LeaseInstant, within};
use crate::error::{BackendError, Kind};

/// How long the loop lingers without a lease.
const LINGER: Duration = Duration::from_secs(1);

/// What all handles of a [`Locks`](super::Locks) share.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keeper: Keeper,
    tells_loss: bool,
    state: Mutex<State>,
    wake: Notify,
    /// A chore is done.
    chore_done: Notify,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<u64, Kept>,
    chores: Vec<Chore>,
    /// Chores that are queued or under way.
    unsettled: usize,
    /// How many of them revoke an acquisition of a key.
    revoking: HashMap<LockKey, usize>,
    /// The process whose leases these are.
    pid: u32,
    next_id: u64,
    running: bool,
    /// When the loop will look again by itself.
    looks_at: LeaseInstant,
}

#[derive(Debug)]
struct Kept {
    held: Arc<Held>,
    timing: Timing,
    term: Term,
    /// When renewal ends, by `max_runtime`.
    ends_at: LeaseInstant,
    renewing: bool,
    /// A renewal of many got no answer: renewed alone until one does, so that one stuck key loses no other.
    alone: bool,
}

impl Kept {
    /// How often it is renewed, or verified.
    fn period(&self) -> Duration {
        match self.term.deadline {
            LeaseInstant::NEVER => self.timing.verify_every,
            _ => self.timing.renew_every,
        }
    }

    fn next_look(&self) -> LeaseInstant {
        let renew_at = if self.renewing { LeaseInstant::NEVER } else { self.term.renew_at };
        renew_at.min(self.term.warn_at).min(self.ends_at)
    }
}

/// Leases that are renewed with one call.
type Due = Vec<(u64, Arc<Held>, Timing)>;

/// Something to give back.
#[derive(Debug)]
pub(crate) enum Chore {
    /// A lease whose guard is gone.
    GiveBack { held: Arc<Held>, after: MarkAfter, timing: Timing },
    /// An acquisition of unknown outcome.
    Revoke { key: LockKey, nonce: Nonce, timing: Timing },
}

impl Keep {
    pub(crate) fn new(driver: Arc<dyn Driver>, clock: Arc<dyn Clock>, keeper: Keeper) -> Self {
        let tells_loss = driver.capabilities().tells_loss;
        let state = State { pid: std::process::id(), ..State::default() };
        Self {
            driver,
            clock,
            keeper,
            tells_loss,
            state: Mutex::new(state),
            wake: Notify::new(),
            chore_done: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        if state.pid != pid {
            // A forked child: its parent goes on keeping what it held, and the thread that did so is not in here.
            *state = State { next_id: state.next_id, pid, ..State::default() };
        }
        state
    }

    /// Keeps a lease until [`let_go`](Self::let_go). Answers with its number.
    pub(crate) fn keep(self: &Arc<Self>, held: &Arc<Held>, timing: Timing, term: Term) -> u64 {
        let now = self.clock.lease_now();
        let ends_at = timing.max_runtime.map_or(LeaseInstant::NEVER, |limit| now + limit);
        let kept =
            Kept { held: Arc::clone(held), timing, term, ends_at, renewing: false, alone: false };
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        let sooner = kept.next_look() < state.looks_at;
        state.leases.insert(id, kept);
        self.rouse(state, sooner);
        if self.tells_loss {
            let (keep, held) = (Arc::clone(self), Arc::clone(held));
            self.keeper.spawn(async move {
                tokio::select! {
                    // The news of our own release is no loss, and it may come before this task sees that we released.
                    why = keep.driver.lost(&held.lease) => if !held.given_back.is_cancelled() {
                        held.lose(why);
                    },
                    () = held.given_back.cancelled() => {}
                    () = held.over.cancelled() => {}
                }
            });
        }
        id
    }

    /// Renews lease `id` no more.
    pub(crate) fn let_go(&self, id: u64) {
        self.state().leases.remove(&id);
    }

    /// Leaves something for the reaper.
    pub(crate) fn leave(self: &Arc<Self>, chore: Chore) {
        let mut state = self.state();
        if let Chore::Revoke { key, .. } = &chore {
            *state.revoking.entry(key.clone()).or_default() += 1;
        }
        state.chores.push(chore);
        state.unsettled += 1;
        self.rouse(state, true);
    }

    /// Returns when the reaper has nothing left to give back.
    pub(crate) async fn settled(&self) {
        self.until(|state| state.unsettled == 0).await;
    }

    /// Returns when no acquisition of `key` is being revoked. A fresh nonce that is sent earlier could meet the old one.
    pub(crate) async fn revoked(&self, key: &LockKey) {
        self.until(|state| !state.revoking.contains_key(key)).await;
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        loop {
            let mut chore_done = std::pin::pin!(self.chore_done.notified());
            // Listen first, look then: the last chore may end in between.
            chore_done.as_mut().enable();
            if done(&self.state()) {
                return;
            }
            chore_done.await;
        }
    }

    /// Starts the loop if it does not run, wakes it if it sleeps for too long.
    fn rouse(self: &Arc<Self>, mut state: MutexGuard<'_, State>, sooner: bool) {
        if state.running {
            drop(state);
            if sooner {
                self.wake.notify_one();
            }
            return;
        }
        state.running = true;
        drop(state);
        self.keeper.spawn(Arc::clone(self).run());
    }

    async fn run(self: Arc<Self>) {
        let mut idle_since = None;
        loop {
            let now = self.clock.lease_now();
            let (renewals, chores, next) = {
                let mut state = self.state();
                let (renewals, next) = state.look(now);
                let chores = std::mem::take(&mut state.chores);
                let idle = state.leases.is_empty() && chores.is_empty();
                let since = idle.then(|| *idle_since.get_or_insert(now));
                if !idle {
                    idle_since = None;
                }
                if since.is_some_and(|since| now.saturating_since(since) >= LINGER) {
                    state.running = false;
                    return;
                }
                let next = next.min(since.map_or(LeaseInstant::NEVER, |since| since + LINGER));
                // New leases that are due later than this need not wake the loop.
                state.looks_at = next.min(now + LINGER);
                (renewals, chores, state.looks_at)
            };
            for together in renewals {
                self.keeper.spawn(Arc::clone(&self).renew(together));
            }
            for chore in chores {
                self.keeper.spawn(Arc::clone(&self).tidy(chore));
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    /// Renews many leases with one call.
    async fn renew(self: Arc<Self>, due: Due) {
        let leases: Vec<_> = due.iter().map(|(_, held, _)| Arc::clone(&held.lease)).collect();
        let limit =
            due.iter().map(|(_, _, timing)| timing.request_timeout).min().unwrap_or_default();
        let sent = self.clock.lease_now();
        let answers = within(&*self.clock, limit, self.driver.renew(&leases, sent)).await;
        let (now, stuck) = (self.clock.lease_now(), answers.is_none());
        let mut answers = answers.unwrap_or_default().into_iter();
        let mut state = self.state();
        for (id, held, timing) in due {
            let answer = answers.next().unwrap_or_else(|| Err(BackendError::timeout(limit)));
            let Some(kept) = state.leases.get_mut(&id) else { continue };
            (kept.renewing, kept.alone) = (false, stuck);
            match answer {
                Ok(Renewal::Extended(validity)) => {
                    kept.term = Term::of(validity, &timing, sent);
                    held.extend(kept.term.deadline);
                }
                Ok(Renewal::NotOwner(why)) => {
                    state.leases.remove(&id);
                    held.lose(why);
                }
                Err(error) => {
                    tracing::debug!(key = %held.key, %error, "a renewal failed; trying again until the deadline");
                    let bound = kept.term.deadline == LeaseInstant::NEVER;
                    let again = if bound { timing.verify_every } else { timing.ttl / 20 };
                    // Stuck together with others: at once, and alone.
                    kept.term.renew_at = if stuck && leases.len() > 1 { now } else { now + again };
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Gives one thing back, until it is acknowledged or pointless.
    async fn tidy(self: Arc<Self>, chore: Chore) {
        let timing = match &chore {
            Chore::GiveBack { timing, .. } | Chore::Revoke { timing, .. } => *timing,
        };
        // A lease ends by itself, but a mark does not go back by itself: both get longer than any sane outage of a request.
        let until = self.clock.lease_now() + (timing.ttl * 4).max(Duration::from_secs(600));
        let mut pause = Duration::from_millis(20);
        loop {
            let answer = match &chore {
                Chore::GiveBack { held, after, .. } => self.give_back(held, *after, &timing).await,
                Chore::Revoke { key, nonce, .. } => {
                    let call = self.driver.revoke(key, *nonce, MarkAfter::Undo);
                    within(&*self.clock, timing.request_timeout, call)
                        .await
                        .unwrap_or_else(|| Err(BackendError::timeout(timing.request_timeout)))
                }
            };
            match answer {
                Ok(_) => break,
                Err(error) if !error.kind().is_transient() || self.clock.lease_now() >= until => {
                    tracing::warn!(?chore, %error, "could not give a lock back; it is free when its lease ends");
                    break;
                }
                Err(_) => self.clock.sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        let mut state = self.state();
        state.unsettled = state.unsettled.saturating_sub(1);
        if let Chore::Revoke { key, .. } = &chore
            && let Some(count) = state.revoking.get_mut(key)
        {
            *count -= 1;
            if *count == 0 {
                state.revoking.remove(key);
            }
        }
        drop(state);
        self.chore_done.notify_waiters();
    }

    /// One attempt at giving a lease back.
    pub(crate) async fn give_back(
        &self,
        held: &Held,
        after: MarkAfter,
        timing: &Timing,
    ) -> Result<Released, BackendError> {
        let limit = timing.request_timeout;
        let answer = if held.resent {
            // A late copy of the request must not win what was just given back.
            within(&*self.clock, limit, self.driver.revoke(&held.key, held.nonce, after)).await
        } else {
            within(&*self.clock, limit, self.driver.release(&held.lease, after)).await
        };
        answer.unwrap_or_else(|| Err(BackendError::timeout(limit)))
    }

    /// Whether a failed give-back may be tried again at once.
    pub(crate) fn worth_retrying(error: &BackendError) -> bool {
        matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
    }
}

impl State {
    /// Declares what is over, collects what is to be renewed, in one call each, and says when to look again.
    fn look(&mut self, now: LeaseInstant) -> (Vec<Due>, LeaseInstant) {
        let (mut together, mut alone) = (Due::new(), Vec::new());
        let mut any_due = false;
        self.leases.retain(|id, kept| {
            let over = if now >= kept.term.warn_at {
                Some(Lost::Expired)
            } else if now >= kept.ends_at {
                Some(Lost::MaxRuntime)
            } else {
                None
            };
            if let Some(why) = over {
                kept.held.lose(why);
                return false;
            }
            // Leases that come due a little later ride along: one call renews many.
            if !kept.renewing && kept.term.renew_at <= now + kept.period() / 4 {
                let due = (*id, Arc::clone(&kept.held), kept.timing);
                if !kept.alone {
                    any_due |= kept.term.renew_at <= now;
                    together.push(due);
                } else if kept.term.renew_at <= now {
                    alone.push(vec![due]);
                }
            }
            true
        });
        let mut calls = alone;
        if any_due {
            calls.push(together);
        }
        for (id, ..) in calls.iter().flatten() {
            if let Some(kept) = self.leases.get_mut(id) {
                kept.renewing = true;
            }
        }
        let next = self.leases.values().map(Kept::next_look).min().unwrap_or(LeaseInstant::NEVER);
        (calls, next)
    }
}
