//! Asking whoever listens on an address who it is. Runs on the keeper's thread.

use std::time::Duration;

use solocron::BackendError;
use solocron::lock::LockKey;
use tokio::time::timeout;

use crate::addr::Address;
use crate::banner::{Banner, LONGEST, MAGIC};
use crate::error::{another_lock, foreign, hung_up, nobody, refused, silent, stranger};
use crate::stream::{Peer, Stream};

/// A holder says who it is at once; a loaded machine gets this long.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is known of whoever has an address.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nobody listens.
    Nobody,
    /// Somebody listens and hung up without a word: a holder that gives up its lock, or has just lost the race for it.
    HungUp(Option<Peer>),
    /// This holder; the connection ends with its lease, or at once where the holder says that it is full.
    Holder(Banner, Stream),
    /// A process of ours that is stopped, and so holds what it held. The connection ends with it.
    Stopped(Stream),
    /// None of these.
    Other(Other),
}

/// Why an address cannot be had, and its lock is not held either.
#[derive(Debug)]
pub(crate) enum Other {
    /// A process of another user.
    Foreign(Peer),
    /// It speaks, and not as a holder does: how.
    Stranger(Option<Peer>, &'static str),
    /// It says nothing.
    Silent(Option<Peer>),
    /// The holder of another lock.
    AnotherLock(Banner),
    /// It hangs up, for too long.
    HangsUp(Option<Peer>),
    /// Nobody listens, for too long.
    Nobody,
}

impl Other {
    /// The error that names whoever it is. Reads much of `/proc`: never on the keeper's thread.
    pub(crate) fn error(self, key: &LockKey, namespace: &str, at: &Address) -> BackendError {
        match self {
            Self::Foreign(peer) => foreign(key, at, peer),
            Self::Stranger(peer, how) => stranger(key, at, peer, how),
            Self::Silent(peer) => silent(key, at, peer),
            Self::AnotherLock(banner) => another_lock(key, namespace, at, &banner),
            Self::HangsUp(peer) => hung_up(key, at, peer),
            Self::Nobody => nobody(key, at),
        }
    }
}

/// Asks.
pub(crate) async fn ask(
    at: &Address,
    namespace: &str,
    key: &LockKey,
) -> Result<Found, BackendError> {
    let refuse = |error| refused("ask who has", key, at, &error);
    let Some(stream) = at.connect().await.map_err(refuse)? else { return Ok(Found::Nobody) };
    let peer = stream.peer().map_err(refuse)?;
    if let Some(peer) = peer.filter(|peer| !peer.is_trusted()) {
        return Ok(Found::Other(Other::Foreign(peer)));
    }
    let line = match timeout(PATIENCE, line(&stream)).await {
        Ok(Ok(line)) => line,
        Ok(Err(Said::Nothing)) => return Ok(Found::HungUp(peer)),
        Ok(Err(Said::Garbage)) => {
            let how = "it speaks another protocol";
            return Ok(Found::Other(Other::Stranger(peer, how)));
        }
        Err(_) if peer.is_some_and(Peer::is_stopped) => {
            tracing::debug!(%key, %at, "the holder is stopped");
            return Ok(Found::Stopped(stream));
        }
        Err(_) => return Ok(Found::Other(Other::Silent(peer))),
    };
    Ok(match Banner::parse(&line) {
        Some(banner) if banner.namespace == namespace && banner.key == *key => {
            Found::Holder(banner, stream)
        }
        Some(banner) => Found::Other(Other::AnotherLock(banner)),
        None => Found::Other(Other::Stranger(peer, "it speaks another version of this protocol")),
    })
}

/// Who holds the lock at an address, whichever it is. `None`: nobody who says so.
pub(crate) async fn holder_at(at: &Address) -> Option<Banner> {
    let stream = at.connect().await.ok()??;
    if stream.peer().ok()?.is_some_and(|peer| !peer.is_trusted()) {
        return None;
    }
    let line = timeout(PATIENCE, line(&stream)).await.ok()?.ok()?;
    Banner::parse(&line)
}

enum Said {
    /// It ended the connection first.
    Nothing,
    Garbage,
}

/// The first line, if it begins as ours does.
async fn line(stream: &Stream) -> Result<String, Said> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 512];
    loop {
        match stream.receive(&mut chunk).await {
            0 => return Err(Said::Nothing),
            count => bytes.extend(&chunk[..count]),
        }
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC.as_bytes()[..known] || bytes.len() > LONGEST {
            return Err(Said::Garbage);
        }
        if bytes.ends_with(b"\n") {
            return String::from_utf8(bytes).map_err(|_| Said::Garbage);
        }
    }
}
