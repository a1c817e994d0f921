//! What can go wrong, told so that the caller knows what to do.
//!
//! Two types, for two readers. A **driver** answers with [`BackendError`]: a kind (what sort of trouble), an effect (may the request
//! have been carried out after all?) and a source. A **user** sees [`Error`], whose variants differ only where a caller acts
//! differently: mend the call, pick another backend, try later, stop the work.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::lock::{Holder, LockKey, Lost};
use crate::trigger::TriggerError;

/// The result of the public API.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call of the public API failed.
///
/// "Somebody else holds it" is never an error: calls that may find a lock taken say so in their `Ok` value.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// An argument or a combination of options is wrong. Nothing was sent and nothing has changed; mend the call.
    Invalid(Invalid),
    /// A schedule is wrong. Nothing has changed; mend the schedule.
    Trigger(TriggerError),
    /// The backend cannot do what was asked of it. Nothing has changed; pick another mode or another backend.
    Lacks {
        /// What is missing, in one word of [`Capabilities`](crate::lock::Capabilities).
        need: &'static str,
        /// What to use instead.
        instead: Cow<'static, str>,
    },
    /// The lock was not free in time. Nothing is held.
    TimedOut {
        /// The lock waited for.
        key: LockKey,
        /// How long.
        waited: Duration,
        /// Who held it last, where the backend knows.
        holder: Option<Box<Holder>>,
    },
    /// The lease is over; the work done under it must stop.
    Lost {
        /// The lock that was lost.
        key: LockKey,
        /// Why.
        why: Lost,
    },
    /// The backend failed. [`BackendError::kind`] says whether to try again.
    Backend {
        /// What we were doing.
        doing: &'static str,
        /// With which lock.
        key: Option<LockKey>,
        /// What the driver answered.
        source: BackendError,
    },
    /// The scheduler has been shut down.
    Closed,
}

/// A wrong argument: what it is, its value, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    what: &'static str,
    value: String,
    why: Cow<'static, str>,
}

impl Invalid {
    /// `what` was given as `value`, which cannot be because of `why` (which ends with what to do).
    pub fn new(
        what: &'static str,
        value: impl fmt::Display,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        // A value may be megabytes of somebody's text; an error stays readable.
        const LONGEST: usize = 80;
        let mut value = value.to_string();
        if value.chars().count() > LONGEST {
            let bytes = value.len();
            value = format!("{}… ({bytes} bytes)", value.chars().take(LONGEST).collect::<String>());
        }
        Self { what, value, why: why.into() }
    }

    /// The same error about an argument that the caller knows by another name.
    pub(crate) fn named(mut self, what: &'static str) -> Self {
        self.what = what;
        self
    }

    /// What was wrong: the name of the argument.
    #[must_use]
    pub fn what(&self) -> &'static str {
        self.what
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.what, self.value, self.why)
    }
}

impl StdError for Invalid {}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<TriggerError> for Error {
    fn from(error: TriggerError) -> Self {
        Self::Trigger(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) if invalid.value.is_empty() && invalid.what == "trigger" => {
                write!(f, "{}", invalid.why)
            }
            Self::Invalid(invalid) => write!(f, "{invalid}"),
            Self::Trigger(error) => write!(f, "{error}"),
            Self::Lacks { need, instead } => write!(f, "the lock backend has no {need}: {instead}"),
            Self::TimedOut { key, waited, holder: Some(holder) } => {
                write!(
                    f,
                    "lock {key} was not free within {waited:?}; {holder} has it: wait longer, or end that run"
                )
            }
            Self::TimedOut { key, waited, holder: None } => {
                write!(f, "lock {key} was not free within {waited:?}: wait longer")
            }
            Self::Lost { key, why } => write!(f, "lock {key} was lost: {why}"),
            Self::Backend { doing, key: Some(key), source } => {
                write!(f, "failed to {doing} {key}: {source}")
            }
            Self::Backend { doing, key: None, source } => write!(f, "failed to {doing}: {source}"),
            Self::Closed => f.write_str("the scheduler has been shut down: build another one"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Backend { source, .. } => Some(source),
            Self::Invalid(invalid) => Some(invalid),
            Self::Trigger(error) => Some(error),
            _ => None,
        }
    }
}

/// What sort of trouble a driver met. The core acts on this, never on a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Not reachable, overloaded, or refusing for now: try again.
    Unavailable,
    /// No answer in time: try again.
    Timeout,
    /// The store forgot what it knew (a flush, a restart without persistence) and grants nothing for a while: try again after
    /// [`BackendError::retry_after`].
    Recovering,
    /// The key takes no claims, because it was never enrolled or because the store forgot it: enroll, then try again.
    NotEnrolled,
    /// This nonce was given back earlier; a late copy of the request must not win. Use a fresh nonce.
    Refused,
    /// Credentials or permissions: a person must act.
    Denied,
    /// Wrong address, directory, option, file system or server setting: a person must act.
    Misconfigured,
    /// What the store holds is not what we wrote: a person must look.
    Corrupt,
    /// This backend cannot do that at all.
    Unsupported,
}

impl Kind {
    /// Whether trying again without anybody acting may help.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::Timeout
                | Self::Recovering
                | Self::NotEnrolled
                | Self::Refused
        )
    }
}

/// Whether a failed request may have been carried out after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Certainly not: nothing has changed.
    None,
    /// Nobody knows. The core sends the same nonce again, and then revokes it.
    Unknown,
}

/// A driver's failure. Cheap to clone: one broken pipe answers for many keys.
#[derive(Debug, Clone)]
pub struct BackendError {
    kind: Kind,
    effect: Effect,
    retry_after: Option<Duration>,
    source: Arc<dyn StdError + Send + Sync>,
}

impl BackendError {
    /// A failure that certainly changed nothing.
    pub fn new(kind: Kind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, effect: Effect::None, retry_after: None, source: Arc::from(source.into()) }
    }

    /// The same failure, of a request that may have been carried out.
    #[must_use]
    pub fn effect_unknown(mut self) -> Self {
        self.effect = Effect::Unknown;
        self
    }

    /// Trying earlier than this is useless.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// No answer came within `limit`; the request may have been carried out.
    #[must_use]
    pub fn timeout(limit: Duration) -> Self {
        Self::new(Kind::Timeout, format!("no answer within {limit:?}")).effect_unknown()
    }

    /// What sort of trouble.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the request may have been carried out.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// When to try again, where the store knows.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)
    }
}

impl StdError for BackendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_value_stays_readable_in_the_message() {
        let text =
            Invalid::new("job id", "x".repeat(1 << 20), "use at most 1024 bytes").to_string();
        assert!(text.len() < 300, "{}", text.len());
        assert!(text.contains("1048576 bytes"), "{text}");
    }

    #[test]
    fn a_timeout_leaves_the_effect_unknown() {
        let error = BackendError::timeout(Duration::from_secs(1));
        assert_eq!((error.kind(), error.effect()), (Kind::Timeout, Effect::Unknown));
    }
}
