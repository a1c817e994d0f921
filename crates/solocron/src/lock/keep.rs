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
//!
//! Most leases are given back after a moment, so a lease costs one entry and no task, no wake-up and no timer of its own. Whoever
//! still holds one after [`SETTLED_IN`] is also told of losses that the store pushes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::backend::{Lost, MarkAfter, Released, Renewal};
use super::driver::Driver;
use super::held::{Held, Won};
use super::keeper::Keeper;
use super::options::Timing;
use super::validity::Term;
use super::{LockKey, Nonce};
use crate::clock::{Clock, LeaseInstant, within};
use crate::error::{BackendError, Kind};

/// How long the loop lingers without a lease.
const LINGER: Duration = Duration::from_secs(1);

/// How old a lease is when somebody begins to listen for the pushed news of its loss. To listen costs a task: too much for a lease
/// that is given back in a moment, and who is told a moment later loses nothing that renewals would not tell much later.
const SETTLED_IN: Duration = Duration::from_millis(50);

/// What all handles of a [`Locks`](super::Locks) share.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keeper: Keeper,
    tells_loss: bool,
    next_id: AtomicU64,
    state: Mutex<State>,
    wake: Notify,
    /// A chore is done.
    chore_done: Notify,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<u64, Kept>,
    /// When to look at each lease. An entry of another time than its lease's `looks_at`, or of no lease, means nothing any more: most
    /// leases go before anybody looks at them, and to find their entries would cost more than to let them be.
    looks: BinaryHeap<Reverse<(LeaseInstant, u64)>>,
    chores: Vec<Chore>,
    /// Chores that are queued or under way.
    unsettled: usize,
    /// How many of them revoke an acquisition of a key.
    revoking: HashMap<LockKey, usize>,
    /// The process whose leases these are.
    pid: u32,
    running: bool,
    /// When the loop will look again by itself.
    looks_at: LeaseInstant,
}

#[derive(Debug)]
struct Kept {
    held: Arc<Held>,
    term: Term,
    /// When renewal ends, by `max_runtime`.
    ends_at: LeaseInstant,
    renewing: bool,
    /// A renewal of many got no answer: renewed alone until one does, so that one stuck key loses no other.
    alone: bool,
    /// From when on somebody listens for pushed news of its loss; never, where somebody does already, or there is none.
    listens_at: LeaseInstant,
    /// When it is looked at next.
    looks_at: LeaseInstant,
}

impl Kept {
    fn new(held: &Arc<Held>, now: LeaseInstant, listens_at: LeaseInstant) -> Self {
        let mut kept = Self {
            held: Arc::clone(held),
            term: held.first_term,
            ends_at: held.timing.max_runtime.map_or(LeaseInstant::NEVER, |limit| now + limit),
            renewing: false,
            alone: false,
            listens_at,
            looks_at: LeaseInstant::NEVER,
        };
        kept.looks_at = kept.next_look();
        kept
    }

    /// How often it is renewed, or verified.
    fn period(&self) -> Duration {
        match self.term.deadline {
            LeaseInstant::NEVER => self.held.timing.verify_every,
            _ => self.held.timing.renew_every,
        }
    }

    fn next_look(&self) -> LeaseInstant {
        let renew_at = if self.renewing { LeaseInstant::NEVER } else { self.term.renew_at };
        renew_at.min(self.term.warn_at).min(self.ends_at).min(self.listens_at)
    }
}

/// Leases that are renewed with one call.
type Due = Vec<Arc<Held>>;

/// What the loop has to do now.
#[derive(Default)]
struct ToDo {
    /// One call each.
    renewals: Vec<Due>,
    /// To be listened for.
    settled_in: Vec<Arc<Held>>,
}

/// Something to give back.
#[derive(Debug)]
pub(crate) enum Chore {
    /// A lease whose guard is gone.
    GiveBack { held: Arc<Held>, after: MarkAfter },
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
            next_id: AtomicU64::new(0),
            state: Mutex::new(state),
            wake: Notify::new(),
            chore_done: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if need be that of a process which was forked from the one that made it.
    fn own_state(&self) -> MutexGuard<'_, State> {
        self.state_of(std::process::id())
    }

    /// The state of the process `pid`: this one, or its parent where it was forked meanwhile.
    fn state_of(&self, pid: u32) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.pid != pid && pid == std::process::id() {
            // A forked child: its parent goes on keeping what it held, and the thread that did so is not in here.
            *state = State { pid, ..State::default() };
        }
        state
    }

    /// What this process has just won, to be [kept](Self::keep).
    pub(crate) fn held(&self, won: Won) -> Arc<Held> {
        Arc::new(Held::new(won, self.next_id.fetch_add(1, Ordering::Relaxed)))
    }

    /// Keeps leases that the process `pid` has won, each until [`let_go`](Self::let_go). Its forked child keeps none of them.
    pub(crate) fn keep<'a>(self: &Arc<Self>, won: impl Iterator<Item = &'a Arc<Held>>, pid: u32) {
        let mut won = won.peekable();
        if won.peek().is_none() {
            return;
        }
        let now = self.clock.lease_now();
        let listens_at = if self.tells_loss { now + SETTLED_IN } else { LeaseInstant::NEVER };
        let mut state = self.state_of(pid);
        if state.pid != pid {
            return;
        }
        let mut first = LeaseInstant::NEVER;
        for held in won {
            let kept = Kept::new(held, now, listens_at);
            first = first.min(kept.looks_at);
            state.look_at(held.id, kept.looks_at);
            state.leases.insert(held.id, kept);
        }
        state.forget_old_looks();
        let sooner = first < state.looks_at;
        self.rouse(state, sooner);
    }

    /// Renews a lease no more: it is given back.
    pub(crate) fn let_go(&self, held: &Held) {
        let kept = self.state().leases.remove(&held.id);
        held.give_up();
        drop(kept);
    }

    /// [`let_go`](Self::let_go) of many.
    pub(crate) fn let_go_each<'a>(&self, leases: impl Iterator<Item = &'a Held>) {
        let mut let_go = Vec::with_capacity(leases.size_hint().0);
        let mut state = self.state();
        for held in leases {
            let_go.push((held, state.leases.remove(&held.id)));
        }
        // Whoever is told may ask something of this state.
        drop(state);
        for (held, _) in let_go {
            held.give_up();
        }
    }

    /// Hears of a loss that the store pushes.
    async fn listen(self: Arc<Self>, held: Arc<Held>) {
        tokio::select! {
            // The news of our own release is no loss, and it may come before this task sees that we released.
            why = self.driver.lost(&held.lease) => if !held.is_given_back() {
                held.lose(why);
            },
            () = held.over() => {}
        }
    }

    /// Leaves something for the reaper.
    pub(crate) fn leave(self: &Arc<Self>, chore: Chore) {
        let mut state = self.own_state();
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

    /// Whether any acquisition is being revoked.
    pub(crate) fn revokes_any(&self, pid: u32) -> bool {
        !self.state_of(pid).revoking.is_empty()
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        loop {
            // Listen first, look then: the last chore may end in between.
            let chore_done = self.chore_done.notified();
            if done(&self.own_state()) {
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
            let (to_do, chores, next) = {
                let mut state = self.own_state();
                let (to_do, next) = state.look(now);
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
                (to_do, chores, state.looks_at)
            };
            for held in to_do.settled_in {
                self.keeper.spawn(Arc::clone(&self).listen(held));
            }
            for together in to_do.renewals {
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
        let leases: Vec<_> = due.iter().map(|held| Arc::clone(&held.lease)).collect();
        let limit = due.iter().map(|held| held.timing.request_timeout).min().unwrap_or_default();
        let sent = self.clock.lease_now();
        let answers = within(&*self.clock, limit, self.driver.renew(&leases, sent)).await;
        let (now, stuck) = (self.clock.lease_now(), answers.is_none());
        let mut answers = answers.unwrap_or_default().into_iter();
        let mut state = self.state();
        for held in due {
            let answer = answers.next().unwrap_or_else(|| Err(BackendError::timeout(limit)));
            let Some(kept) = state.leases.get_mut(&held.id) else { continue };
            (kept.renewing, kept.alone) = (false, stuck);
            match answer {
                Ok(Renewal::Extended(validity)) => {
                    kept.term = Term::of(validity, &held.timing, sent);
                    held.extend(kept.term.deadline);
                }
                Ok(Renewal::NotOwner(why)) => {
                    state.leases.remove(&held.id);
                    held.lose(why);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(key = %held.key, %error, "a renewal failed; trying again until the deadline");
                    let bound = kept.term.deadline == LeaseInstant::NEVER;
                    let timing = &held.timing;
                    let again = if bound { timing.verify_every } else { timing.ttl / 20 };
                    // Stuck together with others: at once, and alone.
                    kept.term.renew_at = if stuck && leases.len() > 1 { now } else { now + again };
                }
            }
            state.look_again(held.id);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Gives one thing back, until it is acknowledged or pointless.
    async fn tidy(self: Arc<Self>, chore: Chore) {
        let timing = match &chore {
            Chore::GiveBack { held, .. } => held.timing,
            Chore::Revoke { timing, .. } => *timing,
        };
        // A lease ends by itself, but a mark does not go back by itself: both get longer than any sane outage of a request.
        let until = self.clock.lease_now() + (timing.ttl * 4).max(Duration::from_secs(600));
        let mut pause = Duration::from_millis(20);
        loop {
            let answer = match &chore {
                Chore::GiveBack { held, after } => self.give_back(held, *after).await,
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
    ) -> Result<Released, BackendError> {
        let limit = held.timing.request_timeout;
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
    /// Declares what is over, collects what is to be done, and says when to look again.
    fn look(&mut self, now: LeaseInstant) -> (ToDo, LeaseInstant) {
        self.forget_old_looks();
        let mut to_do = ToDo::default();
        let (mut together, mut grace) = (Due::new(), Duration::ZERO);
        while let Some(id) = self.next_until(now) {
            let Some(kept) = self.leases.get_mut(&id) else { continue };
            let over = if now >= kept.term.warn_at {
                Some(Lost::Expired)
            } else if now >= kept.ends_at {
                Some(Lost::MaxRuntime)
            } else {
                None
            };
            if let Some(why) = over {
                kept.held.lose(why);
                self.leases.remove(&id);
                continue;
            }
            if now >= kept.listens_at {
                kept.listens_at = LeaseInstant::NEVER;
                to_do.settled_in.push(Arc::clone(&kept.held));
            }
            if !kept.renewing && now >= kept.term.renew_at {
                kept.renewing = true;
                let due = Arc::clone(&kept.held);
                if kept.alone {
                    to_do.renewals.push(vec![due]);
                } else {
                    grace = grace.max(kept.period() / 4);
                    together.push(due);
                }
            }
            self.look_again(id);
        }
        if !together.is_empty() {
            self.ride_along(now + grace, now, &mut together);
            to_do.renewals.push(together);
        }
        (to_do, self.looks.peek().map_or(LeaseInstant::NEVER, |Reverse((at, _))| *at))
    }

    /// Leases that come due a little later ride along: one call renews many.
    fn ride_along(&mut self, until: LeaseInstant, now: LeaseInstant, together: &mut Due) {
        let mut others = Vec::new();
        while let Some(id) = self.next_until(until) {
            let Some(kept) = self.leases.get_mut(&id) else { continue };
            let soon = kept.term.renew_at <= now + kept.period() / 4;
            if soon && !kept.renewing && !kept.alone {
                kept.renewing = true;
                together.push(Arc::clone(&kept.held));
            }
            others.push(id);
        }
        for id in others {
            self.look_again(id);
        }
    }

    /// Takes the first lease that is to be looked at until `at`.
    fn next_until(&mut self, at: LeaseInstant) -> Option<u64> {
        while let Some(&Reverse((looks_at, id))) = self.looks.peek() {
            let means_something =
                self.leases.get(&id).is_some_and(|kept| kept.looks_at == looks_at);
            if means_something && looks_at > at {
                return None;
            }
            self.looks.pop();
            if means_something {
                return Some(id);
            }
        }
        None
    }

    /// A lease is looked at when it next wants to be.
    fn look_again(&mut self, id: u64) {
        let Some(kept) = self.leases.get_mut(&id) else { return };
        kept.looks_at = kept.next_look();
        let at = kept.looks_at;
        self.look_at(id, at);
    }

    /// There is no entry for what is never looked at: it would stay at the end of the heap for ever.
    fn look_at(&mut self, id: u64, at: LeaseInstant) {
        if at != LeaseInstant::NEVER {
            self.looks.push(Reverse((at, id)));
        }
    }

    /// Entries that mean nothing any more are never the larger part of many.
    fn forget_old_looks(&mut self) {
        if self.looks.len() > 2 * self.leases.len() + 1024 {
            let leases = &self.leases;
            self.looks.retain(|Reverse((at, id))| {
                leases.get(id).is_some_and(|kept| kept.looks_at == *at)
            });
        }
    }
}
