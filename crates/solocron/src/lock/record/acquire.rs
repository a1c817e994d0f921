//! From a verdict to the answer that a driver gives.

use std::time::Duration;

use jiff::Timestamp;

use super::{KeyRecord, Verdict};
use crate::error::{BackendError, Kind};
use crate::lock::backend::{Grant, Reply, Request, Validity};

impl KeyRecord {
    /// One whole attempt: [judges](Self::judge) the request, [grants](Self::grant) the key where that says so, and answers it. Store
    /// the record, in the same atomic step, where the answer is [`Reply::Won`]; nothing has changed otherwise.
    ///
    /// `alive`: as in [`judge`](Self::judge). `ttl`: `None` for a process-bound lease. `lease`: makes what a winner owns; only called
    /// for one.
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] where the nonce was given back earlier, [`Kind::NotEnrolled`] where the key takes no claims.
    ///
    /// ```
    /// use std::time::Duration;
    /// use solocron::jiff::Timestamp;
    /// use solocron::lock::{KeyRecord, LockKey, NodeId, Nonce, Reply, Request};
    /// use solocron::LeaseInstant;
    /// let (key, ttl) = (LockKey::new("report")?, Duration::from_secs(15));
    /// let sent = LeaseInstant::from_origin(Duration::ZERO);
    /// let request = || Request::new(key.clone(), Nonce::random(), NodeId::unique(), ttl, sent);
    /// let mut record = KeyRecord::new(key.clone());
    /// let mut attempt = |request: &Request| record.acquire(request, Timestamp::now(), true, Some(ttl), || "mine");
    /// assert!(matches!(attempt(&request())?, Reply::Won(grant) if grant.lease == "mine"));
    /// assert!(matches!(attempt(&request())?, Reply::Busy { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire<L>(
        &mut self,
        request: &Request,
        store_now: Timestamp,
        alive: bool,
        ttl: Option<Duration>,
        lease: impl FnOnce() -> L,
    ) -> Result<Reply<L>, BackendError> {
        let granted = match self.judge(request, store_now, alive) {
            Verdict::Again(granted) => granted,
            Verdict::Grant => self.grant(request, store_now, ttl),
            verdict => return verdict.denied(store_now),
        };
        let validity = match ttl {
            // From before the request was first sent, however often it was repeated.
            Some(ttl) => Validity::Until { since: request.first_sent, ttl },
            None => Validity::ProcessBound,
        };
        Ok(Reply::Won(Grant {
            previous: granted.previous,
            attempt: granted.attempt,
            store_now: Some(store_now),
            schedule: self.schedule(),
            note: self.note.clone(),
            ..Grant::new(lease(), granted.fence, validity)
        }))
    }
}

impl Verdict {
    /// The answer where nothing is granted. That is busy also for a verdict which would grant: for a driver that sees somebody else
    /// with the key in hand, and judged a record of a moment ago.
    ///
    /// # Errors
    ///
    /// As [`KeyRecord::acquire`].
    pub fn denied<L>(self, store_now: Timestamp) -> Result<Reply<L>, BackendError> {
        Ok(match self {
            Self::Refused => {
                return Err(BackendError::new(Kind::Refused, "this acquisition was given back"));
            }
            Self::NotEnrolled => {
                let why = "the key takes no claims: enroll the job first";
                return Err(BackendError::new(Kind::NotEnrolled, why));
            }
            Self::Early => Reply::Early { store_now },
            Self::Stale { mark, done, owner } => {
                Reply::Stale { mark, done, owner: owner.map(Box::new) }
            }
            Self::Busy(holder) => Reply::Busy { holder: Some(Box::new(holder)) },
            Self::Behind { mark, unfinished } => Reply::Behind { mark, unfinished },
            Self::Again(_) | Self::Grant => Reply::Busy { holder: None },
        })
    }
}
