//! The memory backend keeps every law, in both of its forms.

use solocron::lock::{LockKey, MemoryBackend};
use solocron_testkit::Harness;

/// Leases that run out.
struct Leased(MemoryBackend);

impl Harness for Leased {
    type Backend = MemoryBackend;

    async fn start() -> Self {
        Self(MemoryBackend::new())
    }

    fn connect(&self) -> MemoryBackend {
        self.0.clone()
    }

    async fn forget(&self) -> bool {
        self.0.forget();
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.0.expire(key);
        true
    }
}

/// Leases that live for as long as their holder, like those of a kernel lock.
struct Bound(MemoryBackend);

impl Harness for Bound {
    type Backend = MemoryBackend;

    async fn start() -> Self {
        Self(MemoryBackend::new().process_bound())
    }

    fn connect(&self) -> MemoryBackend {
        self.0.clone()
    }

    async fn forget(&self) -> bool {
        self.0.forget();
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.0.expire(key);
        true
    }
}

solocron_testkit::conformance!(leased, Leased);
solocron_testkit::conformance!(process_bound, Bound);
