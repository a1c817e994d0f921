//! The task of an elector: campaigns, holds, notices loss, gives back. It runs on the keeper, and it is the only writer of transitions.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::pace::Pace;
use super::pulse::Pulse;
use super::{Leadership, Seat, Transition};
use crate::clock::within;
use crate::error::{BackendError, Error, Kind, Result};
use crate::lock::{LockGuard, LockKey, Locks, Lost, NodeId, TryLock, safety};

/// What a handle asks of the task. It ends by itself when no handle is left.
pub(super) enum Order {
    /// End this term, and let somebody else have the next one.
    StepDown(oneshot::Sender<Result<bool>>),
    /// End this term and campaign no more.
    Resign(oneshot::Sender<Result<bool>>),
    /// Campaign no more; a term goes on for as long as somebody holds it.
    Retire,
}

pub(super) struct Campaign {
    pub(super) locks: Locks,
    pub(super) key: LockKey,
    pub(super) seat: Arc<Seat>,
    pub(super) pulse: Option<Pulse>,
    pub(super) orders: UnboundedReceiver<Order>,
    pub(super) transitions: UnboundedSender<Transition>,
}

/// Why a term is over.
enum End {
    Lost(Lost),
    StepDown(oneshot::Sender<Result<bool>>),
    Resign(Option<oneshot::Sender<Result<bool>>>),
    /// Its pulse stopped, after so many beats.
    Stuck(u64),
}

impl Campaign {
    pub(super) async fn run(mut self) {
        let (mut pace, mut pause, mut stuck) = (Pace::default(), Duration::ZERO, None);
        while let Some(guard) = self.follow(&mut pace, pause, stuck.take()).await {
            let leadership = Leadership::of(&guard);
            let (fence, begun) = (leadership.fence(), self.locks.clock().lease_now());
            self.seat.take(leadership.clone());
            self.tell(Transition::Elected(leadership.clone()));
            let (end, retired) = self.lead(&guard).await;
            match end {
                End::Lost(why) => {
                    let lasted = self.locks.clock().lease_now().saturating_since(begun);
                    self.tell(Transition::Lost { fence, why });
                    let (last, hands_over) = self.outlast(guard, &leadership, why).await;
                    if last || retired {
                        return;
                    }
                    pause = pace.lost(why, lasted, self.locks.ttl());
                    if hands_over {
                        pause = pause.max(Pace::HOLD_OFF);
                    }
                }
                End::StepDown(done) => {
                    self.resign(guard, &leadership, Some(done)).await;
                    if retired {
                        return;
                    }
                    pause = Pace::HOLD_OFF;
                }
                End::Stuck(beats) => {
                    tracing::warn!(key = %self.key, limit = ?self.longest_turn(), "the scheduler does not move: is its runtime blocked? Another node may lead");
                    self.resign(guard, &leadership, None).await;
                    (pause, stuck) = (Pace::HOLD_OFF, Some(beats));
                }
                End::Resign(done) => return self.resign(guard, &leadership, done).await,
            }
        }
    }

    /// How long a leader may go without a pulse: longer than any turn takes, and no shorter than the group waits for a dead one.
    fn longest_turn(&self) -> Duration {
        self.locks.ttl().max(Duration::from_secs(10))
    }

    /// Waits for the leadership, and before that for the pulse that stopped after so many beats. `None`: it is not wanted any more.
    async fn follow(
        &mut self,
        pace: &mut Pace,
        pause: Duration,
        stuck: Option<u64>,
    ) -> Option<LockGuard> {
        let Self { locks, key, orders, transitions, pulse, .. } = self;
        let done = {
            let mut winning = std::pin::pin!(async {
                if let (Some(pulse), Some(beats)) = (pulse, stuck) {
                    pulse.beats_again(&**locks.clock(), beats).await;
                }
                win(locks, key, transitions, pace, pause).await
            });
            loop {
                tokio::select! {
                    biased;
                    order = orders.recv() => match order {
                        Some(Order::StepDown(done)) => drop(done.send(Ok(false))),
                        Some(Order::Resign(done)) => break Some(done),
                        Some(Order::Retire) | None => break None,
                    },
                    guard = &mut winning => return Some(guard),
                }
            }
        };
        // Only now: what the dropped attempt may have won is left to the reaper.
        if let Some(done) = done {
            drop(done.send(Ok(false)));
        }
        None
    }

    /// Holds the leadership until it is over, and says whether it is the last one.
    async fn lead(&mut self, guard: &LockGuard) -> (End, bool) {
        let mut retired = false;
        let limit = self.longest_turn();
        let Self { locks, orders, pulse, .. } = self;
        let mut stuck = std::pin::pin!(async {
            match pulse {
                Some(pulse) => pulse.stopped(&**locks.clock(), limit).await,
                None => pending().await,
            }
        });
        let end = loop {
            tokio::select! {
                biased;
                why = guard.lost() => break End::Lost(why),
                order = orders.recv() => match order {
                    Some(Order::StepDown(done)) => break End::StepDown(done),
                    Some(Order::Resign(done)) => break End::Resign(Some(done)),
                    Some(Order::Retire) => retired = true,
                    None => break End::Resign(None),
                },
                // Whoever has retired does not plan any more; its runs hold the lock.
                beats = &mut stuck, if !retired => break End::Stuck(beats),
            }
        };
        (end, retired)
    }

    /// Keeps a lock that is lost, but not yet gone, until it is: whoever was told just now may still be at work, and relies on nobody
    /// else being elected yet. Orders are answered after that. Says whether this term was the last one, and whether the next is
    /// to be somebody else's: also where renewals failed, and it is this node that lets go.
    async fn outlast(
        &mut self,
        guard: LockGuard,
        leadership: &Leadership,
        why: Lost,
    ) -> (bool, bool) {
        let Self { locks, seat, orders, .. } = self;
        let (mut last, mut closed, mut asked) = (false, false, Vec::new());
        let notice = leadership.notice(why);
        {
            let mut over = std::pin::pin!(async {
                let clock = locks.clock();
                clock.sleep(notice).await;
                if !notice.is_zero() {
                    // What still goes on keeps others out for as long as the store itself would.
                    within(&**clock, safety(locks.ttl()), seat.unheld()).await;
                }
            });
            loop {
                tokio::select! {
                    biased;
                    () = &mut over => break,
                    order = orders.recv(), if !closed => match order {
                        Some(Order::StepDown(done)) => asked.push(done),
                        Some(Order::Resign(done)) => {
                            last = true;
                            asked.push(done);
                        }
                        Some(Order::Retire) => last = true,
                        None => (last, closed) = (true, true),
                    },
                }
            }
        }
        let hands_over = !asked.is_empty() || !notice.is_zero();
        if !asked.is_empty() {
            let released = guard.release().await.map(|_| false);
            for done in asked {
                drop(done.send(released.clone()));
            }
        }
        (last, hands_over)
    }

    async fn resign(
        &self,
        guard: LockGuard,
        leadership: &Leadership,
        done: Option<oneshot::Sender<Result<bool>>>,
    ) {
        // Over here first: nobody in this process believes in it when the store hears of it.
        leadership.give_up();
        self.tell(Transition::Resigned { fence: leadership.fence() });
        tokio::select! {
            biased;
            _ = guard.lost() => {}
            () = self.seat.unheld() => {}
        }
        let released = guard.release().await.map(|_| true);
        if let Some(done) = done {
            drop(done.send(released));
        }
    }

    fn tell(&self, transition: Transition) {
        tell(&self.transitions, &self.key, transition);
    }
}

fn tell(transitions: &UnboundedSender<Transition>, key: &LockKey, transition: Transition) {
    tracing::debug!(%key, ?transition, "election");
    // A reader that is gone wants to know nothing.
    drop(transitions.send(transition));
}

/// Tries, watches, waits, until the lock is won. Dropping it gives back what it may have won.
async fn win(
    locks: &Locks,
    key: &LockKey,
    transitions: &UnboundedSender<Transition>,
    pace: &mut Pace,
    pause: Duration,
) -> LockGuard {
    let clock = locks.clock();
    if !pause.is_zero() {
        clock.sleep(pause).await;
    }
    let gate = locks.gate(key);
    let _first_in_line = gate.lock().await;
    let (mut watch, mut followed) = (None, None);
    loop {
        let wait = match locks.try_key(key.clone()).await {
            Ok(TryLock::Won(guard)) => {
                pace.won();
                return guard;
            }
            Ok(TryLock::Busy(holder)) => {
                let remaining = holder.as_ref().and_then(|holder| holder.remaining);
                // What this node still has itself, of a term before, is being given back.
                let leader = holder.map(|holder| holder.node);
                if let Some(leader) = leader.filter(|leader| leader != locks.node())
                    && followed.as_ref() != Some(&leader)
                {
                    followed = Some(leader.clone());
                    tell(transitions, key, Transition::Follows { leader });
                }
                pace.busy(remaining, watch.is_some())
            }
            Err(error) => {
                let error = cause(error);
                let (wait, news) = pace.failed(&error, clock.lease_now());
                if news {
                    tell(transitions, key, Transition::Failed { error });
                    // Its end is told, too, by who leads then.
                    followed = None::<NodeId>;
                }
                clock.sleep(wait).await;
                continue;
            }
        };
        let Some(watching) = &mut watch else {
            // Watch first, then try again, then wait: a resignation in between must not be missed.
            watch = locks.watch(key).await;
            if watch.is_none() {
                clock.sleep(wait).await;
            }
            continue;
        };
        within(&**clock, wait, watching.changed()).await;
    }
}

fn cause(error: Error) -> BackendError {
    match error {
        Error::Backend { source, .. } => source,
        other => BackendError::new(Kind::Misconfigured, other),
    }
}
