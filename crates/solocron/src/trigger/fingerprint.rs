//! A hash that is the same in every process, on every platform.

use std::hash::Hasher;

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
