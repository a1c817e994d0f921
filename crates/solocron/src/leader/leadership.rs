//! One term of a leader, as a value that outlives it and tells the truth about it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::lock::guard::{LeaseCheck, LockGuard};
use crate::lock::{Fence, Lost};

/// One term: from being elected until it is lost or resigned. Clones are the same term.
///
/// It does not keep the leadership: the [`Elector`](super::Elector) does. Kept for too long it is harmless, because a later term of
/// the same node is another value: this one stays over.
#[derive(Clone)]
pub struct Leadership(Arc<LeaseCheck>);

impl Leadership {
    pub(super) fn of(guard: &LockGuard) -> Self {
        Self(Arc::new(guard.check_from_afar()))
    }

    /// The fencing token of this term: it grows with every term of the group. Give it to whatever you write to, and let *that*
    /// refuse older ones.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.0.fence()
    }

    /// Whether this term goes on, without asking anybody: by this process's clock, now.
    ///
    /// Best effort, as every check before an effect is: only a resource that compares the fence is safe against a pause between
    /// the two.
    ///
    /// # Errors
    ///
    /// How it ended; it stays over.
    pub fn check(&self) -> Result<Fence, Ended> {
        if self.0.is_given_back() {
            return Err(self.0.why_lost().map_or(Ended::Resigned, Ended::Lost));
        }
        self.0.check().map_err(Ended::Lost)
    }

    /// Returns once this term is over. Where leases expire, that is a tenth of the ttl before another node can be elected.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ended(&self) -> Ended {
        self.0.over().await;
        self.check().err().unwrap_or(Ended::Resigned)
    }

    /// Runs `work` on the caller's task for as long as this term goes on.
    ///
    /// # Errors
    ///
    /// How the term ended, where that comes first: `work` is dropped at its next await point.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work`.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        self.check()?;
        tokio::select! {
            biased;
            how = self.ended() => Err(how),
            value = work => Ok(value),
        }
    }

    /// How long after it was announced that it is lost nobody else can have been elected yet.
    pub(super) fn notice(&self, why: Lost) -> Duration {
        self.0.notice(why)
    }

    /// Returns once another node may lead, unless this one has given it up.
    pub(crate) async fn gone(&self) {
        self.0.gone().await;
    }

    /// It is over here, whatever is still to be sent.
    pub(super) fn give_up(&self) {
        self.0.give_up();
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("fence", &self.fence())
            .field("ended", &self.check().err())
            .finish()
    }
}

/// How a term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// It was lost: another node may lead soon, or already does.
    Lost(Lost),
    /// This node gave it up.
    Resigned,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "the leadership is lost: {why}"),
            Self::Resigned => f.write_str("this node has resigned"),
        }
    }
}

impl std::error::Error for Ended {}
