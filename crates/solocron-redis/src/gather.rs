//! What many tasks of one runtime ask at the same time goes to the server together.
//!
//! ```text
//!   a task asks ──► no more than a call or two on their way: it sends its own, at once
//!          └──────► else it waits; as soon as a call is answered, all who wait go in one
//! ```
//!
//! A script costs the server more before it has looked at the first lock than with each lock. A task that asks alone never waits, and
//! nobody waits for more than one answer to others.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// So many calls may be on their way while nobody waits.
const AT_ONCE: usize = 2;

/// What one runtime asks of one kind: each `T` is answered with an `R`.
#[derive(Debug)]
pub(crate) struct Gather<T, R> {
    runtime: Handle,
    state: Mutex<State<T, R>>,
}

#[derive(Debug)]
struct State<T, R> {
    on_their_way: usize,
    waiting: Vec<(T, oneshot::Sender<R>)>,
}

impl<T: Send + 'static, R: Send + 'static> Gather<T, R> {
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        let state = State { on_their_way: 0, waiting: Vec::new() };
        Arc::new(Self { runtime, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State<T, R>> {
        // Every change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is asked: `alone`, or with what others ask by way of `send`. `None`: nobody knows what became of it.
    pub(crate) async fn ask<S, F>(
        self: &Arc<Self>,
        asked: impl FnOnce() -> T,
        alone: impl Future<Output = R>,
        send: S,
    ) -> Option<R>
    where
        S: Fn(Vec<T>) -> F + Clone + Send + 'static,
        F: Future<Output = Vec<R>> + Send,
    {
        let later = {
            let mut state = self.state();
            if state.on_their_way < AT_ONCE {
                state.on_their_way += 1;
                None
            } else {
                let (answer, later) = oneshot::channel();
                state.waiting.push((asked(), answer));
                Some(later)
            }
        };
        if let Some(later) = later {
            return later.await.ok();
        }
        let _turn = Turn { gather: self, send };
        Some(alone.await)
    }

    /// A call has ended: all who wait go in the next one.
    fn next<S, F>(self: &Arc<Self>, send: S)
    where
        S: Fn(Vec<T>) -> F + Clone + Send + 'static,
        F: Future<Output = Vec<R>> + Send,
    {
        let mut waiting = {
            let mut state = self.state();
            if state.waiting.is_empty() {
                state.on_their_way -= 1;
                return;
            }
            mem::take(&mut state.waiting)
        };
        // Whoever has stopped waiting revokes, perhaps before this is sent.
        waiting.retain(|(_, answer)| !answer.is_closed());
        let gather = Arc::clone(self);
        self.runtime.spawn(async move {
            let turn = Turn { gather: &gather, send };
            let (asked, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            if !asked.is_empty() {
                let answers = (turn.send)(asked).await;
                for (waiting, answer) in waiting.into_iter().zip(answers) {
                    // It may have stopped waiting.
                    let _ = waiting.send(answer);
                }
            }
        });
    }
}

/// A call on its way. When it has ended, or was dropped, it is somebody else's turn.
struct Turn<'a, T, R, S, F>
where
    T: Send + 'static,
    R: Send + 'static,
    S: Fn(Vec<T>) -> F + Clone + Send + 'static,
    F: Future<Output = Vec<R>> + Send,
{
    gather: &'a Arc<Gather<T, R>>,
    send: S,
}

impl<T, R, S, F> Drop for Turn<'_, T, R, S, F>
where
    T: Send + 'static,
    R: Send + 'static,
    S: Fn(Vec<T>) -> F + Clone + Send + 'static,
    F: Future<Output = Vec<R>> + Send,
{
    fn drop(&mut self) {
        self.gather.next(self.send.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[tokio::test]
    async fn who_asks_alone_sends_at_once_and_who_comes_meanwhile_goes_together() {
        let (gather, gate) = (Gather::new(Handle::current()), Arc::new(Semaphore::new(0)));
        let (sent, mut sizes) = mpsc::unbounded_channel();
        let ask = |asked: u32| {
            let (gather, gate, sent) = (Arc::clone(&gather), Arc::clone(&gate), sent.clone());
            tokio::spawn(async move {
                let send = move |asked: Vec<u32>| {
                    let (gate, sent) = (Arc::clone(&gate), sent.clone());
                    async move {
                        sent.send(asked.len()).unwrap();
                        gate.acquire().await.unwrap().forget();
                        asked.iter().map(|asked| asked * 10).collect::<Vec<_>>()
                    }
                };
                let alone = send(vec![asked]);
                gather.ask(|| asked, async move { alone.await[0] }, send.clone()).await
            })
        };
        let first: Vec<_> = (0..AT_ONCE as u32).map(ask).collect();
        for _ in &first {
            assert_eq!(sizes.recv().await, Some(1));
        }
        let later: Vec<_> = (10..15).map(ask).collect();
        tokio::task::yield_now().await;
        let dropped = ask(99);
        tokio::task::yield_now().await;
        while gather.state().waiting.len() < 6 {
            tokio::task::yield_now().await;
        }
        dropped.abort();
        let _ = dropped.await;
        gate.add_permits(1);
        assert_eq!(sizes.recv().await, Some(5), "all who still wait, in one");
        gate.add_permits(100);
        for (asked, answer) in (0..).zip(first) {
            assert_eq!(answer.await.unwrap(), Some(asked * 10));
        }
        for (asked, answer) in (10..).zip(later) {
            assert_eq!(answer.await.unwrap(), Some(asked * 10));
        }
        while gather.state().on_their_way > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_or_panics_leaves_its_turn_to_others() {
        let gather = Gather::new(Handle::current());
        for _ in 0..10 {
            let stuck = gather.ask(|| 1, std::future::pending(), async |asked| asked);
            assert!(tokio::time::timeout(Duration::from_millis(1), stuck).await.is_err());
        }
        let panics = {
            let gather = Arc::clone(&gather);
            tokio::spawn(async move {
                gather.ask(|| 1, async { panic!("as it must") }, async |asked| asked).await
            })
        };
        assert!(panics.await.is_err());
        assert_eq!(gather.ask(|| 7, async { 70 }, async |asked| asked).await, Some(70));
    }
}
