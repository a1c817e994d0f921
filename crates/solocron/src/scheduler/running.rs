//! One run: begun, told to stop, stopped; its lease is kept for as long as it goes on.
//!
//! ```text
//!   async:     a task of the user's runtime owns lease, term and work ── told ──► a moment ──► dropped
//!
//!   blocking:  a thread owns lease and term ── runs to its end, whatever becomes of the runtime ──► gives both back
//!              a task tells it to stop; it may be dropped with its runtime at any time
//! ```
//!
//! A runtime that is dropped drops its tasks first and waits for its threads then, so what must outlive a blocking run belongs to
//! its thread.

use std::future::poll_fn;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;

use super::hub::{Ended, Hub, Message};
use super::run::{NOTICE, is_complete};
use super::term::Started;
use crate::caught::dropped;
use crate::clock::{Clock, LeaseInstant};
use crate::event::{Cancelled, Outcome};
use crate::job::{Begin, Block, Context, InTerm, Told};
use crate::lock::backend::MarkAfter;
use crate::lock::{ClaimGuard, Keeper};

/// How long a thread whose scheduler is gone waits for the store to acknowledge the end of its run.
const FAREWELL: Duration = Duration::from_secs(5);

/// A run that is about to begin.
pub(super) struct Running {
    pub(super) job: usize,
    pub(super) guard: Box<ClaimGuard>,
    pub(super) term: Option<Started>,
    pub(super) context: Context,
    /// By this node's clock or the store's, whichever is later.
    pub(super) began: Timestamp,
    pub(super) clock: Arc<dyn Clock>,
}

impl Running {
    /// Runs `work` on the caller's task. Dropping the future stops the run.
    pub(super) async fn on_task(mut self, work: &Begin) -> Message {
        // It may have waited long for its turn, and a term may have ended before its lock was held for this run.
        if let Err(why) = self.context.checkpoint() {
            return self.ended(Outcome::Cancelled(why)).0;
        }
        // From here on the run may have had an effect: only its end says that the tick is done.
        self.guard.lease.on_drop(MarkAfter::Unfinished);
        let mut running = work(self.context.clone());
        // Most runs that are short end before anything could stop them: they are not watched.
        let mut stop = None;
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(outcome) = running.as_mut().poll(cx) {
                return Poll::Ready(settle(outcome, self.context.told()));
            }
            let stop = stop.get_or_insert_with(|| Box::pin(self.watch().stop()));
            stop.as_mut().poll(cx).map(Outcome::Cancelled)
        })
        .await;
        drop(stop);
        dropped(running);
        self.ended(outcome).0
    }

    /// Runs `work` on a thread that may block. Dropping the future leaves the run alone: nothing can stop it, and its lease must
    /// outlive it.
    pub(super) async fn on_thread(mut self, work: Block, hub: Arc<Hub>, keeper: Keeper) {
        let watch = self.watch();
        let running = tokio::task::spawn_blocking(move || {
            // It may have waited long for a thread. (Dropped unrun, by a runtime that shuts down, it undoes its tick.)
            let outcome = match self.context.checkpoint() {
                Ok(()) => {
                    self.guard.lease.on_drop(MarkAfter::Unfinished);
                    settle(work(self.context.clone()), self.context.told())
                }
                Err(why) => Outcome::Cancelled(why),
            };
            let (message, term) = self.ended(outcome);
            if let Err(message) = hub.tell(message) {
                farewell(message, &keeper);
            }
            drop(term);
        });
        tokio::select! {
            biased;
            _ = running => {} // it has said so itself
            () = watch.told_to_stop() => {}
        }
    }

    fn watch(&self) -> Watch {
        Watch { context: self.context.clone(), clock: Arc::clone(&self.clock) }
    }

    /// The end, and what must be kept until it is told.
    fn ended(mut self, outcome: Outcome) -> (Message, Option<Started>) {
        let ended = self.clock.now();
        // Also where nobody hears of it any more: a run that ended is done.
        let complete = is_complete(&outcome);
        self.guard.lease.on_drop(if complete { MarkAfter::Done } else { MarkAfter::Unfinished });
        let Self { job, guard, term, began: started, .. } = self;
        (Message::Ended(Ended { job, guard, started, ended, outcome }), term)
    }
}

/// Gives back what nobody takes any more. The process may end with this thread, and then nothing would do so in the background.
fn farewell(message: Message, keeper: &Keeper) {
    let Message::Ended(Ended { guard, outcome, .. }) = message else { return };
    let after = if is_complete(&outcome) { MarkAfter::Done } else { MarkAfter::Unfinished };
    let (done, acknowledged) = mpsc::channel::<()>();
    keeper.spawn(async move {
        if let Err(error) = guard.lease.release_as(after).await {
            tracing::debug!(%error, "giving a lease back takes longer");
        }
        drop(done);
    });
    // Nothing is sent: it returns when the other end is gone, or gives up.
    let _ = acknowledged.recv_timeout(FAREWELL);
}

/// What may end a run, seen without owning any of it.
struct Watch {
    context: Context,
    clock: Arc<dyn Clock>,
}

impl Watch {
    /// Returns when a run was told to stop and had its moment, with what it was told.
    async fn stop(self) -> Cancelled {
        self.told_to_stop().await;
        self.moment().await;
        // A run that waits for its cancellation hears of it before it is stopped.
        tokio::task::yield_now().await;
        self.context.told().cancel.why().unwrap_or(Cancelled::Shutdown)
    }

    /// Returns when a run was told to stop, because its lease or the leadership is lost, it took too long, or the scheduler says so.
    async fn told_to_stop(&self) {
        let Told { cancel, abort, lease, term, ends_at, .. } = self.context.told();
        let too_long = async {
            match *ends_at {
                LeaseInstant::NEVER => std::future::pending().await,
                ends_at => self.clock.sleep_until(ends_at).await,
            }
        };
        let deposed = async {
            match term {
                Some(term) => term.ended().await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            biased;
            () = abort.ended() => return,
            why = lease.lost() => Cancelled::LeaseLost(why),
            why = deposed => why,
            () = too_long => Cancelled::Timeout,
        };
        cancel.end(why);
    }

    /// The moment that a run has after it was told, whatever it was told: until what keeps others from running the same is gone.
    async fn moment(&self) {
        let Told { abort, lease, term, .. } = self.context.told();
        let term_is_gone = async {
            match term {
                Some(InTerm { leadership, is_bare: true }) => leadership.gone().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = abort.ended() => {}
            () = lease.gone() => {}
            () = term_is_gone => {}
            () = self.clock.sleep(NOTICE) => {}
        }
    }
}

/// A run that noticed its cancellation and gave up was cut short; one that came to its end was not.
fn settle(outcome: Outcome, told: &Told) -> Outcome {
    match (told.cancel.why(), outcome) {
        (Some(why), Outcome::Failed(_)) => Outcome::Cancelled(why),
        (_, outcome) => outcome,
    }
}
