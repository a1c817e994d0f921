//! What many tasks of one runtime ask at the same time goes to the server together.
//!
//! ```text
//!   a task asks ──► no more than a call or two on their way: it sends its own, at once
//!          └──────► else it waits; as soon as a call is answered, all who wait go in one
//!                     └─ for no longer than a moment: then it sends its own
//! ```
//!
//! A script costs the server more before it has looked at the first lock than with each lock. A task that asks alone never waits, and
//! nobody waits for long for answers to others: a call is over only when its task is polled, and that is somebody else's business.

use std::mem;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// So many calls may be on their way while nobody waits.
const AT_ONCE: usize = 2;

/// Whoever waits longer than this for others sends its own: many times what a call takes, a small part of what one may take.
const PATIENCE: Duration = Duration::from_millis(20);

/// What one runtime asks of one kind: each `T` is answered with an `R`.
#[derive(Debug)]
pub(crate) struct Gather<T, R> {
    runtime: Handle,
    state: Mutex<State<T, R>>,
}

#[derive(Debug)]
struct State<T, R> {
    on_their_way: usize,
    waiting: Vec<Waiting<T, R>>,
    /// How many have waited: tells them apart.
    waited: u64,
}

#[derive(Debug)]
struct Waiting<T, R> {
    number: u64,
    asked: T,
    answer: oneshot::Sender<R>,
}

impl<T: Send + 'static, R: Send + 'static> Gather<T, R> {
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        let state = State { on_their_way: 0, waiting: Vec::new(), waited: 0 };
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
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        let later = {
            let mut state = self.state();
            if state.on_their_way < AT_ONCE {
                state.on_their_way += 1;
                None
            } else {
                let (answer, later) = oneshot::channel();
                let number = state.waited;
                state.waited += 1;
                state.waiting.push(Waiting { number, asked: asked(), answer });
                Some((number, later))
            }
        };
        let Some((number, later)) = later else {
            let _turn = Turn { gather: Arc::clone(self), send };
            return Some(alone.await);
        };
        let mut later = pin!(later);
        if let Ok(answer) = tokio::time::timeout(PATIENCE, later.as_mut()).await {
            return answer.ok();
        }
        let not_sent = {
            let mut state = self.state();
            let before = state.waiting.len();
            state.waiting.retain(|waiting| waiting.number != number);
            state.waiting.len() < before
        };
        if not_sent { Some(alone.await) } else { later.await.ok() }
    }

    /// A call has ended: all who wait go in the next one.
    fn next<S, F>(self: &Arc<Self>, send: S)
    where
        S: Fn(Vec<T>) -> F + Clone + Send + 'static,
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        let mut waiting = {
            let mut state = self.state();
            if state.waiting.is_empty() {
                state.on_their_way -= 1;
                return;
            }
            mem::take(&mut state.waiting)
        };
        // Made here: a runtime that ends may drop the task before it has begun.
        let turn = Turn { gather: Arc::clone(self), send };
        self.runtime.spawn(async move {
            // Whoever has stopped waiting revokes, perhaps long before this runtime has come so far.
            waiting.retain(|waiting| !waiting.answer.is_closed());
            let (asked, waiting): (Vec<_>, Vec<_>) =
                waiting.into_iter().map(|waiting| (waiting.asked, waiting.answer)).unzip();
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
struct Turn<T, R, S, F>
where
    T: Send + 'static,
    R: Send + 'static,
    S: Fn(Vec<T>) -> F + Clone + Send + 'static,
    F: Future<Output = Vec<R>> + Send + 'static,
{
    gather: Arc<Gather<T, R>>,
    send: S,
}

impl<T, R, S, F> Drop for Turn<T, R, S, F>
where
    T: Send + 'static,
    R: Send + 'static,
    S: Fn(Vec<T>) -> F + Clone + Send + 'static,
    F: Future<Output = Vec<R>> + Send + 'static,
{
    fn drop(&mut self) {
        self.gather.next(self.send.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    /// Polls a call once, and leaves it at that.
    async fn begin<T>(mut call: Pin<&mut (impl Future<Output = T> + ?Sized)>) {
        let pending = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        assert!(pending, "it was to wait");
    }

    // Time stands still while anybody has something to do: nobody runs out of patience.
    #[tokio::test(start_paused = true)]
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

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_calls_that_nobody_polls() {
        let gather = Gather::new(Handle::current());
        let held_up = || gather.ask(|| 1, std::future::pending::<u32>(), async |asked| asked);
        let (mut one, mut other) = (Box::pin(held_up()), Box::pin(held_up()));
        begin(one.as_mut()).await;
        begin(other.as_mut()).await;
        let third = gather.ask(|| 3, async { 30 }, async |_| panic!("nobody's turn is over"));
        assert_eq!(third.await, Some(30));
        assert!(gather.state().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_any_more_is_not_sent() {
        let gather = Gather::new(Handle::current());
        let (sent, mut sizes) = mpsc::unbounded_channel();
        let send = move |asked: Vec<u32>| {
            let sent = sent.clone();
            async move {
                sent.send(asked.len()).unwrap();
                asked
            }
        };
        let ask = || Box::pin(gather.ask(|| 1, std::future::pending(), send.clone()));
        let (mut one, mut other, mut waiting) = (ask(), ask(), ask());
        for call in [&mut one, &mut other, &mut waiting] {
            begin(call.as_mut()).await;
        }
        // The next call is on its way to its task when the last one of those that it was for gives up.
        drop((one, waiting));
        while gather.state().on_their_way > 1 {
            tokio::task::yield_now().await;
        }
        assert!(sizes.try_recv().is_err());
        drop(other);
    }
}
