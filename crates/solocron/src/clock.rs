//! Two clocks that must never be confused: wall time, which says what is due, and lease time, which says what is still held.
//!
//! Wall time can be set; lease time cannot, and it goes on while the machine sleeps. On Linux that is `CLOCK_BOOTTIME`:
//! `std::time::Instant` is `CLOCK_MONOTONIC`, which stops during suspend (see `clock_gettime(2)` and rust-lang/rust#79462), so a
//! laptop or a VM would wake up believing in a lease that ended hours ago.

use std::fmt::Debug;
use std::future::poll_fn;
use std::ops::Add;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::timer;

/// An instant of the lease clock: nanoseconds since an origin that only this machine's current boot knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaseInstant(u64);

impl LeaseInstant {
    /// An instant later than any that is ever reached.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `since_origin` after the clock's origin.
    #[must_use]
    pub fn from_origin(since_origin: Duration) -> Self {
        Self(u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Time since the clock's origin.
    #[must_use]
    pub fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// How long from `earlier` to here; zero where `earlier` is later.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant `by` before this one, or the origin.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(Self::from_origin(by).0))
    }

    pub(crate) fn nanos(self) -> u64 {
        self.0
    }

    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

impl Add<Duration> for LeaseInstant {
    type Output = Self;

    /// Saturates at [`LeaseInstant::NEVER`].
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(Self::from_origin(by).0))
    }
}

/// Where time comes from. One per node, so that a fleet with skewed clocks can live in one test.
#[async_trait]
pub trait Clock: Send + Sync + Debug + 'static {
    /// Wall time: what is due is decided by it.
    fn now(&self) -> Timestamp;

    /// Lease time: what is still held is decided by it.
    fn lease_now(&self) -> LeaseInstant;

    /// Waits until [`lease_now`](Self::lease_now) reaches `deadline`, also across a suspended machine.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    async fn sleep_until(&self, deadline: LeaseInstant);

    /// Waits for `time` of the lease clock.
    async fn sleep(&self, time: Duration) {
        self.sleep_until(self.lease_now() + time).await;
    }
}

/// The machine's clocks. Sleeps end within some 0.1 ms of their time, where tokio's end 1.1 ms after it.
///
/// It is not for a tokio runtime whose time is paused: there every wait of tokio returns at once, while this clock goes on, so a
/// sleep would spin until its real time has come. A test on virtual time has its own [`Clock`] over [`tokio::time::Instant`].
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// tokio's timers do not count the time a machine is suspended, so no single wait is longer than this.
    const STEP: Duration = Duration::from_secs(1);
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_origin(lease_clock())
    }

    async fn sleep_until(&self, deadline: LeaseInstant) {
        loop {
            let left = deadline.saturating_since(self.lease_now());
            if left.is_zero() {
                return;
            }
            match left.checked_sub(timer::LAST_STRETCH).filter(|coarse| !coarse.is_zero()) {
                Some(coarse) => tokio::time::sleep(coarse.min(Self::STEP)).await,
                None => match timer::wait(left) {
                    Some(wait) => wait.await,
                    None => tokio::time::sleep(left).await,
                },
            }
        }
    }
}

#[cfg(unix)]
fn lease_clock() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // Darwin's CLOCK_MONOTONIC goes on while the machine sleeps; only Linux needs (and has) CLOCK_BOOTTIME.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    clock_gettime(CLOCK)
        .map(Duration::from)
        .expect("this kernel has the clock that clock_gettime(2) documents")
}

#[cfg(not(unix))]
fn lease_clock() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed()
}

/// Runs `call`, but for no longer than `limit` of `clock`. `None`: it did not end in time and was dropped.
///
/// The call comes first: an answer that is already there does not lose against a timer, and a call that never waits costs none.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    call: impl Future<Output = T>,
) -> Option<T> {
    let mut call = pin!(call);
    let mut timer = None;
    poll_fn(|cx| {
        if let Poll::Ready(answer) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        let timer = timer.get_or_insert_with(|| clock.sleep(limit));
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// A call of an async trait's method.
type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How many calls [`side_by_side`] has on their way.
pub(crate) const AT_A_TIME: usize = 64;

/// Runs every call, so many of them side by side on the caller's task that polling them all for each that ends costs little; `each`
/// gets the place and the value of one as soon as it is there.
pub(crate) async fn side_by_side<T>(calls: Vec<Call<'_, T>>, mut each: impl FnMut(usize, T)) {
    let mut waiting = calls.into_iter().enumerate();
    let mut begun: Vec<(usize, Call<'_, T>)> = Vec::new();
    poll_fn(|cx| {
        begun.retain_mut(|(at, call)| match call.as_mut().poll(cx) {
            Poll::Ready(value) => {
                each(*at, value);
                false
            }
            Poll::Pending => true,
        });
        while begun.len() < AT_A_TIME
            && let Some((at, mut call)) = waiting.next()
        {
            match call.as_mut().poll(cx) {
                Poll::Ready(value) => each(at, value),
                Poll::Pending => begun.push((at, call)),
            }
        }
        if begun.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Runs every future, side by side on the caller's task; `each` gets a value as soon as it is there.
pub(crate) async fn all<T>(
    calls: impl IntoIterator<Item = impl Future<Output = T>>,
    mut each: impl FnMut(T),
) {
    let mut calls: Vec<_> = calls.into_iter().map(Box::pin).collect();
    poll_fn(|cx| {
        calls.retain_mut(|call| match call.as_mut().poll(cx) {
            Poll::Ready(value) => {
                each(value);
                false
            }
            Poll::Pending => true,
        });
        if calls.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_instants_saturate_instead_of_wrapping() {
        let now = LeaseInstant::from_origin(Duration::from_secs(5));
        assert_eq!(now + Duration::MAX, LeaseInstant::NEVER);
        assert_eq!(now.minus(Duration::from_secs(9)), LeaseInstant::from_origin(Duration::ZERO));
        assert_eq!(now.saturating_since(LeaseInstant::NEVER), Duration::ZERO);
    }

    #[test]
    fn the_lease_clock_never_goes_back() {
        let clock = SystemClock;
        let readings: Vec<_> = (0..1000).map(|_| clock.lease_now()).collect();
        assert!(readings.is_sorted());
    }
}
