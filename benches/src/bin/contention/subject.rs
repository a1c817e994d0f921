//! What is measured: solocron over each backend, floors, and rivals that are crates.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use solocron::Locks;
use solocron::lock::LockGuard;
use solocron_flock::FlockBackend;

/// Somebody who wants the key, again and again.
#[async_trait]
pub(crate) trait Contender: Send {
    /// Waits until it has the key.
    async fn take(&mut self) -> Result<(), String>;

    /// Gives it back.
    async fn give(&mut self) -> Result<(), String>;
}

/// The key that all of them want.
const KEY: &str = "contended";

/// `tasks` contenders of one process, which share what processes share.
pub(crate) async fn contenders(
    subject: &str,
    address: &str,
    tasks: u32,
) -> Result<Vec<Box<dyn Contender>>, String> {
    let each =
        |new: &dyn Fn() -> Result<Box<dyn Contender>, String>| (0..tasks).map(|_| new()).collect();
    match subject {
        "solocron-flock" => {
            let backend = FlockBackend::open(address).map_err(said)?;
            let locks = Locks::new(backend).map_err(said)?;
            each(&|| Ok(Box::new(Solocron { locks: locks.clone(), guard: None })))
        }
        "blocked-flock" => {
            let path = format!("{address}/floor");
            each(&|| Ok(Box::new(BlockedFlock { path: path.clone(), file: None })))
        }
        "pipe-token" => {
            let path = format!("{address}/pipe");
            each(&|| {
                let pipe = OpenOptions::new().read(true).write(true).open(&path).map_err(said)?;
                Ok(Box::new(PipeToken { pipe: Arc::new(pipe) }))
            })
        }
        _ => Err(format!("no subject of the name {subject:?}")),
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Solocron {
    locks: Locks,
    guard: Option<LockGuard>,
}

#[async_trait]
impl Contender for Solocron {
    async fn take(&mut self) -> Result<(), String> {
        self.guard = Some(self.locks.lock(KEY, Duration::from_secs(60)).await.map_err(said)?);
        Ok(())
    }

    async fn give(&mut self) -> Result<(), String> {
        let guard = self.guard.take().ok_or("nothing to give")?;
        guard.release().await.map(drop).map_err(said)
    }
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(said)?.map_err(said)
}

/// The floor of a file lock: a thread that waits in `flock(2)`.
struct BlockedFlock {
    path: String,
    file: Option<File>,
}

#[async_trait]
impl Contender for BlockedFlock {
    async fn take(&mut self) -> Result<(), String> {
        let path = self.path.clone();
        let locked = blocking(move || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            file.lock()?;
            Ok(file)
        });
        self.file = Some(locked.await?);
        Ok(())
    }

    async fn give(&mut self) -> Result<(), String> {
        drop(self.file.take());
        Ok(())
    }
}

/// The floor of handing anything over between processes: one byte in a named pipe.
struct PipeToken {
    pipe: Arc<File>,
}

#[async_trait]
impl Contender for PipeToken {
    async fn take(&mut self) -> Result<(), String> {
        let pipe = Arc::clone(&self.pipe);
        blocking(move || (&*pipe).read_exact(&mut [0])).await
    }

    async fn give(&mut self) -> Result<(), String> {
        (&*self.pipe).write_all(&[1]).map_err(said)
    }
}
