//! What a backend gives the laws to work with.

use std::time::Duration;

use solocron::lock::{LockBackend, LockKey};
use tokio::runtime::Builder;

/// A store of one backend, and the troubles that can be made for it.
///
/// Only [`start`](Self::start) and [`connect`](Self::connect) are needed. Every other method is a hook that makes one kind of
/// trouble; it answers `false` where it cannot. A law that needs a missing hook is skipped and says so; with
/// `SOLOCRON_REQUIRE_ALL=1` it fails instead, where the backend's capabilities say that the hook is owed.
///
/// ```
/// use solocron::lock::MemoryBackend;
/// use solocron_testkit::Harness;
///
/// struct Memory(MemoryBackend);
///
/// impl Harness for Memory {
///     type Backend = MemoryBackend;
///
///     async fn start() -> Self {
///         Self(MemoryBackend::new())
///     }
///
///     fn connect(&self) -> MemoryBackend {
///         self.0.clone()
///     }
/// }
///
/// # #[cfg(any())]
/// solocron_testkit::conformance!(Memory);
/// ```
pub trait Harness: Sized + Send + Sync + 'static {
    /// The backend under test.
    type Backend: LockBackend;

    /// A fresh, empty store. It may be a namespace of a store that other laws use at the same time.
    fn start() -> impl Future<Output = Self> + Send;

    /// A fresh, empty store that nobody else uses: for laws that restart it, freeze it, make it forget or break its connections.
    fn start_alone() -> impl Future<Output = Self> + Send {
        Self::start()
    }

    /// One more client of this store, as another process would have it.
    fn connect(&self) -> Self::Backend;

    /// Whether the store keeps what it acknowledged whatever happens, as a database with a log on disk does. It owes no
    /// [`forget`](Self::forget) then.
    fn never_forgets(&self) -> bool {
        false
    }

    /// Makes the store forget everything, like a flush. Owed by stores that keep marks and may forget.
    fn forget(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Ends the lease on `key` before its time. Owed by backends that tell a loss.
    fn expire(&self, _key: &LockKey) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Deletes or replaces the file (or whatever else stands for `key`) under a living lock.
    fn replace(&self, _key: &LockKey) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Lets another process take `key` and kills it. Owed by backends whose scope is wider than a process.
    fn hold_and_die(&self, _key: &LockKey) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Stops and starts the store, keeping its data. Owed by fleet-wide backends.
    fn restart(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Stops the store from answering until [`thaw`](Self::thaw). Owed by fleet-wide backends.
    fn freeze(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Ends a [`freeze`](Self::freeze).
    fn thaw(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Breaks the connections of every client once; they may connect again. Owed by fleet-wide backends.
    fn sever(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// One more client, whose only way to the store leads through this proxy. Owed by fleet-wide backends. Linux only.
    ///
    /// Start the proxy in front of the store, and give the client no other address, nor a way to learn one (an etcd client must not
    /// sync its endpoints). Its options should be those of [`connect`](Self::connect).
    #[cfg(target_os = "linux")]
    fn link(&self) -> Option<(crate::server::Proxy, Self::Backend)> {
        None
    }
}

/// Runs one law against a fresh store, on real threads. What [`conformance!`](crate::conformance) expands to.
///
/// # Panics
///
/// Where the law is broken, or takes longer than two minutes.
pub fn keep<H: Harness>(law: impl AsyncFnOnce(&H)) {
    keep_over(H::start(), law);
}

/// The same against a store that nobody else uses: [`Harness::start_alone`].
///
/// # Panics
///
/// As [`keep`].
pub fn keep_alone<H: Harness>(law: impl AsyncFnOnce(&H)) {
    keep_over(H::start_alone(), law);
}

fn keep_over<H: Harness>(start: impl Future<Output = H>, law: impl AsyncFnOnce(&H)) {
    const LONGEST: Duration = Duration::from_secs(120);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("the operating system gives threads").block_on(async {
        let kept = async {
            let harness = start.await;
            law(&harness).await;
        };
        tokio::time::timeout(LONGEST, kept).await.expect("the law hangs");
    });
}

/// Says that the law which runs on this thread does not apply.
pub(crate) fn skip(why: &str) {
    eprintln!("skipped {}: {why}", std::thread::current().name().unwrap_or("a law"));
}

/// Says that the law which runs on this thread lacks a hook. `owed`: the backend's capabilities say that it should be there.
pub(crate) fn lacks(hook: &str, owed: bool) {
    skip(&format!("the harness has no `{hook}`"));
    let strict = std::env::var_os("SOLOCRON_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!(owed && strict), "SOLOCRON_REQUIRE_ALL=1, and this backend owes the hook `{hook}`");
}
