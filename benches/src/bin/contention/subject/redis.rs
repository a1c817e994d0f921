//! Floors and rivals on a Redis server.

use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use rslock::{LockGuard, LockManager};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{Contender, Place, said};

/// The list of a key that holds its token.
pub(crate) fn token(key: &str) -> String {
    format!("token:{key}")
}

/// The floor of a hand-over through Redis: a token that the server gives to whoever has waited longest. Two commands a turn, on a
/// connection of its own. Nothing survives its holder.
pub(super) struct BlpopToken {
    stream: BufReader<TcpStream>,
    token: String,
}

impl BlpopToken {
    pub(super) async fn connect(place: &Place) -> Result<Self, String> {
        let address = place.address.strip_prefix("redis://").ok_or("not a redis URL")?;
        let stream = TcpStream::connect(address.trim_end_matches('/')).await.map_err(said)?;
        stream.set_nodelay(true).map_err(said)?;
        Ok(Self { stream: BufReader::new(stream), token: token(&place.key) })
    }

    /// Sends a command and reads so many lines of its answer.
    async fn command(&mut self, words: &[&str], lines: usize) -> Result<(), String> {
        let mut wire = format!("*{}\r\n", words.len());
        for word in words {
            wire += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.stream.get_mut().write_all(wire.as_bytes()).await.map_err(said)?;
        let mut answer = String::new();
        for _ in 0..lines {
            self.stream.read_line(&mut answer).await.map_err(said)?;
        }
        match answer.chars().next() {
            Some('*' | ':') => Ok(()),
            _ => Err(format!("{} was answered {answer:?}", words[0])),
        }
    }
}

#[async_trait]
impl Contender for BlpopToken {
    async fn take(&mut self) -> Result<(), String> {
        let token = self.token.clone();
        // *2, the list's name, the element: each with its length
        self.command(&["BLPOP", &token, "0"], 5).await
    }

    async fn give(&mut self) -> Result<(), String> {
        let token = self.token.clone();
        self.command(&["RPUSH", &token, "1"], 1).await
    }
}

/// The floor of a take-over through Redis: a key with a ttl, and a waiter who asks how long it lives and sleeps until then.
pub(super) struct SetNx {
    redis: MultiplexedConnection,
    key: String,
    ttl: u64,
}

impl SetNx {
    pub(super) async fn connect(place: &Place) -> Result<Self, String> {
        let ttl = u64::try_from(place.ttl.as_millis()).map_err(said)?;
        Ok(Self { redis: connection(&place.address).await?, key: place.key.clone(), ttl })
    }
}

/// A connection to the server at this URL.
pub(crate) async fn connection(url: &str) -> Result<MultiplexedConnection, String> {
    let client = redis::Client::open(url).map_err(said)?;
    client.get_multiplexed_async_connection().await.map_err(said)
}

#[async_trait]
impl Contender for SetNx {
    async fn take(&mut self) -> Result<(), String> {
        loop {
            let mut set = redis::cmd("SET");
            set.arg(&self.key).arg(std::process::id()).arg("NX").arg("PX").arg(self.ttl);
            let set: Option<String> = set.query_async(&mut self.redis).await.map_err(said)?;
            if set.is_some() {
                return Ok(());
            }
            let left = redis::cmd("PTTL").arg(&self.key).query_async(&mut self.redis).await;
            let left: i64 = left.map_err(said)?;
            tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0))).await;
        }
    }

    async fn give(&mut self) -> Result<(), String> {
        redis::cmd("DEL").arg(&self.key).query_async(&mut self.redis).await.map_err(said)
    }

    async fn renew(&mut self) -> Result<(), String> {
        let mut expire = redis::cmd("PEXPIRE");
        expire.arg(&self.key).arg(self.ttl).query_async(&mut self.redis).await.map_err(said)
    }
}

/// What the tasks of a process share, with its defaults.
pub(super) fn manager(place: &Place) -> LockManager {
    LockManager::new(vec![place.address.as_str()])
}

/// `rslock`, with its defaults: it tries again after a random time of up to 200 ms.
pub(super) struct Rslock {
    manager: LockManager,
    key: String,
    ttl: Duration,
    guard: Option<LockGuard>,
}

impl Rslock {
    pub(super) fn new(manager: LockManager, place: &Place) -> Self {
        Self { manager, key: place.key.clone(), ttl: place.ttl, guard: None }
    }
}

#[async_trait]
impl Contender for Rslock {
    async fn take(&mut self) -> Result<(), String> {
        let guard = self.manager.acquire(self.key.as_str(), self.ttl);
        self.guard = Some(guard.await.map_err(said)?);
        Ok(())
    }

    async fn give(&mut self) -> Result<(), String> {
        self.guard.take().ok_or("nothing to give")?.release().await;
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), String> {
        let guard = self.guard.as_ref().ok_or("nothing to renew")?;
        self.manager.extend(&guard.lock, self.ttl).await.map(drop).map_err(said)
    }
}
