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

use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::mpsc::error::SendError;
use tokio_util::sync::CancellationToken;

use super::run::{Message, NOTICE, is_complete};
use super::term::Started;
use crate::caught::dropped;
use crate::clock::{Clock, LeaseInstant};
use crate::event::{Cancelled, Outcome};
use crate::job::{Begin, Block, Cancel, Context, InTerm};
use crate::lock::backend::MarkAfter;
use crate::lock::guard::LeaseCheck;
use crate::lock::{ClaimGuard, Keeper};

/// How long a thread whose scheduler is gone waits for the store to acknowledge the end of its run.
const FAREWELL: Duration = Duration::from_secs(5);

/// A run that is about to begin.
pub(super) struct Running {
    pub(super) job: usize,
    pub(super) guard: Box<ClaimGuard>,
    pub(super) term: Option<Started>,
    pub(super) context: Context,
    pub(super) cancel: Cancel,
    pub(super) abort: CancellationToken,
    pub(super) ends_at: LeaseInstant,
    /// By this node's clock or the store's, whichever is later.
    pub(super) began: Timestamp,
    pub(super) clock: Arc<dyn Clock>,
}

impl Running {
    /// Runs `work` on the caller's task. Dropping the future stops the run.
    pub(super) async fn on_task(mut self, work: &Begin) -> Message {
        let watch = self.watch();
        // It may have waited long for its turn, and a term may have ended before its lock was held for this run.
        if let Err(why) = self.context.checkpoint() {
            return self.ended(Outcome::Cancelled(why)).0;
        }
        // From here on the run may have had an effect: only its end says that the tick is done.
        self.guard.lease.on_drop(MarkAfter::Unfinished);
        let mut running = work(self.context.clone());
        let stop = async {
            watch.told_to_stop().await;
            watch.moment().await;
            // A run that waits for its cancellation hears of it before it is stopped.
            tokio::task::yield_now().await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = &mut running => settle(outcome, &self.cancel),
            () = stop => Outcome::Cancelled(self.cancel.why().unwrap_or(Cancelled::Shutdown)),
        };
        dropped(running);
        self.ended(outcome).0
    }

    /// Runs `work` on a thread that may block. Dropping the future leaves the run alone: nothing can stop it, and its lease must
    /// outlive it.
    pub(super) async fn on_thread(
        mut self,
        work: Block,
        to_loop: UnboundedSender<Message>,
        keeper: Keeper,
    ) {
        let watch = self.watch();
        let running = tokio::task::spawn_blocking(move || {
            // It may have waited long for a thread. (Dropped unrun, by a runtime that shuts down, it undoes its tick.)
            let outcome = match self.context.checkpoint() {
                Ok(()) => {
                    self.guard.lease.on_drop(MarkAfter::Unfinished);
                    settle(work(self.context.clone()), &self.cancel)
                }
                Err(why) => Outcome::Cancelled(why),
            };
            let (message, term) = self.ended(outcome);
            if let Err(SendError(message)) = to_loop.send(message) {
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
        Watch {
            lease: self.guard.lease.check_from_afar(),
            term: self.term.as_ref().map(|started| started.term.clone()),
            cancel: self.cancel.clone(),
            abort: self.abort.clone(),
            ends_at: self.ends_at,
            clock: Arc::clone(&self.clock),
        }
    }

    /// The end, and what must be kept until it is told.
    fn ended(mut self, outcome: Outcome) -> (Message, Option<Started>) {
        let ended = self.clock.now();
        // Also where nobody hears of it any more: a run that ended is done.
        let complete = is_complete(&outcome);
        self.guard.lease.on_drop(if complete { MarkAfter::Done } else { MarkAfter::Unfinished });
        let Self { job, guard, term, began: started, .. } = self;
        (Message::Ended { job, guard, started, ended, outcome }, term)
    }
}

/// Gives back what nobody takes any more. The process may end with this thread, and then nothing would do so in the background.
fn farewell(message: Message, keeper: &Keeper) {
    let Message::Ended { guard, outcome, .. } = message else { return };
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
    lease: LeaseCheck,
    term: Option<InTerm>,
    cancel: Cancel,
    abort: CancellationToken,
    ends_at: LeaseInstant,
    clock: Arc<dyn Clock>,
}

impl Watch {
    /// Returns when a run was told to stop, because its lease or the leadership is lost, it took too long, or the scheduler says so.
    async fn told_to_stop(&self) {
        let too_long = async {
            match self.ends_at {
                LeaseInstant::NEVER => std::future::pending().await,
                ends_at => self.clock.sleep_until(ends_at).await,
            }
        };
        let deposed = async {
            match &self.term {
                Some(term) => term.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.abort.cancelled() => {}
            why = self.lease.lost() => self.cancel.cancel(Cancelled::LeaseLost(why)),
            why = deposed => self.cancel.cancel(why),
            () = too_long => self.cancel.cancel(Cancelled::Timeout),
        }
    }

    /// The moment that a run has after it was told, whatever it was told: until what keeps others from running the same is gone.
    async fn moment(&self) {
        let term_is_gone = async {
            match &self.term {
                Some(term) if term.is_bare => term.leadership.gone().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.abort.cancelled() => {}
            () = self.lease.gone() => {}
            () = term_is_gone => {}
            () = self.clock.sleep(NOTICE) => {}
        }
    }
}

/// A run that noticed its cancellation and gave up was cut short; one that came to its end was not.
fn settle(outcome: Outcome, cancel: &Cancel) -> Outcome {
    match (cancel.why(), outcome) {
        (Some(why), Outcome::Failed(_)) => Outcome::Cancelled(why),
        (_, outcome) => outcome,
    }
}
