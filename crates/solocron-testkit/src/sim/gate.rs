//! A node's power switch: everything that a node does goes through its gate.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use solocron::lock::{Keeper, Work};

/// Pauses or kills what was spawned through it.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    paused: bool,
    killed: bool,
    /// Who wants to go on, or must notice that it is dead.
    waiting: Vec<Waker>,
    everybody: Vec<Waker>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pause(&self) {
        self.state().paused = true;
    }

    pub(super) fn resume(&self) {
        let mut state = self.state();
        state.paused = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Nothing behind this gate is polled again.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        state.killed = true;
        let mut waiting = std::mem::take(&mut state.waiting);
        waiting.append(&mut state.everybody);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().killed
    }

    /// Where a node spawns.
    pub(super) fn keeper(self: &Arc<Self>) -> Keeper {
        let gate = Arc::clone(self);
        Keeper::with(move |work| gate.spawn(work))
    }

    pub(super) fn spawn(self: &Arc<Self>, work: Work) {
        if !self.is_dead() {
            tokio::spawn(Gated { gate: Arc::clone(self), work: Some(work), known: false });
        }
    }
}

struct Gated {
    gate: Arc<Gate>,
    work: Option<Work>,
    known: bool,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.gate.state();
        if state.killed {
            drop(state);
            // Dropped, not polled: a dead process does nothing more. What its destructors want to spawn is dropped as well.
            this.work = None;
            return Poll::Ready(());
        }
        if state.paused {
            state.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        if !std::mem::replace(&mut this.known, true) {
            state.everybody.retain(|waker| !waker.will_wake(cx.waker()));
            state.everybody.push(cx.waker().clone());
        }
        drop(state);
        let Some(work) = &mut this.work else { return Poll::Ready(()) };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            this.work = None;
        }
        polled
    }
}
