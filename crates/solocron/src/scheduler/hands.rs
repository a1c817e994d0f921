//! What the loop does when the plan says so, most of it in tasks: enroll, claim, run, give back, watch, report.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Planned;
use super::hub::Message;
use super::run::{Engine, between};
use super::running::Running;
use super::term::Term;
use crate::clock::LeaseInstant;
use crate::ending::Ending;
use crate::event::{Event, What};
use crate::job::{Context, Told, Work};
use crate::lock::backend::{Claim, Enrolment, MarkAfter};
use crate::lock::release::release_each;
use crate::lock::{ClaimGuard, Fence, LockKey, Mark};
use crate::plan::Action;

/// How many jobs one task enrolls, claims or gives back for: one round trip to the store for many, while a second processor already runs the
/// first of them, and a store that blocks blocks nobody for long.
const MOST_IN_A_BATCH: usize = 1_000;

/// A lease of a job, between two tasks.
pub(super) struct Hand {
    pub(super) job: usize,
    pub(super) guard: Box<ClaimGuard>,
}

/// What is done for many jobs together, when all was heard.
#[derive(Default)]
pub(super) struct Pending {
    enrolling: Vec<usize>,
    claiming: Vec<(usize, Claim)>,
    releasing: Vec<(usize, Box<ClaimGuard>)>,
}

impl Engine {
    pub(super) fn act(&mut self, job: usize, action: Action) {
        match action {
            Action::Enroll => self.pending.enrolling.push(job),
            Action::Claim(claim) => self.pending.claiming.push((job, claim)),
            Action::Start { tick, missed } => self.start(job, tick, missed),
            Action::Undo => self.give_back(job, MarkAfter::Undo),
            Action::Release(after) => self.give_back(job, after),
            Action::Watch => self.watch(job),
            Action::Unwatch => drop(self.watches.remove(&job)),
            Action::Report(what) => self.report(job, what),
        }
    }

    /// Does what was put off.
    pub(super) fn flush(&mut self) {
        for batch in batches(&mut self.pending.enrolling) {
            self.enroll(batch);
        }
        for batch in batches(&mut self.pending.releasing) {
            self.release(batch);
        }
        if !self.stuck.is_empty() {
            // One that was stuck lately goes alone: it must not hold up the others of its instant.
            let claiming = std::mem::take(&mut self.pending.claiming);
            let (alone, together): (Vec<_>, _) =
                claiming.into_iter().partition(|(job, _)| self.stuck.contains(job));
            self.pending.claiming = together;
            for claim in alone {
                self.claim(vec![claim]);
            }
        }
        for batch in batches(&mut self.pending.claiming) {
            self.claim(batch);
        }
    }

    fn claim(&self, batch: Vec<(usize, Claim)>) {
        let (jobs, claims): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|(job, claim)| (job, (self.jobs[job].key.clone(), claim)))
            .unzip();
        let (locks, hub) = (self.marks.clone(), Arc::clone(&self.hub));
        self.spawner.spawn(async move {
            let claiming = locks.claim_each(claims, |mut replies| {
                for (at, _) in &mut replies {
                    *at = jobs[*at];
                }
                drop(hub.tell(Message::Answered(replies)));
            });
            hub.unless_over(claiming).await;
        });
    }

    fn enroll(&self, jobs: Vec<usize>) {
        let locks = self.marks.clone();
        let enrolments = jobs.iter().map(|job| {
            let (key, plan) = (self.jobs[*job].key.clone(), self.plan.job(*job));
            Enrolment { key, fingerprint: plan.fingerprint() }
        });
        let enrolments: Vec<_> = enrolments.collect();
        self.task(async move {
            let answers = locks.enroll_each(&enrolments).await;
            Message::Enrolled(jobs, answers)
        });
    }

    fn start(&mut self, job: usize, tick: Mark, missed: Vec<Mark>) {
        let Some(guard) = self.take_in_hand(job) else { return };
        let fence = self.leaders_fence().unwrap_or(guard.lease.fence());
        let (term, run_number) = self.term.as_mut().and_then(Term::start).unzip();
        let started = self.clock.now();
        // A tick that was due before this by the store's clock is somebody's to claim, however slow this node's clock is.
        let began = guard.store_now.map_or(started, |store_now| store_now.max(started));
        let lateness = between(tick.timestamp(), started);
        self.report(job, What::Started { tick, fence, lateness, missed: missed.len() });
        let Planned { key, work } = &self.jobs[job];
        let limit = self.plan.job(job).max_runtime();
        let ends_at = limit.map_or(LeaseInstant::NEVER, |limit| self.clock.lease_now() + limit);
        let context = Context::new(Told {
            job: key.clone(),
            tick,
            fence,
            run_number: run_number.unwrap_or(1),
            attempt: guard.attempt,
            missed,
            lateness,
            cancel: Ending::default(),
            abort: Ending::default(),
            stopping: self.stopping.clone(),
            lease: guard.lease.check_from_afar(),
            term: term.as_ref().map(|started| started.term.clone()),
            ends_at,
        });
        self.runs.insert(job, context.clone());
        let (clock, hub) = (Arc::clone(&self.clock), Arc::clone(&self.hub));
        let running = Running { job, guard, term, context, began, clock };
        match work.clone() {
            Work::Async(work) => self.spawner.spawn(async move {
                if let Some(message) = hub.unless_over(running.on_task(&work)).await {
                    drop(hub.tell(message));
                }
            }),
            // Not bound to this engine: nothing can stop such a run.
            Work::Blocking(work) => {
                let keeper = self.locks.keeper().clone();
                self.spawner.spawn(running.on_thread(work, hub, keeper));
            }
        }
    }

    fn take_in_hand(&mut self, job: usize) -> Option<Box<ClaimGuard>> {
        self.in_hand.take_if(|hand| hand.job == job).map(|hand| hand.guard)
    }

    fn give_back(&mut self, job: usize, after: MarkAfter) {
        let Some(mut guard) = self.take_in_hand(job) else { return };
        guard.lease.on_drop(after);
        self.pending.releasing.push((job, guard));
    }

    fn release(&self, batch: Vec<(usize, Box<ClaimGuard>)>) {
        let (jobs, leases): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|(job, guard)| (job, guard.lease)).unzip();
        let hub = Arc::clone(&self.hub);
        self.spawner.spawn(async move {
            // Where it failed, the reaper goes on; the key is busy until it is through, as it should be.
            let releasing = release_each(leases, |through| {
                let through = through.into_iter().map(|at| jobs[at]).collect();
                drop(hub.tell(Message::Released(through)));
            });
            hub.unless_over(releasing).await;
        });
    }

    fn watch(&mut self, job: usize) {
        let unwatched = CancellationToken::new();
        self.watches.insert(job, unwatched.clone().drop_guard());
        let (locks, key) = (self.marks.clone(), self.jobs[job].key.clone());
        let hub = Arc::clone(&self.hub);
        self.spawner.spawn(async move {
            let watching = async {
                let Some(mut watch) = locks.watch(&key).await else { return };
                // What happened before the watch began was not seen: try again now.
                while hub.tell(Message::Woken(job)).is_ok() {
                    watch.changed().await;
                }
            };
            let watching = async {
                tokio::select! {
                    biased;
                    () = unwatched.cancelled() => {}
                    () = watching => {}
                }
            };
            hub.unless_over(watching).await;
        });
    }

    /// Asks the store whether it forgot something.
    pub(super) fn ask_epoch(&mut self) {
        if !std::mem::replace(&mut self.asking_epoch, true) {
            let locks = self.marks.clone();
            self.task(async move { Message::Epoch(locks.epoch().await) });
        }
    }

    /// Runs `work` until it ends or this engine does, and hands its message to the loop.
    fn task(&self, work: impl Future<Output = Message> + Send + 'static) {
        let hub = Arc::clone(&self.hub);
        self.spawner.spawn(async move {
            if let Some(message) = hub.unless_over(work).await {
                drop(hub.tell(message));
            }
        });
    }

    /// The fence of runs, where that is the leader's.
    pub(super) fn leaders_fence(&self) -> Option<Fence> {
        self.term.as_ref().and_then(Term::fence)
    }

    pub(super) fn report(&self, job: usize, what: What) {
        self.report_as(&self.jobs[job].key, what);
    }

    pub(super) fn report_group(&self, what: What) {
        if let Some(term) = &self.term {
            self.report_as(term.group(), what);
        }
    }

    fn report_as(&self, key: &LockKey, what: What) {
        if self.observer.is_none() && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let event = Event { job: key.clone(), what };
        tracing::debug!(job = %event.job, what = ?event.what, "event");
        if let Some(observer) = &self.observer
            && catch_unwind(AssertUnwindSafe(|| observer(&event))).is_err()
        {
            tracing::error!(job = %event.job, "an observer panicked");
        }
    }
}

/// All of them, as many at a time as go together.
fn batches<T>(all: &mut Vec<T>) -> impl Iterator<Item = Vec<T>> + use<T> {
    let mut all = std::mem::take(all).into_iter();
    std::iter::from_fn(move || {
        let batch: Vec<_> = all.by_ref().take(MOST_IN_A_BATCH).collect();
        (!batch.is_empty()).then_some(batch)
    })
}
