//! What a winner owns: nothing but the proof.

use std::sync::Arc;
use std::time::Duration;

use solocron::lock::{LockKey, Nonce};

use crate::turns::Kept;

/// A lease of a lock in redis. Dropping it does nothing: the store ends it after its ttl.
#[derive(Debug, Clone)]
pub struct RedisLease {
    pub(crate) key: LockKey,
    pub(crate) slug: String,
    pub(crate) nonce: Nonce,
    pub(crate) ttl: Duration,
    /// Where it was waited for in line.
    pub(crate) kept: Option<Arc<Kept>>,
}

impl RedisLease {
    /// The lock that it is a lease of.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.key
    }
}
