//! What a backend gives the laws to work with.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use solocron::lock::{AnyBackend, LockBackend, LockKey};
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

/// The store that a law looks at: any [`Harness`], with its type forgotten, so that the laws are compiled once and not once for each
/// backend.
pub struct Store(Box<dyn AnyHarness>);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.connect()).finish()
    }
}

impl Store {
    fn of(harness: impl Harness) -> Self {
        Self(Box::new(harness))
    }

    pub(crate) fn connect(&self) -> AnyBackend {
        self.0.connect()
    }

    pub(crate) fn never_forgets(&self) -> bool {
        self.0.never_forgets()
    }

    pub(crate) async fn forget(&self) -> bool {
        self.0.forget().await
    }

    pub(crate) async fn expire(&self, key: &LockKey) -> bool {
        self.0.expire(key).await
    }

    pub(crate) async fn replace(&self, key: &LockKey) -> bool {
        self.0.replace(key).await
    }

    pub(crate) async fn hold_and_die(&self, key: &LockKey) -> bool {
        self.0.hold_and_die(key).await
    }

    pub(crate) async fn restart(&self) -> bool {
        self.0.restart().await
    }

    pub(crate) async fn freeze(&self) -> bool {
        self.0.freeze().await
    }

    pub(crate) async fn thaw(&self) {
        self.0.thaw().await;
    }

    pub(crate) async fn sever(&self) -> bool {
        self.0.sever().await
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn link(&self) -> Option<(crate::server::Proxy, AnyBackend)> {
        self.0.link()
    }
}

/// [`Harness`], as an object.
#[async_trait]
trait AnyHarness: Send + Sync {
    fn connect(&self) -> AnyBackend;
    fn never_forgets(&self) -> bool;
    async fn forget(&self) -> bool;
    async fn expire(&self, key: &LockKey) -> bool;
    async fn replace(&self, key: &LockKey) -> bool;
    async fn hold_and_die(&self, key: &LockKey) -> bool;
    async fn restart(&self) -> bool;
    async fn freeze(&self) -> bool;
    async fn thaw(&self);
    async fn sever(&self) -> bool;
    #[cfg(target_os = "linux")]
    fn link(&self) -> Option<(crate::server::Proxy, AnyBackend)>;
}

#[async_trait]
impl<H: Harness> AnyHarness for H {
    fn connect(&self) -> AnyBackend {
        AnyBackend::new(Harness::connect(self))
    }

    fn never_forgets(&self) -> bool {
        Harness::never_forgets(self)
    }

    async fn forget(&self) -> bool {
        Harness::forget(self).await
    }

    async fn expire(&self, key: &LockKey) -> bool {
        Harness::expire(self, key).await
    }

    async fn replace(&self, key: &LockKey) -> bool {
        Harness::replace(self, key).await
    }

    async fn hold_and_die(&self, key: &LockKey) -> bool {
        Harness::hold_and_die(self, key).await
    }

    async fn restart(&self) -> bool {
        Harness::restart(self).await
    }

    async fn freeze(&self) -> bool {
        Harness::freeze(self).await
    }

    async fn thaw(&self) {
        Harness::thaw(self).await;
    }

    async fn sever(&self) -> bool {
        Harness::sever(self).await
    }

    #[cfg(target_os = "linux")]
    fn link(&self) -> Option<(crate::server::Proxy, AnyBackend)> {
        Harness::link(self).map(|(proxy, backend)| (proxy, AnyBackend::new(backend)))
    }
}

/// A law at work on a store.
pub type Keeping<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs one law against a fresh store, on real threads. What [`conformance!`](crate::conformance) expands to.
///
/// # Panics
///
/// Where the law is broken, or takes longer than two minutes.
pub fn keep<H: Harness>(law: fn(&Store) -> Keeping<'_>) {
    keep_over(Box::pin(async { Store::of(H::start().await) }), law);
}

/// The same against a store that nobody else uses: [`Harness::start_alone`].
///
/// # Panics
///
/// As [`keep`].
pub fn keep_alone<H: Harness>(law: fn(&Store) -> Keeping<'_>) {
    keep_over(Box::pin(async { Store::of(H::start_alone().await) }), law);
}

fn keep_over(start: Pin<Box<dyn Future<Output = Store>>>, law: fn(&Store) -> Keeping<'_>) {
    const LONGEST: Duration = Duration::from_secs(120);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("the operating system gives threads").block_on(async {
        let kept = async {
            let store = start.await;
            law(&store).await;
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
