//! The rules of a lock with a memory, by name, so that a test can take one away and see what breaks.
//!
//! Without the feature `rules` every rule always holds and the compiler removes the question. With it, the test kit's checkers can
//! suspend one rule for the current thread: that is how they prove that they would find the bug which the rule prevents
//! (`docs/track-record.md`). No program but a checker has a reason to enable it.

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(
    not(feature = "rules"),
    allow(unreachable_pub, reason = "public with the feature `rules`")
)]
pub enum Rule {
    /// A claim moves the mark, and a tick at or before the mark is stale.
    Mark,
    /// A refused nonce is never granted anything.
    RefusedNonce,
    /// The nonce is compared before anything else is: the same nonce, the same grant.
    NonceBeforeStale,
    /// A tick from the future of the store's clock is refused.
    Early,
    /// Only an enrolled key takes claims.
    Enrolled,
    /// The mark moves when the tick is won, not when its run ends.
    MarkOnWin,
    /// Undo and revoke give the mark back.
    MarkBackOnUndo,
    /// A revocation also works when the lease has meanwhile ended.
    RevokeAfterEnd,
    /// An unfinished or unclaimed earlier tick goes first, where the job wants that.
    Behind,
    /// An unfinished tick is granted a bounded number of times.
    BoundedAttempts,
    /// Only the owner's release frees the key.
    OwnerCheck,
    /// A release skips overlapped ticks only up to the store's clock.
    SkipUpToStoreClock,
    /// A release skips only ticks that were due after its run started.
    SkipFromStart,
    /// A release never skips a tick that a policy still wants.
    SkipNothingWanted,
    /// The fence is seeded by the clock.
    FenceFromClock,
    /// After a loss of memory, records begin at the store's now.
    ForgottenBeginsNow,
    /// After a loss of memory, nothing is granted for the longest ttl.
    ForgottenWaits,
    /// A busy tick is tried again until its grace is over: its holder may die.
    BusyIsProvisional,
    /// A claimed tick is watched until its run has ended: its claim may be undone.
    ClaimIsProvisional,
    /// An acquisition of unknown outcome is sent again with the same nonce, and revoked before a fresh one.
    SameNonce,
    /// Validity counts from before the request was sent.
    DeadlineFromSend,
}

impl Rule {
    /// Whether the rule is in force. Always, but under a checker.
    #[inline]
    pub(crate) fn holds(self) -> bool {
        #[cfg(feature = "rules")]
        return suspended::SUSPENDED.get() != Some(self);
        #[cfg(not(feature = "rules"))]
        return true;
    }

    /// Whether a checker has taken the rule away: for those that keep the same rule in a model of their own.
    #[cfg(feature = "rules")]
    #[must_use]
    pub fn is_suspended(self) -> bool {
        !self.holds()
    }

    /// Every rule.
    #[cfg(feature = "rules")]
    pub const ALL: [Self; 21] = [
        Self::Mark,
        Self::RefusedNonce,
        Self::NonceBeforeStale,
        Self::Early,
        Self::Enrolled,
        Self::MarkOnWin,
        Self::MarkBackOnUndo,
        Self::RevokeAfterEnd,
        Self::Behind,
        Self::BoundedAttempts,
        Self::OwnerCheck,
        Self::SkipUpToStoreClock,
        Self::SkipFromStart,
        Self::SkipNothingWanted,
        Self::FenceFromClock,
        Self::ForgottenBeginsNow,
        Self::ForgottenWaits,
        Self::BusyIsProvisional,
        Self::ClaimIsProvisional,
        Self::SameNonce,
        Self::DeadlineFromSend,
    ];
}

#[cfg(feature = "rules")]
mod suspended {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        pub(super) static SUSPENDED: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    impl Rule {
        /// Runs `check` on this thread while the rule is not in force.
        pub fn without<T>(self, check: impl FnOnce() -> T) -> T {
            struct Restore(Option<Rule>);
            impl Drop for Restore {
                fn drop(&mut self) {
                    SUSPENDED.set(self.0);
                }
            }
            let _restore = Restore(SUSPENDED.replace(Some(self)));
            check()
        }
    }
}
