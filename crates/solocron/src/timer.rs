//! Waiting finer than a millisecond.
//!
//! tokio's timer is a wheel that turns in whole milliseconds and rounds up, so a sleep ends 1.1 ms late in the middle. A thread that
//! waits on a condition variable is woken by the kernel's high-resolution timer instead. One such thread serves the process, for the
//! last stretch of a sleep only: what is dropped earlier, as most timeouts are, never comes here.
//!
//! ```text
//!   sleep_until(deadline) ──► tokio's timer ─── 2 ms before ───► this thread ─── at the deadline ───► the task
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use std::{process, thread};

/// How long before its end a sleep should come here: tokio's rounding, and a moment for the task to be scheduled.
pub(crate) const LAST_STRETCH: Duration = Duration::from_millis(2);

/// Waits for `time`. `None`: the operating system gives no thread to wait on.
pub(crate) fn wait(time: Duration) -> Option<Wait> {
    Some(Wait { timer: Timer::of_this_process()?, at: Instant::now() + time, id: None })
}

/// Completes at its instant. Dropping it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Wait {
    timer: &'static Timer,
    at: Instant,
    id: Option<u64>,
}

#[derive(Debug)]
struct Timer {
    pid: u32,
    /// Whether the operating system gave a thread.
    served: OnceLock<bool>,
    /// That of a forked child, which has no thread of its parent's, and perhaps a mutex that such a thread had locked.
    child: OnceLock<Box<Self>>,
    waiting: Mutex<Waiting>,
    /// Rung when a wait is earlier than the one the thread sleeps for.
    earlier: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By instant; the number tells waits of one instant apart.
    by_instant: BTreeMap<(Instant, u64), Waker>,
    last_id: u64,
}

impl Timer {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            served: OnceLock::new(),
            child: OnceLock::new(),
            waiting: Mutex::default(),
            earlier: Condvar::new(),
        }
    }

    /// That of this process. Takes no lock that another thread may have held while this process was forked.
    fn of_this_process() -> Option<&'static Self> {
        static FIRST: OnceLock<Timer> = OnceLock::new();
        let pid = process::id();
        let mut at = FIRST.get_or_init(|| Self::new(pid));
        while at.pid != pid {
            at = at.child.get_or_init(|| Box::new(Self::new(pid)));
        }
        at.is_served().then_some(at)
    }

    fn is_served(&'static self) -> bool {
        *self.served.get_or_init(|| {
            let thread = thread::Builder::new().name("solocron-timer".into());
            thread.spawn(|| self.serve()).is_ok()
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No change of the map can panic halfway.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        be_punctual();
        let mut waiting = self.lock();
        loop {
            let Some(first) = waiting.by_instant.first_entry() else {
                waiting = self.earlier.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = first.key().0.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waker = first.remove();
                drop(waiting);
                // Whatever executor that is, or whatever it drops: the others still have to be woken.
                if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
                    tracing::error!("waking a task panicked");
                }
                waiting = self.lock();
            } else {
                waiting = match self.earlier.wait_timeout(waiting, left) {
                    Ok((waiting, _)) => waiting,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
        }
    }
}

/// The kernel ends a thread's sleeps up to 50 µs late, to end several at once; not those of this one.
fn be_punctual() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1)) {
        tracing::debug!(%error, "timers stay as late as the kernel likes them");
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        let (timer, at) = (self.timer, self.at);
        let mut waiting = timer.lock();
        let id = *self.id.get_or_insert_with(|| {
            waiting.last_id += 1;
            waiting.last_id
        });
        let before = waiting.by_instant.insert((at, id), context.waker().clone());
        if waiting.by_instant.first_key_value().is_some_and(|(first, _)| *first == (at, id)) {
            timer.earlier.notify_one();
        }
        drop(waiting);
        drop(before); // outside the lock: it may be the last owner of a task, and of another wait
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.timer.lock().by_instant.remove(&(self.at, id));
            drop(waker); // outside the lock, as above
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(future)
    }

    async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    #[test]
    fn a_wait_ends_after_its_time_and_not_before() {
        let begun = Instant::now();
        block_on(wait(Duration::from_micros(300)).expect("a thread"));
        assert!(begun.elapsed() >= Duration::from_micros(300));
    }

    #[test]
    fn an_earlier_wait_does_not_end_with_a_later_one_that_was_there_first() {
        block_on(async {
            let mut late = pin!(wait(Duration::from_secs(3600)).expect("a thread"));
            assert!(poll_once(late.as_mut()).await.is_pending());
            wait(Duration::from_millis(5)).expect("a thread").await;
        });
    }

    #[test]
    fn a_dropped_wait_leaves_nothing_behind() {
        let timer = Timer::of_this_process().expect("a thread");
        let id = block_on(async {
            let mut wait = Box::pin(wait(Duration::from_secs(3600)).expect("a thread"));
            assert!(poll_once(wait.as_mut()).await.is_pending());
            wait.id.expect("it is registered")
        });
        assert!(!timer.lock().by_instant.keys().any(|(_, other)| *other == id));
    }

    #[test]
    fn a_forked_child_gets_a_timer_of_its_own() {
        let parent: &'static Timer = Box::leak(Box::new(Timer::new(process::id() + 1)));
        let child = parent.child.get_or_init(|| Box::new(Timer::new(process::id())));
        assert!(child.is_served());
        let wait = Wait { timer: child, at: Instant::now() + Duration::from_millis(1), id: None };
        block_on(wait);
    }

    #[test]
    fn a_waker_that_panics_stops_nobody_else() {
        struct Panics;
        impl std::task::Wake for Panics {
            fn wake(self: std::sync::Arc<Self>) {
                panic!("a bad executor");
            }
        }
        let waker = Waker::from(std::sync::Arc::new(Panics));
        let mut bad = pin!(wait(Duration::from_millis(1)).expect("a thread"));
        assert!(bad.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        block_on(wait(Duration::from_millis(10)).expect("a thread"));
    }
}
