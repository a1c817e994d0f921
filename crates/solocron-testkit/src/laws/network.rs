//! What a network does to a lock: it cuts, holds back, delays and refuses; and no answer is ever made up.
//!
//! Each law has links of its own ([`Harness::link`](crate::Harness::link)), so the store and its other clients see nothing of it. Who looks at the store
//! looks past the proxy.

use std::time::Duration;

use solocron::lock::{
    AnyBackend, Claim, ClaimGuard, ClaimReply, ClaimState, Fence, LockBackend, LockKey,
    LockOptions, Locks, Mark, MarkAfter, Renewal, Scope, TryLock,
};
use solocron::{Error, Kind};
use tokio::task::JoinSet;

use super::client::{
    Raw, SOON, in_time, is_free, key, locks, long_ttl, node, now, once, short_ttl, stays_away, take,
};
use crate::Store;
use crate::harness::{lacks, skip};
use crate::server::Direction::{Down, Up};
use crate::server::{Direction, Proxy};

/// A client behind a proxy of its own, or why the law does not apply.
fn link(h: &Store) -> Option<(Proxy, AnyBackend)> {
    let link = h.link();
    if link.is_none() {
        lacks("link", h.connect().capabilities().scope == Scope::Fleet);
    }
    link
}

/// Wherever the answer to a claim breaks off: its winner finds its own grant again, or has given it back. Nobody else gets the
/// tick in between, and it is run exactly once.
pub async fn a_claim_is_safe_wherever_its_reply_is_cut(h: &Store) {
    everywhere(h, Down, usize::MAX, Cutter::claim).await;
}

/// The same for a request that breaks off, and so is never carried out.
pub async fn a_claim_is_safe_wherever_its_request_is_cut(h: &Store) {
    const SAMPLES: usize = 40;
    everywhere(h, Up, SAMPLES, Cutter::claim).await;
}

/// Wherever the answer to a release breaks off: the tick is done, the key is free, and no late copy takes it from its successor.
pub async fn a_release_is_done_wherever_its_reply_is_cut(h: &Store) {
    everywhere(h, Down, usize::MAX, Cutter::release).await;
}

/// Cuts what `with_cut` does after each number of bytes; at no more than so many places, evenly spread. Several clients share the work.
async fn everywhere(
    h: &Store,
    direction: Direction,
    most: usize,
    with_cut: impl AsyncFn(&mut Cutter, Option<u64>) + Copy,
) {
    const CLIENTS: usize = 4;
    /// No protocol asks or answers in fewer bytes.
    const FEWEST: usize = 8;
    if !h.connect().capabilities().marks {
        return skip("no marks are kept");
    }
    let mut cutters = Vec::new();
    for number in 0..CLIENTS {
        let Some((proxy, backend)) = link(h) else { return };
        cutters.push(Cutter::new(h, proxy, backend, direction, number).await);
    }
    let sweeps = cutters.into_iter().enumerate().map(|(number, mut cutter)| async move {
        // The first one is longer: it connects, and may teach the store a script.
        for _ in 0..2 {
            with_cut(&mut cutter, None).await;
        }
        let length = usize::try_from(cutter.length).expect("answers are short");
        let step = length.div_ceil(most).max(1);
        let places: Vec<_> = (0..=length).step_by(step).skip(number).step_by(CLIENTS).collect();
        for &bytes in &places {
            // Other news may have come first and been cut instead; or this place is beyond the end.
            for _ in 0..2 {
                let cuts = cutter.cuts;
                with_cut(&mut cutter, Some(bytes as u64)).await;
                if cutter.cuts > cuts {
                    break;
                }
            }
        }
        (places.len(), cutter.cuts)
    });
    let (mut places, mut cuts) = (0, 0);
    for (tried, cut) in join(sweeps).await {
        places += tried;
        cuts += cut;
    }
    eprintln!("cut at {cuts} of {places} places");
    assert!(cuts >= FEWEST, "only {cuts} of {places} cuts hit something: this proves nothing");
}

/// The outputs of all these futures, which run together.
async fn join<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in pending.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if pending.iter().all(|(_, output)| output.is_some()) {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

/// A client whose connection is cut, and what the others see of it.
struct Cutter {
    proxy: Proxy,
    direction: Direction,
    /// The one that is cut.
    locks: Locks,
    /// The others.
    raw: Raw,
    other: Locks,
    key: LockKey,
    /// How many bytes the last one took that was not cut.
    length: u64,
    cuts: usize,
    last_fence: Fence,
}

impl Cutter {
    async fn new(
        h: &Store,
        proxy: Proxy,
        backend: AnyBackend,
        direction: Direction,
        number: usize,
    ) -> Self {
        let key = key(&format!("report-{number}"));
        let raw = Raw::new(h);
        raw.enroll(&key).await;
        let (length, cuts, last_fence) = (0, 0, Fence::ZERO);
        let (locks, other) = (quick(backend), node(h));
        Self { proxy, direction, locks, raw, other, key, length, cuts, last_fence }
    }

    /// A claim, cut after so many bytes, and then everything that follows from it.
    async fn claim(&mut self, cut: Option<u64>) {
        let [tick] = self.raw.ticks(&self.key).await;
        let before = self.raw.last(&self.key).await;
        self.warm_up().await;
        let begun = self.arm(cut);
        let answer = self.locks.claim(&self.key, once(tick)).await;
        self.disarm(cut, begun);
        match answer {
            Ok(ClaimReply::Won(claimed)) => {
                self.is_mine(&claimed, tick).await;
                let _ = claimed.lease.release().await; // an error: the rest of it is done in the background
            }
            Err(error) if is_trouble(&error) => {
                in_time(SOON * 3, "a settled node", self.locks.settled()).await;
                assert_eq!(self.raw.last(&self.key).await, before, "{cut:?}: {error}");
                assert!(is_free(&self.other, &self.key).await, "{cut:?}: {error}");
                let claimed = claim_patiently(&self.locks, &self.key, once(tick)).await;
                self.is_mine(&claimed, tick).await;
                let _ = claimed.lease.release().await;
            }
            other => panic!("cut after {cut:?} bytes, a free tick was answered with {other:?}"),
        }
        self.is_over(tick, cut).await;
    }

    /// A release, cut after so many bytes, and then everything that follows from it.
    async fn release(&mut self, cut: Option<u64>) {
        let [tick] = self.raw.ticks(&self.key).await;
        self.warm_up().await;
        let claimed = claim_patiently(&self.locks, &self.key, once(tick)).await;
        self.quiet().await;
        let begun = self.arm(cut);
        let answer = claimed.lease.release().await;
        self.disarm(cut, begun);
        if let Err(error) = answer {
            assert!(is_trouble(&error), "{cut:?}: {error}");
        }
        // Whoever is next is not disturbed by what the others still do to be sure.
        let next = self.other.lock(&self.key, SOON).await.expect("free in time");
        in_time(SOON * 3, "a settled node", self.locks.settled()).await;
        next.check().expect("held");
        assert!(!is_free(&self.other, &self.key).await, "{cut:?}: freed by a late release");
        next.release().await.expect("the store answers");
        self.is_over(tick, cut).await;
    }

    /// Connected, and nothing is on its way.
    async fn warm_up(&self) {
        let warm = self.locks.lock("warm", SOON).await.expect("it connects again");
        let _ = warm.release().await;
        in_time(SOON * 3, "a settled node", self.locks.settled()).await;
        self.quiet().await;
    }

    /// Waits until the news of what was done have passed, which would be cut instead.
    async fn quiet(&self) {
        let seen = || (self.proxy.bytes(Up), self.proxy.bytes(Down));
        for _ in 0..20 {
            let before = seen();
            tokio::time::sleep(Duration::from_millis(4)).await;
            if seen() == before {
                return;
            }
        }
    }

    fn arm(&self, cut: Option<u64>) -> (u64, u64) {
        if let Some(bytes) = cut {
            self.proxy.cut_after(self.direction, bytes);
        }
        (self.proxy.bytes(self.direction), self.proxy.cuts())
    }

    fn disarm(&mut self, cut: Option<u64>, (bytes, cuts): (u64, u64)) {
        self.cuts += usize::from(self.proxy.cuts() > cuts);
        self.proxy.heal();
        if cut.is_none() {
            self.length = self.proxy.bytes(self.direction) - bytes;
        }
    }

    /// It is won, once, and by nobody else.
    async fn is_mine(&mut self, claimed: &ClaimGuard, tick: Mark) {
        assert_eq!((claimed.tick, claimed.attempt), (tick, 1));
        claimed.lease.check().expect("just won");
        assert!(claimed.lease.fence() >= self.last_fence, "fences grow");
        self.last_fence = claimed.lease.fence();
        let last = self.raw.last(&self.key).await;
        assert_eq!((last.mark, last.done, last.attempts), (tick, false, 1));
        assert!(!is_free(&self.other, &self.key).await, "two hold it");
    }

    /// It was run once, and nothing is left behind.
    async fn is_over(&self, tick: Mark, cut: Option<u64>) {
        in_time(SOON * 3, "a settled node", self.locks.settled()).await;
        let ClaimState { mark, done, attempts, .. } = self.raw.last(&self.key).await;
        assert_eq!((mark, done, attempts), (tick, true, 1), "cut after {cut:?} bytes");
        let again = self.other.claim(&self.key, once(tick)).await.expect("the store answers");
        assert!(matches!(again, ClaimReply::Stale { done: true, .. }), "{cut:?}: {again:?}");
        assert!(is_free(&self.other, &self.key).await, "cut after {cut:?} bytes");
    }
}

/// Locks whose requests are given up soon, and whose leases do not run out within a law.
fn quick(backend: impl LockBackend) -> Locks {
    let options = LockOptions::default()
        .ttl(long_ttl(&backend.capabilities()))
        .request_timeout(Duration::from_millis(300));
    Locks::builder(backend).options(options).build().expect("the options fit the backend")
}

/// Trouble of the network, called by its name.
fn is_trouble(error: &Error) -> bool {
    match error {
        Error::Backend { source, .. } => {
            matches!(source.kind(), Kind::Unavailable | Kind::Timeout | Kind::Refused)
        }
        _ => false,
    }
}

/// Claims a free tick, through whatever trouble is passing.
async fn claim_patiently(locks: &Locks, key: &LockKey, claim: Claim) -> Box<ClaimGuard> {
    let claiming = async {
        loop {
            match locks.claim(key, claim).await {
                Ok(ClaimReply::Won(claimed)) => return claimed,
                Err(error) if is_trouble(&error) => {
                    locks.settled().await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => panic!("a free tick was answered with {other:?}"),
            }
        }
    };
    in_time(SOON * 3, "a free tick", claiming).await
}

/// Requests that arrive long after their sender gave up, and answers that nobody waits for: when they come through, they change
/// nothing.
pub async fn a_late_command_leaves_nothing_behind(h: &Store) {
    let raw = Raw::new(h);
    if !raw.capabilities().marks {
        return skip("no marks are kept");
    }
    for direction in [Up, Down] {
        let Some((proxy, backend)) = link(h) else { return };
        let (a, b, key) = (quick(backend), node(h), key(&format!("{direction:?}")));
        let [done, tick] = raw.ticks(&key).await;
        let claimed = claim_patiently(&a, &key, once(done)).await;
        claimed.lease.release().await.expect("the store answers");
        let before = raw.last(&key).await;

        proxy.black_hole(direction, true);
        let answer = in_time(SOON, "an answer", a.claim(&key, once(tick))).await;
        assert!(answer.as_ref().is_err_and(is_trouble), "{direction:?}: {answer:?}");
        assert!(proxy.held(direction) > 0, "nothing was held back: this proves nothing");
        proxy.heal();
        in_time(SOON * 3, "a settled node", a.settled()).await;
        // What was held back may still be on its way through the store.
        for _ in 0..10 {
            assert_eq!(raw.last(&key).await, before, "{direction:?}");
            assert!(is_free(&b, &key).await, "{direction:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let claimed = claim_patiently(&b, &key, once(tick)).await;
        assert_eq!(claimed.attempt, 1);
        claimed.lease.release().await.expect("the store answers");
        assert!(raw.last(&key).await.done);
    }
}

/// A holder that hears nothing, or is not heard, or both: it knows that its lock is lost before anybody else has it, not later than
/// a ttl after the cut, and does no harm when it comes back.
pub async fn a_holder_that_is_cut_off_is_told_before_its_successor(h: &Store) {
    if h.connect().capabilities().ttl.is_none() {
        return skip("leases do not run out");
    }
    let mut tasks = JoinSet::new();
    for holes in [&[Up][..], &[Down], &[Up, Down]] {
        let Some((proxy, backend)) = link(h) else { return };
        let ttl = short_ttl(&backend.capabilities());
        let (a, b, key) = (locks(backend, ttl), Raw::new(h), key(&format!("{holes:?}")));
        tasks.spawn(async move {
            let guard = a.lock(&key, SOON).await.expect("free");
            for hole in holes {
                proxy.black_hole(*hole, true);
            }
            let cut_at = now();
            let lost = async {
                loop {
                    let asked = now();
                    if guard.check().is_err() {
                        return;
                    }
                    // Renewals that were answered were sent before the cut.
                    assert!(
                        asked.saturating_since(cut_at) < ttl,
                        "{holes:?}: believed for too long"
                    );
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let succeeded = async {
                let (grant, _) = b.win_when_free(&key).await;
                assert!(guard.check().is_err(), "{holes:?}: two believe that they hold it");
                grant
            };
            let (grant, ()) = tokio::join!(succeeded, lost);
            in_time(SOON, "the loss", guard.lost()).await;
            proxy.heal();
            drop(guard);
            in_time(SOON * 3, "a settled node", a.settled()).await;
            let answer = b.backend.renew(&[&grant.lease], now()).await.remove(0);
            assert!(matches!(answer, Ok(Renewal::Extended(_))), "{holes:?}: {answer:?}");
            b.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
            take_patiently(&a, &key).await;
        });
    }
    while let Some(task) = tasks.join_next().await {
        if let Err(panic) = task {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
}

/// Takes a free lock and gives it back, through whatever trouble is passing.
async fn take_patiently(locks: &Locks, key: &LockKey) {
    let guard = locks.lock(key, SOON * 3).await.expect("free in time");
    guard.release().await.expect("the store answers");
}

/// A store that refuses to be connected to is neither free nor taken, and is a store again when it does not.
pub async fn a_store_that_cannot_be_reached_is_not_busy(h: &Store) {
    let Some((proxy, backend)) = link(h) else { return };
    let (a, key) = (quick(backend), key("report"));
    take_patiently(&a, &key).await;
    proxy.refuse(true);
    proxy.sever();
    for _ in 0..3 {
        let answer = in_time(SOON, "an answer", a.try_lock(&key)).await;
        assert!(answer.as_ref().is_err_and(is_trouble), "{answer:?}");
    }
    let waited = in_time(SOON, "an answer", a.lock(&key, Duration::from_millis(50))).await;
    assert!(matches!(waited, Err(Error::TimedOut { .. } | Error::Backend { .. })), "{waited:?}");
    assert!(is_free(&node(h), &key).await);
    proxy.refuse(false);
    take_patiently(&a, &key).await;
}

/// Answers that take their time, but less than a request may: nobody loses anything.
pub async fn a_slow_link_loses_nothing(h: &Store) {
    let Some((proxy, backend)) = link(h) else { return };
    let ttl = short_ttl(&backend.capabilities());
    let (a, b, key) = (locks(backend, ttl), node(h), key("report"));
    take_patiently(&a, &key).await;
    for direction in [Up, Down] {
        proxy.delay(direction, ttl / 40);
    }
    let guard = a.lock(&key, SOON).await.expect("free");
    assert!(stays_away(ttl * 2, guard.lost()).await, "{:?}", guard.check());
    guard.check().expect("held");
    assert!(matches!(b.try_lock(&key).await.expect("the store answers"), TryLock::Busy(_)));
    guard.release().await.expect("the store answers");
}

/// The news of a release is lost together with the connection that it was on: its waiter hears of it all the same.
pub async fn a_waiter_hears_of_a_release_that_its_broken_link_missed(h: &Store) {
    let Some((proxy, backend)) = link(h) else { return };
    let (a, b, key) = (quick(backend), node(h), key("report"));
    take_patiently(&a, &key).await;
    for _ in 0..3 {
        let guard = take(&b, &key).await;
        let asked = proxy.bytes(Up);
        let waiting = tokio::spawn({
            let (a, key) = (a.clone(), key.clone());
            async move { a.lock(key, SOON * 3).await }
        });
        let waits = async {
            while proxy.bytes(Up) == asked {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        in_time(SOON, "a waiter that asks", waits).await;
        proxy.black_hole(Down, true);
        guard.release().await.expect("the store answers");
        // Where the news are pushed, they are in the hole soon.
        for _ in 0..50 {
            if proxy.held(Down) > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        proxy.sever();
        proxy.heal();
        let won = in_time(SOON, "a waiter", waiting).await.expect("no panic");
        let _ = won.expect("free in time").release().await;
        in_time(SOON * 3, "a settled node", a.settled()).await;
    }
}
