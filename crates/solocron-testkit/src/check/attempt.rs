//! One acquisition as an explicit state machine: what the core's `attempt` does with `await`, in a form that can be copied.
//!
//! ```text
//!   send(nonce) ──► Won in time ────────────────────► in hand
//!        │    └───► Won too late ── revoke ─────────► failed
//!        │    └───► any other answer ───────────────► answered
//!        └────────► no answer: the same nonce again, while it may help; then revoke, until acknowledged ──► failed
//! ```

use solocron::lock::{Claim, Rule};

/// An acquisition under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) claim: Claim,
    pub(super) nonce: u32,
    pub(super) first_sent: u16,
    pub(super) sends: u8,
}

/// What becomes of an attempt that was not answered.
pub(super) enum Unanswered {
    /// It is sent again.
    Again(Attempt),
    /// It failed; whether what it may have won is revoked.
    Failed { revoke: bool },
}

impl Attempt {
    /// The same request is sent this often before it is given up. (Three times in the core; two make the same traces shorter.)
    const SENDS: u8 = 2;

    /// No answer came by `now`.
    pub(super) fn unanswered(
        mut self,
        now: u16,
        ttl: u16,
        fresh: impl FnOnce() -> u32,
    ) -> Unanswered {
        let same = !Rule::SameNonce.is_suspended();
        if self.sends == Self::SENDS || now >= self.first_sent + ttl {
            return Unanswered::Failed { revoke: same };
        }
        if !same {
            self.nonce = fresh();
        }
        self.sends += 1;
        Unanswered::Again(self)
    }

    /// When a grant whose answer comes at `now` is over.
    pub(super) fn deadline(&self, now: u16, ttl: u16) -> u16 {
        let since = if Rule::DeadlineFromSend.is_suspended() { now } else { self.first_sent };
        since + ttl
    }
}
