//! How long, how often, how patient: the options of a lock, checked in one place.

use std::time::Duration;

use super::capabilities::TtlRange;
use crate::error::Invalid;

/// Options of a lock. Everything but the ttl has a default that follows from it.
///
/// ```
/// use std::time::Duration;
/// use solocron::lock::LockOptions;
///
/// LockOptions::default().ttl(Duration::from_secs(30)).timing()?;
/// // Renewing less often than the lease lives cannot work, and the message holds both numbers.
/// let error = LockOptions::default().ttl(Duration::from_secs(3)).renew_every(Duration::from_secs(5)).timing().unwrap_err();
/// assert!(error.to_string().contains("3s") && error.to_string().contains("5s"));
/// # Ok::<(), solocron::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOptions {
    ttl: Duration,
    renew_every: Option<Duration>,
    notice: Option<Duration>,
    request_timeout: Option<Duration>,
    max_runtime: Option<Duration>,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(15),
            renew_every: None,
            notice: None,
            request_timeout: None,
            max_runtime: None,
        }
    }
}

impl LockOptions {
    /// How long a lease lives without renewal. Default 15 s.
    ///
    /// Larger: a dead holder's lock is taken over later. Smaller: more renewals, and a shorter pause loses the lease. It bounds
    /// the take-over, not the length of a run. Process-bound leases (flock, socket) have no ttl and ignore it.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How often a lease is renewed. Default ttl / 3: two renewals may fail before the lease is in danger.
    #[must_use]
    pub fn renew_every(mut self, period: Duration) -> Self {
        self.renew_every = Some(period);
        self
    }

    /// How long before the deadline the job is told to stop. Default ttl / 10. Larger: more time to stop in, less time to renew.
    #[must_use]
    pub fn notice(mut self, notice: Duration) -> Self {
        self.notice = Some(notice);
        self
    }

    /// How long one request may take. Default ttl / 6, and at most 1 s.
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = Some(limit);
        self
    }

    /// How long a lease is renewed at all. Default: for as long as its guard lives. Set it where a run that never comes back must
    /// not keep its lock for ever. A process-bound lock is only announced as lost then: the kernel frees it when the guard is
    /// dropped or the process ends.
    #[must_use]
    pub fn max_runtime(mut self, limit: Duration) -> Self {
        self.max_runtime = Some(limit);
        self
    }

    /// The options with every default filled in and every relation checked.
    ///
    /// # Errors
    ///
    /// [`Invalid`], with both numbers, where two of them contradict each other.
    pub fn timing(&self) -> Result<Timing, Invalid> {
        /// Below this, timer grain and scheduling noise decide who holds the lock.
        const SHORTEST: Duration = Duration::from_millis(50);
        /// A lease that outlives a day is a lock that nobody takes over.
        const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

        let Self { ttl, renew_every, notice, request_timeout, max_runtime } = *self;
        if ttl < SHORTEST || ttl > LONGEST {
            return Err(Invalid::new(
                "ttl",
                format_args!("{ttl:?}"),
                format!("choose between {SHORTEST:?} and {LONGEST:?}"),
            ));
        }
        let renew_every = renew_every.unwrap_or(ttl / 3);
        let notice = notice.unwrap_or(ttl / 10);
        let request_timeout = request_timeout.unwrap_or((ttl / 6).min(Duration::from_secs(1)));
        for (what, value) in
            [("renew_every", renew_every), ("request_timeout", request_timeout), ("notice", notice)]
        {
            if value.is_zero() {
                return Err(Invalid::new(
                    what,
                    "0s",
                    "it must be longer than zero: leave it out for its default",
                ));
            }
        }
        if max_runtime.is_some_and(|limit| limit.is_zero()) {
            return Err(Invalid::new(
                "max_runtime",
                "0s",
                "it must be longer than zero: leave it out for no limit",
            ));
        }
        // client-go checks LeaseDuration > RenewDeadline > 1.2 × RetryPeriod (tools/leaderelection); the same relation here.
        let trusted = ttl.saturating_sub(super::validity::safety(ttl)).saturating_sub(notice);
        let needed = (renew_every.saturating_mul(6) / 5).saturating_add(request_timeout);
        if needed >= trusted {
            let why = format!(
                "a lease of {ttl:?} with a notice of {notice:?} may be trusted for {trusted:?}, but a renewal every \
                 {renew_every:?} that may take {request_timeout:?} needs {needed:?}: raise the ttl or renew more often"
            );
            return Err(Invalid::new("ttl", format_args!("{ttl:?}"), why));
        }
        Ok(Timing {
            ttl,
            renew_every,
            notice,
            request_timeout,
            max_runtime,
            verify_every: Duration::from_secs(1),
        })
    }
}

/// Checked options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// See [`LockOptions::ttl`].
    pub ttl: Duration,
    /// See [`LockOptions::renew_every`].
    pub renew_every: Duration,
    /// See [`LockOptions::notice`].
    pub notice: Duration,
    /// See [`LockOptions::request_timeout`].
    pub request_timeout: Duration,
    /// See [`LockOptions::max_runtime`].
    pub max_runtime: Option<Duration>,
    /// How often a process-bound lease is verified: 1 s, which is how soon a replaced lock file is noticed.
    pub verify_every: Duration,
}

impl Timing {
    /// Checks the ttl against what a backend grants, and rounds it up to the backend's step.
    ///
    /// # Errors
    ///
    /// [`Invalid`], with both numbers, where the backend cannot grant it. It is never shortened.
    pub fn fit(mut self, range: Option<TtlRange>) -> Result<Self, Invalid> {
        let Some(TtlRange { min, max, step }) = range else { return Ok(self) };
        if self.ttl < min || self.ttl > max {
            let why = format!(
                "this backend grants leases between {min:?} and {max:?}: choose one of those"
            );
            return Err(Invalid::new("ttl", format_args!("{:?}", self.ttl), why));
        }
        let step = step.as_nanos().max(1);
        let rounded = self.ttl.as_nanos().div_ceil(step) * step;
        self.ttl = Duration::from_nanos(u64::try_from(rounded).unwrap_or(u64::MAX)).min(max);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn contradictions_are_refused_with_both_numbers() {
        for (options, numbers) in [
            (LockOptions::default().ttl(S(3)).renew_every(S(3)), ["3s", "4.1s"]),
            (LockOptions::default().ttl(S(10)).notice(S(9)), ["10s", "9s"]),
            (LockOptions::default().ttl(S(10)).request_timeout(S(20)), ["10s", "20s"]),
            (LockOptions::default().ttl(Duration::ZERO), ["0ns", "50ms"]),
            (LockOptions::default().ttl(Duration::MAX), ["31622400s", "50ms"]),
        ] {
            let error = options.timing().unwrap_err().to_string();
            assert!(numbers.iter().all(|number| error.contains(number)), "{error}");
        }
        for zero in [
            LockOptions::default().renew_every(Duration::ZERO),
            LockOptions::default().notice(Duration::ZERO),
            LockOptions::default().request_timeout(Duration::ZERO),
            LockOptions::default().max_runtime(Duration::ZERO),
        ] {
            assert!(zero.timing().unwrap_err().to_string().contains("zero"));
        }
    }

    #[test]
    fn a_ttl_is_rounded_up_to_the_step_or_refused_and_never_shortened() {
        let range = TtlRange { min: S(2), max: S(60), step: S(1) };
        let timing = |ttl| LockOptions::default().ttl(ttl).timing().unwrap().fit(Some(range));
        assert_eq!(timing(Duration::from_millis(2_100)).unwrap().ttl, S(3));
        assert_eq!(timing(S(60)).unwrap().ttl, S(60));
        let error = timing(S(1)).unwrap_err().to_string();
        assert!(error.contains("1s") && error.contains("2s"), "{error}");
        assert!(timing(S(61)).is_err());
    }
}
