//! What a family stands on: its directory, its server, and the server's statistics.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use solocron_benches::Samples;
use solocron_testkit::server::{EtcdServer, RedisServer};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::commands::{self, Counts};
use super::families::{Family, Kind, Server, Subject};
use super::subject::{self, Place};

/// Longer than any measurement, so that no lease ends in one.
const TTL: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    dir: TempDir,
    server: Running,
    runtime: Runtime,
    keys: AtomicU32,
}

enum Running {
    None,
    Redis(RedisServer),
    Etcd(EtcdServer),
}

impl Stage {
    /// # Errors
    ///
    /// What cannot be made.
    pub(crate) fn set(family: &Family) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| format!("make a directory: {error}"))?;
        let server = match family.server {
            Server::None => Running::None,
            Server::Redis => Running::Redis(RedisServer::start()),
            Server::Etcd => Running::Etcd(EtcdServer::start()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
        Ok(Self { dir, server, runtime, keys: AtomicU32::new(0) })
    }

    /// A key that nobody used before, with what `subject` needs to find there.
    pub(crate) fn place(&self, subject: &str, ttl: Option<Duration>) -> Result<Place, String> {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            address: match &self.server {
                Running::None => self.dir.path().to_string_lossy().into_owned(),
                Running::Redis(redis) => redis.url(),
                Running::Etcd(etcd) => etcd.endpoint(),
            },
            // Abstract sockets are the whole machine's.
            key: format!("{}-{number}", std::process::id()),
            ttl: ttl.unwrap_or(TTL),
        };
        if let (Running::Redis(redis), "blpop-token") = (&self.server, subject) {
            redis.command(&["RPUSH", &subject::token(&place.key), "1"]);
        }
        Ok(place)
    }

    /// What the server has counted until now.
    pub(crate) fn counts(&self) -> Result<Option<Counts>, String> {
        Ok(match &self.server {
            Running::None => None,
            Running::Redis(redis) => {
                Some(commands::of_redis(&redis.command(&["INFO", "commandstats"]).to_string()))
            }
            Running::Etcd(etcd) => Some(commands::of_etcd(&metrics(etcd)?)),
        })
    }

    /// What is left of the lease of whoever holds it, where the server says so.
    pub(crate) fn left(
        &self,
        subject: &Subject,
        place: &Place,
    ) -> Result<Option<Duration>, String> {
        let Running::Redis(redis) = &self.server else { return Ok(None) };
        if subject.kind == Kind::Ours {
            let doing = |error: solocron::Error| format!("see who holds {}: {error}", place.key);
            let holders = self.runtime.block_on(async {
                subject::locks(subject.name, place).await?.holders(&place.key).await.map_err(doing)
            })?;
            return Ok(holders.into_iter().flatten().find_map(|holder| holder.remaining));
        }
        let key = if subject.name == "python-redis-lock" {
            format!("lock:{}", place.key)
        } else {
            place.key.clone()
        };
        let left = redis.command(&["PTTL", &key]).as_int();
        Ok(left.and_then(|left| u64::try_from(left).ok()).map(Duration::from_millis))
    }

    /// The family's probe on a connection of its own: on Redis `PING`, on etcd put and delete.
    pub(crate) fn probe(&self) -> Result<Option<Probe>, String> {
        let place = self.place("", None)?;
        self.runtime.block_on(async {
            match self.server {
                Running::None => Ok(None),
                Running::Redis(_) => {
                    let mut redis = subject::connection(&place.address).await?;
                    let ping = async || {
                        let pong = redis::cmd("PING").query_async(&mut redis).await;
                        pong.map_err(|error| format!("PING: {error}"))
                    };
                    probe(ping).await.map(Some)
                }
                Running::Etcd(_) => {
                    let mut etcd = subject::connect(&place).await?;
                    let key = place.key.as_str();
                    let pair = async || {
                        let doing = |error| format!("put and delete: {error}");
                        etcd.put(key, "", None).await.map_err(doing)?;
                        etcd.delete(key, None).await.map(drop).map_err(doing)
                    };
                    probe(pair).await.map(Some)
                }
            }
        })
    }
}

/// What one request takes, p50 in ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    /// One after the other, as in a storm.
    pub(crate) busy: f64,
    /// One every 5 ms, as in a relay: the server's process has to be woken up.
    pub(crate) paced: f64,
}

/// Both kinds in turns, so that a moment's disturbance does not fall on one of them.
async fn probe(mut request: impl AsyncFnMut() -> Result<(), String>) -> Result<Probe, String> {
    const PACED: usize = 40;
    const BUSY: usize = 15;
    const PACE: Duration = Duration::from_millis(5);
    let (mut busy, mut paced) = (Samples::default(), Samples::default());
    for _ in 0..PACED {
        tokio::time::sleep(PACE).await;
        for number in 0..=BUSY {
            let begun = Instant::now();
            request().await?;
            let times = if number == 0 { &mut paced } else { &mut busy };
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    let median = |times: &Samples| times.median().unwrap_or(f64::NAN);
    Ok(Probe { busy: median(&busy), paced: median(&paced) })
}

/// What etcd says about itself, for Prometheus.
fn metrics(etcd: &EtcdServer) -> Result<String, String> {
    let ask = || {
        let mut stream = TcpStream::connect(etcd.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().map_err(|error: std::io::Error| format!("read etcd's metrics: {error}"))
}
