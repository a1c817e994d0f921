//! The holder's side: lets in whoever connects, says who holds the lock, and keeps the connection until the lock is given up.
//!
//! ```text
//!   taken ──► Waiting: listens, nobody is let in yet ──keeper thread──► Open: banner, keep ──► Closed: shutdown, connections ended
//!                └──────────────────────── given up at once ────────────────────────────────────►┘
//! ```
//!
//! Closing frees the lock before it returns, on whatever thread it is called: the loop holds the socket only while it is polled.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use solocron::lock::Keeper;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

use crate::addr::Listener;
use crate::banner::Banner;
use crate::guests::{Guest, Guests};
use crate::stream::{Peer, Stream};

/// The door of one lease.
pub(crate) struct Door {
    /// In a forked child, what the door holds is the parent's and is never dropped.
    pid: u32,
    banner: Banner,
    state: Mutex<State>,
    closed: Notify,
    guests: Guests,
}

struct State {
    listener: Stage,
    waiters: HashMap<u64, Arc<Stream>>,
    next: u64,
}

enum Stage {
    Waiting(Listener),
    Open(Arc<Live>),
    Closed,
}

/// A listener on the keeper's thread.
enum Live {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Live {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
            Listener::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
        })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        Poll::Ready(match self {
            Self::Unix(listener) => {
                ready!(listener.poll_accept(cx)).map(|(stream, _)| Stream::Unix(stream))
            }
            Self::Tcp(listener) => {
                ready!(listener.poll_accept(cx)).map(|(stream, _)| Stream::Tcp(stream))
            }
        })
    }

    fn shutdown(&self) {
        let ended = match self {
            Self::Unix(listener) => {
                socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both)
            }
            Self::Tcp(listener) => {
                socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both)
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a listener could not be shut down; closing it frees the lock");
        }
    }
}

impl Door {
    /// The door of a lock that was just taken. [`open`](Self::open) lets people in.
    pub(crate) fn new(listener: Listener, banner: &Banner, guests: Guests) -> Arc<Self> {
        let state = State { listener: Stage::Waiting(listener), waiters: HashMap::new(), next: 0 };
        Arc::new(Self {
            pid: std::process::id(),
            banner: banner.clone(),
            state: Mutex::new(state),
            closed: Notify::new(),
            guests,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change in here is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets people in, on the keeper's thread.
    pub(crate) fn open(self: &Arc<Self>, keeper: &Keeper) {
        let door = Arc::clone(self);
        keeper.spawn(async move {
            match door.begin() {
                Ok(true) => door.serve().await,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "nobody is told who holds the lock, or woken when it is free");
                }
            }
        });
    }

    /// False where it is closed already. The first descriptor is kept until the second one works: to drop it is to free the lock.
    fn begin(&self) -> io::Result<bool> {
        let mut state = self.state();
        match std::mem::replace(&mut state.listener, Stage::Closed) {
            Stage::Waiting(listener) => match listener.copy().and_then(Live::new) {
                Ok(live) => {
                    state.listener = Stage::Open(Arc::new(live));
                    Ok(true)
                }
                // Still held; only that nobody is let in.
                Err(error) => {
                    state.listener = Stage::Waiting(listener);
                    Err(error)
                }
            },
            Stage::Open(_) | Stage::Closed => Ok(false),
        }
    }

    async fn serve(self: &Arc<Self>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.closed.notified() => return,
                accepted = poll_fn(|cx| self.poll_accept(cx)) => accepted,
            };
            match accepted {
                None => return,
                Some(Ok(stream)) => {
                    if let Some((guest, id, stream)) = self.let_in(stream) {
                        let door = Arc::clone(self);
                        tokio::spawn(async move {
                            // It hangs up, or our own shutdown ends this; and a guest that says anything is no waiter.
                            stream.receive(&mut [0; 64]).await;
                            stream.end();
                            door.state().waiters.remove(&id);
                            drop((stream, guest));
                        });
                    }
                }
                Some(Err(error)) => {
                    // Out of descriptors, most likely; whoever connected waits in the queue.
                    tracing::debug!(%error, "a lock lets nobody in for now");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// `None`: the door is closed.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Stream>>> {
        // Not under the lock: a close in between drops its own reference, and this one ends with the poll.
        let live = match &self.state().listener {
            Stage::Open(live) => Arc::clone(live),
            Stage::Waiting(_) | Stage::Closed => return Poll::Ready(None),
        };
        live.poll_accept(cx).map(Some)
    }

    /// Says who holds the lock, and keeps the connection. `None`: it is not kept.
    fn let_in(&self, stream: Stream) -> Option<(Guest, u64, Arc<Stream>)> {
        // Any user may connect to an abstract name; the names of locks and hosts are none of their business.
        if stream.peer().ok()?.is_some_and(|peer: Peer| !peer.is_trusted()) {
            return None;
        }
        let guest = self.guests.admit();
        let stream = Arc::new(stream);
        let mut state = self.state();
        if matches!(state.listener, Stage::Closed) {
            return None;
        }
        // Whoever is turned away is told who holds as well: an end without a word is that of a stranger.
        let banner = Banner { full: guest.is_none(), ..self.banner.clone() };
        stream.send(banner.line().as_bytes()).ok()?;
        let guest = guest?;
        state.next += 1;
        let id = state.next;
        state.waiters.insert(id, Arc::clone(&stream));
        Some((guest, id, stream))
    }

    /// Gives the lock up: first the address, then whoever waits. Nothing, the second time.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        match std::mem::replace(&mut state.listener, Stage::Closed) {
            Stage::Waiting(listener) => listener.close(),
            Stage::Open(live) => live.shutdown(),
            Stage::Closed => return,
        }
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        self.closed.notify_one();
        for stream in waiters.values() {
            stream.end();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(std::mem::replace(&mut state.listener, Stage::Closed));
            std::mem::forget(std::mem::take(&mut state.waiters));
        }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}
