//! A hash that is the same in every process, on every platform.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

/// Hashes the canonical text of a schedule.
///
/// The keys are part of the format: other ones would make replicas of two versions of this crate
/// disagree about the same schedule. They keep no secret.
pub(super) fn of(canonical: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x736f_6c6f_6372_6f6e, 0x7472_6967_6765_7273);
    // Bytes, not `Hash for str`: what that feeds to a hasher is not promised to stay.
    hasher.write(canonical.as_bytes());
    hasher.finish()
}

/// A fingerprint that was computed before, or none: the schedule of a job is compared at each of its ticks.
#[derive(Debug, Default)]
pub(super) struct Kept(AtomicU64);

impl Kept {
    /// What no fingerprint is known by; one that happens to be this is computed each time.
    const UNKNOWN: u64 = 0;

    pub(super) fn get_or_init(&self, compute: impl FnOnce() -> u64) -> u64 {
        // Whoever computes it finds the same, so that the order of memory does not matter.
        match self.0.load(Ordering::Relaxed) {
            Self::UNKNOWN => {
                let fingerprint = compute();
                self.0.store(fingerprint, Ordering::Relaxed);
                fingerprint
            }
            known => known,
        }
    }
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}
