//! The line: of all processes that wait for a lock only the first one watches its holder; the others sleep until they are called.
//!
//! ```text
//!   \0solocron/<namespace>/<slug>/line    listened on by one of those who wait, whichever came first
//!
//!   waiter ── connect ──► the line: in order of arrival
//!          ◄── "!" ────── you are the first: watch the holder
//!          ◄── "-" ────── there is no room: watch the holder all the same
//!          ── hang up ──► has the lock, or gave up: the next one is called
//! ```
//!
//! Why: a released lock that wakes everybody is taken by one, and all the others connect to the new holder, each time. With the line a
//! hand-over costs one wake-up, one attempt and, beside the way, one call, however many wait; so does the death of a holder. It is only
//! about who tries: a lock is taken by listening on its own name, and whoever does not wait may be faster. Whoever has the line need not
//! hold the lock, or want it any more: it serves until the line is empty. If it dies, the connections end, and the others line up again.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::addr::{connect_abstract, listen_abstract};
use crate::home::Home;
use crate::stream::{Peer, Stream};

/// What the first in line is sent.
const CALL: &[u8] = b"!";
/// What is sent to those for whom there is no room.
const FULL: &[u8] = b"-";

/// What becomes of a place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    /// This one is the first.
    First,
    /// There was no room.
    Full,
    /// There is no line any more.
    Ended,
}

/// A place in the line. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Place(Stream);

impl Place {
    /// Lines up. `None`: there can be no line here, and everybody watches the holder.
    pub(crate) async fn take(line: &str) -> Option<Self> {
        /// How often a line may end just when we come.
        const TRIES: u32 = 8;
        for _ in 0..TRIES {
            match listen_abstract(line) {
                Ok(Some(listener)) => {
                    tokio::spawn(async move {
                        if let Err(error) = serve(listener).await {
                            tracing::debug!(%error, "a line of waiters has ended");
                        }
                    });
                }
                Ok(None) => {}
                Err(_) => return None,
            }
            match connect_abstract(line).await {
                Ok(Some(stream)) => {
                    let stream = Stream::Unix(stream);
                    let trusted = stream.peer().ok().flatten().is_some_and(Peer::is_trusted);
                    return trusted.then_some(Self(stream));
                }
                Ok(None) => sleep(Duration::from_millis(1)).await,
                Err(_) => return None,
            }
        }
        None
    }

    /// Waits to be called.
    pub(crate) async fn called(&self) -> Called {
        let mut said = [0];
        match self.0.receive(&mut said).await {
            0 => Called::Ended,
            _ if said == FULL => Called::Full,
            _ => Called::First,
        }
    }
}

/// Serves until the line is empty.
async fn serve(listener: StdListener) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let guests = Home::own().guests.clone();
    let (leave, mut left) = mpsc::unbounded_channel();
    let mut line = VecDeque::<(u64, Arc<Stream>)>::new();
    let mut next = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let stream = Arc::new(Stream::Unix(stream));
                    if !stream.peer()?.is_some_and(Peer::is_trusted) {
                        continue;
                    }
                    let Some(guest) = guests.admit() else {
                        if let Err(error) = stream.send(FULL) {
                            tracing::trace!(%error, "whoever came to a full line has just left");
                        }
                        continue;
                    };
                    next += 1;
                    let id = next;
                    line.push_back((id, Arc::clone(&stream)));
                    if line.len() == 1 {
                        call(&line);
                    }
                    let leave = leave.clone();
                    tokio::spawn(async move {
                        // It hangs up; and whoever says anything here does not wait.
                        stream.receive(&mut [0; 16]).await;
                        stream.end();
                        let _ = leave.send(id);
                        drop((stream, guest));
                    });
                }
                // Out of descriptors, most likely; whoever connected waits in the queue.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
            Some(id) = left.recv() => {
                let first = line.front().is_some_and(|(first, _)| *first == id);
                line.retain(|(other, _)| *other != id);
                if line.is_empty() {
                    // Whoever came just now finds its connection ended, and begins the next line.
                    return SockRef::from(&listener).shutdown(std::net::Shutdown::Both);
                }
                if first {
                    call(&line);
                }
            }
        }
    }
}

fn call(line: &VecDeque<(u64, Arc<Stream>)>) {
    if let Some((_, stream)) = line.front()
        && let Err(error) = stream.send(CALL)
    {
        tracing::trace!(%error, "the first in line has just left");
    }
}
