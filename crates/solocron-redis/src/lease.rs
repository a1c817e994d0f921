//! What a winner owns: nothing but the proof.

use std::time::Duration;

use solocron::lock::{LockKey, Nonce};

/// A lease of a lock in redis. Dropping it does nothing: the store ends it after its ttl.
#[derive(Debug, Clone)]
pub struct RedisLease {
    pub(crate) key: LockKey,
    pub(crate) slug: String,
    pub(crate) nonce: Nonce,
    pub(crate) ttl: Duration,
}

impl RedisLease {
    /// The lock that it is a lease of.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.key
    }
}
