//! What is measured: solocron over each backend, floors, and rivals that are crates. Rivals in other languages are programs of their
//! own, in `benches/rivals`, which hear and say the same lines.

mod etcd;
mod files;
mod redis;
mod socket;
mod solocron;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;

pub(crate) use self::etcd::connect;
pub(crate) use self::files::fill_pipe;
pub(crate) use self::redis::{connection, token};
pub(crate) use self::solocron::locks;

/// Somebody who wants the key, again and again.
#[async_trait]
pub(crate) trait Contender: Send {
    /// Waits until it has the key.
    async fn take(&mut self) -> Result<(), String>;

    /// Gives it back.
    async fn give(&mut self) -> Result<(), String>;

    /// What a holder must do every third of the ttl; nothing where the kernel or a library does it.
    async fn renew(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Where and for what contenders contend.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// A directory, or the URL of a server.
    pub(crate) address: String,
    /// The key that all of them want.
    pub(crate) key: String,
    pub(crate) ttl: Duration,
}

/// `tasks` contenders of one process, which share what tasks of a process share.
pub(crate) async fn contenders(
    subject: &str,
    place: &Place,
    tasks: u32,
) -> Result<Vec<Box<dyn Contender>>, String> {
    match subject {
        "blocked-flock" => each(tasks, || files::BlockedFlock::new(place)),
        "pipe-token" => each(tasks, || files::PipeToken::new(place)),
        "backlog-eof" => each(tasks, || socket::BacklogEof::new(place)),
        "blpop-token" => all(tasks, async || redis::BlpopToken::connect(place).await).await,
        "set-nx-pttl" => all(tasks, async || redis::SetNx::connect(place).await).await,
        "rslock" => {
            let manager = redis::manager(place);
            each(tasks, || Ok(redis::Rslock::new(manager.clone(), place)))
        }
        "key-and-watch" => all(tasks, async || etcd::KeyAndWatch::connect(place).await).await,
        "etcd-lock-rpc" => {
            let client = connect(place).await?;
            all(tasks, async || etcd::LockRpc::new(client.clone(), place).await).await
        }
        _ => {
            let locks = locks(subject, place).await?;
            each(tasks, || Ok(solocron::Solocron::new(locks.clone(), place)))
        }
    }
}

fn each<C: Contender + 'static>(
    tasks: u32,
    new: impl Fn() -> Result<C, String>,
) -> Result<Vec<Box<dyn Contender>>, String> {
    (0..tasks).map(|_| Ok(Box::new(new()?) as Box<dyn Contender>)).collect()
}

async fn all<C: Contender + 'static>(
    tasks: u32,
    new: impl AsyncFn() -> Result<C, String>,
) -> Result<Vec<Box<dyn Contender>>, String> {
    let mut contenders: Vec<Box<dyn Contender>> = Vec::new();
    for _ in 0..tasks {
        contenders.push(Box::new(new().await?));
    }
    Ok(contenders)
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(said)?.map_err(said)
}
