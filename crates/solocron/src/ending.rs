//! Something that ends once, with a reason, and whoever wants to hear of it.
//!
//! Most runs and leases end in peace before anybody has asked, so this costs no allocation and no waiter until somebody does.

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, fence};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// An end that may come, with its reason.
#[derive(Debug)]
pub(crate) struct Ending<W> {
    why: OnceLock<W>,
    news: Notify,
    /// Cancelled at the end; there since somebody asked for it.
    token: OnceLock<CancellationToken>,
}

impl<W> Default for Ending<W> {
    fn default() -> Self {
        Self { why: OnceLock::new(), news: Notify::new(), token: OnceLock::new() }
    }
}

impl<W: Copy> Ending<W> {
    /// It ends. The first reason stands; says whether this is it.
    pub(crate) fn end(&self, why: W) -> bool {
        let first = self.why.set(why).is_ok();
        // Either this sees the token, or who makes it sees the end.
        fence(Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
        self.ring();
        first
    }

    /// Why, if it has ended.
    pub(crate) fn why(&self) -> Option<W> {
        self.why.get().copied()
    }

    /// Returns once it has ended.
    pub(crate) async fn ended(&self) -> W {
        self.until(|| self.why()).await
    }

    /// A token that is cancelled at the end. To cancel it cancels nobody else's.
    pub(crate) fn token(&self) -> CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new);
        fence(Ordering::SeqCst);
        if self.why().is_some() {
            token.cancel();
        }
        token.child_token()
    }

    /// Whoever waits looks again.
    pub(crate) fn ring(&self) {
        self.news.notify_waiters();
    }

    /// Looks at each [`ring`](Self::ring) until `look` finds something.
    pub(crate) async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        loop {
            // Listen first, look then: the news may come in between.
            let news = self.news.notified();
            if let Some(found) = look() {
                return found;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn the_first_reason_stands() {
        let ending = Ending::default();
        assert!(ending.end(1) && !ending.end(2));
        assert_eq!(ending.why(), Some(1));
    }

    #[test]
    fn a_token_is_cancelled_whichever_comes_first() {
        for _ in 0..1_000 {
            let ending = Arc::new(Ending::default());
            let (ends, barrier) = (Arc::clone(&ending), Arc::new(Barrier::new(2)));
            let starts = Arc::clone(&barrier);
            let other = std::thread::spawn(move || {
                starts.wait();
                ends.end(())
            });
            barrier.wait();
            let token = ending.token();
            assert!(other.join().expect("no panic"));
            assert!(token.is_cancelled());
        }
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_the_end_and_whoever_comes_later_too() {
        let ending = Arc::new(Ending::default());
        let waits = Arc::clone(&ending);
        let waiter = tokio::spawn(async move { waits.ended().await });
        tokio::task::yield_now().await;
        ending.end("over");
        assert_eq!(waiter.await.expect("no panic"), "over");
        assert_eq!(ending.ended().await, "over");
    }

    #[test]
    fn to_cancel_a_token_cancels_nobody_elses() {
        let ending = Ending::<()>::default();
        let (one, other) = (ending.token(), ending.token());
        one.cancel();
        assert!(!other.is_cancelled() && ending.why().is_none());
    }
}
