//! What the loop and its tasks share.

use std::future::poll_fn;
use std::task::Poll;

use jiff::Timestamp;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::ending::Ending;
use crate::error::{BackendError, Result};
use crate::event::Outcome;
use crate::lock::backend::{Enrolled, Epoch};
use crate::lock::{ClaimGuard, ClaimReply};

/// What a task has to say.
pub(super) enum Message {
    Enrolled(Vec<usize>, Vec<Result<Enrolled, BackendError>>),
    Answered(Vec<(usize, Result<ClaimReply, BackendError>)>),
    Woken(usize),
    Ended(Ended),
    Released(Vec<usize>),
    Epoch(Result<Epoch, BackendError>),
}

/// A run that has ended.
pub(super) struct Ended {
    pub(super) job: usize,
    pub(super) guard: Box<ClaimGuard>,
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) outcome: Outcome,
}

impl Message {
    /// How many jobs it is about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Enrolled(jobs, _) | Self::Released(jobs) => jobs.len(),
            Self::Answered(replies) => replies.len(),
            Self::Woken(_) | Self::Ended(_) | Self::Epoch(_) => 1,
        }
    }
}

/// What every task of an engine has.
pub(super) struct Hub {
    to_loop: UnboundedSender<Message>,
    /// That of the engine: its tasks end with it.
    over: Ending<()>,
}

impl Hub {
    pub(super) fn new() -> (Self, UnboundedReceiver<Message>) {
        let (to_loop, messages) = unbounded_channel();
        (Self { to_loop, over: Ending::default() }, messages)
    }

    /// Hands `message` to the loop.
    ///
    /// # Errors
    ///
    /// The message, where the loop is gone. Dropped, a guard in it gives itself back.
    pub(super) fn tell(&self, message: Message) -> Result<(), Message> {
        self.to_loop.send(message).map_err(|SendError(message)| message)
    }

    /// The engine is over.
    pub(super) fn end(&self) {
        self.over.end(());
    }

    /// Does `work` until it ends, or drops it when the engine ends. Work that never waits costs no more than to look.
    pub(super) async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let is_over = poll_fn(|_| match self.over.why() {
            Some(()) => Poll::Ready(()),
            None => Poll::Pending,
        });
        tokio::select! {
            biased;
            () = is_over => None,
            value = work => Some(value),
            () = self.over.ended() => None,
        }
    }
}
