//! What this process holds in one lock directory, and who waits for it.
//!
//! ```text
//!   registry ── one per process; a forked child finds that none is its own and adds one to its copy of the chain
//!     └─ home ── one per lock directory: held[key] = lease and its waiters; the bell on which waiters come in
//! ```
//!
//! The rule that loses no wake-up: a key is entered in `held` after its lock was won and **before** the record names this process's
//! bell; it is taken out **after** the lock was given up. Whoever asks in between is kept and rung; whoever asks later is turned
//! away at once, and tries the lock again.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use nix::libc::MSG_NOSIGNAL;
use socket2::SockRef;
use solocron::jiff::Timestamp;
use solocron::lock::files::Rights;
use solocron::lock::{Keeper, KeyRecord, Nonce};
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::bell::Bell;
use crate::guests::Guests;
use crate::lease::Lease;

/// One lock directory, as this process sees it.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) rights: Rights,
    pub(crate) pid: u32,
    /// Whoever is connected to one of this process's bells.
    pub(crate) guests: Guests,
    state: Mutex<State>,
    bell: Mutex<Option<Bell>>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<u128, Held>,
    next: u64,
    /// Nonces that were given back while somebody else had the file. Nonces are not sent by two processes, so this will do.
    refused: Vec<(Nonce, Timestamp)>,
}

#[derive(Debug)]
struct Held {
    entry: u64,
    lease: Weak<Lease>,
    /// Whoever has waited longest comes first.
    waiters: BTreeMap<Waiter, Arc<UnixStream>>,
}

/// Since when somebody waits, by the lease clock, and a number that tells two of one instant apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter {
    since: u64,
    number: u64,
}

/// Homes of one process. Never dropped: a forked child must not run the destructors of its parent's sockets, which would take them
/// out of the epoll instance that both share.
struct Registry {
    pid: u32,
    guests: Guests,
    homes: Mutex<HashMap<PathBuf, Arc<Home>>>,
    child: OnceLock<Box<Self>>,
}

impl Registry {
    fn new(pid: u32) -> Self {
        Self { pid, guests: Guests::default(), homes: Mutex::default(), child: OnceLock::new() }
    }

    /// That of this process. Takes no lock that another thread may have held while this process was forked.
    fn own() -> &'static Self {
        static FIRST: OnceLock<Registry> = OnceLock::new();
        let pid = std::process::id();
        let mut at = FIRST.get_or_init(|| Self::new(pid));
        while at.pid != pid {
            at = at.child.get_or_init(|| Box::new(Self::new(pid)));
        }
        at
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change in here is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Home {
    /// This process's home in `dir`.
    pub(crate) fn of(dir: &Path, rights: Rights) -> Arc<Self> {
        let registry = Registry::own();
        let mut homes = lock(&registry.homes);
        if let Some(home) = homes.get(dir) {
            return Arc::clone(home);
        }
        let home = Arc::new(Self {
            dir: dir.to_owned(),
            rights,
            pid: registry.pid,
            guests: registry.guests.clone(),
            state: Mutex::default(),
            bell: Mutex::default(),
        });
        homes.insert(dir.to_owned(), Arc::clone(&home));
        home
    }

    /// Whether the caller is the process whose home this is, and not a forked child of it.
    pub(crate) fn is_mine(&self) -> bool {
        self.pid == std::process::id()
    }

    /// The bell that waiters of this process's locks are told of; 0 where there can be none.
    pub(crate) fn bell(self: &Arc<Self>) -> u128 {
        lock(&self.bell).get_or_insert_with(|| Bell::hang(self)).id()
    }

    /// The lease that this process has on a key.
    pub(crate) fn lease(&self, key: u128) -> Option<Arc<Lease>> {
        lock(&self.state).held.get(&key)?.lease.upgrade()
    }

    /// Enters a key whose lock was just won. Answers with the number under which to [`leave`](Self::leave) it.
    pub(crate) fn enter(&self, key: u128, lease: Weak<Lease>) -> u64 {
        let mut state = lock(&self.state);
        let entry = state.number();
        let before = state.held.insert(key, Held { entry, lease, waiters: BTreeMap::new() });
        drop(state);
        // Its lock was given up, or its file replaced: news for whoever waited.
        if let Some(before) = before {
            before.ring();
        }
        entry
    }

    /// Takes out a key whose lock was just given up, and rings for everybody who waits.
    pub(crate) fn leave(&self, key: u128, entry: u64) {
        let mut state = lock(&self.state);
        if state.held.get(&key).is_some_and(|held| held.entry == entry) {
            let held = state.held.remove(&key);
            drop(state);
            if let Some(held) = held {
                held.ring();
            }
        }
    }

    /// Somebody asks to be rung when this process gives up `key`. `None`: it does not have it.
    ///
    /// The waiter is told so with one byte before anything can be rung, so that it can tell news from a wrong address.
    pub(crate) fn keep_waiting(
        &self,
        key: u128,
        since: u64,
        stream: &Arc<UnixStream>,
    ) -> Option<Waiter> {
        let mut state = lock(&self.state);
        let waiter = Waiter { since, number: state.number() };
        let held = state.held.get_mut(&key)?;
        // Not write(2): in a process that does not ignore SIGPIPE, a waiter that hung up would kill the holder.
        SockRef::from(stream.as_ref()).send_with_flags(&[1], MSG_NOSIGNAL).ok()?;
        held.waiters.insert(waiter, Arc::clone(stream));
        let lease = held.lease.upgrade();
        drop(state);
        if let Some(lease) = lease {
            lease.raise_above(stream.as_fd().as_raw_fd());
        }
        Some(waiter)
    }

    /// A waiter hung up, or was rung.
    pub(crate) fn hung_up(&self, key: u128, waiter: Waiter) {
        if let Some(held) = lock(&self.state).held.get_mut(&key) {
            held.waiters.remove(&waiter);
        }
    }

    /// The home of another process, as a forked child has it.
    #[cfg(test)]
    pub(crate) fn of_parent(dir: &Path, rights: Rights) -> Arc<Self> {
        let pid = std::process::id() + 1;
        let (dir, state, bell) = (dir.to_owned(), Mutex::default(), Mutex::default());
        Arc::new(Self { dir, rights, pid, guests: Guests::default(), state, bell })
    }

    /// How many waiters this process keeps.
    #[cfg(test)]
    pub(crate) fn waiters(&self) -> usize {
        lock(&self.state).held.values().map(|held| held.waiters.len()).sum()
    }

    /// Refuses a nonce in this process for as long as a record would.
    pub(crate) fn refuse(&self, nonce: Nonce, now: Timestamp) {
        let until = now.checked_add(KeyRecord::REFUSED_FOR).unwrap_or(Timestamp::MAX);
        let refused = &mut lock(&self.state).refused;
        refused.retain(|(other, until)| *until > now && *other != nonce);
        refused.push((nonce, until));
    }

    /// Whether a nonce was refused here.
    pub(crate) fn refuses(&self, nonce: Nonce, now: Timestamp) -> bool {
        lock(&self.state).refused.iter().any(|(other, until)| *other == nonce && *until > now)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Held {
    /// What the first waiter has for itself: it takes the lock in a fraction of this, and the others then wait for *it*.
    const HEAD_START: Duration = Duration::from_millis(1);

    /// Tells the waiter who has waited longest, and a moment later the others: whoever is told first nearly always wins, so the order
    /// is what makes turns fair; and one that is gone, or does not want it any more, holds up nobody.
    ///
    /// `shutdown` and not only a close: a forked child may have copies of these sockets.
    fn ring(mut self) {
        if let Some((_, first)) = self.waiters.pop_first() {
            shut(&first);
        }
        if self.waiters.is_empty() {
            return;
        }
        let ring_all = |waiters: BTreeMap<_, _>| waiters.values().for_each(shut);
        match Keeper::thread() {
            Ok(keeper) => keeper.spawn(async move {
                sleep(Self::HEAD_START).await;
                ring_all(self.waiters);
            }),
            Err(_) => ring_all(self.waiters),
        }
    }
}

pub(crate) fn shut(stream: &Arc<UnixStream>) {
    if let Err(error) = SockRef::from(stream.as_ref()).shutdown(std::net::Shutdown::Both) {
        tracing::trace!(%error, "a waiter had hung up already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bell::receive;

    #[tokio::test]
    async fn whoever_waits_is_rung_by_whatever_comes_first() {
        let tmp = tempfile::tempdir().unwrap();
        let home = Home::of(tmp.path(), Rights { uid: 0, shared: false });
        let (waiter, kept) = UnixStream::pair().unwrap();
        let kept = Arc::new(kept);
        assert_eq!(home.keep_waiting(7, 0, &kept), None, "not held here");
        let first = home.enter(7, Weak::new());
        assert!(home.keep_waiting(7, 0, &kept).is_some());
        assert_eq!(receive(&waiter, &mut [0; 4]).await, 1, "told that it may wait");
        // The next winner may enter before the last one has left: it was free in between.
        let second = home.enter(7, Weak::new());
        assert_eq!(receive(&waiter, &mut [0; 4]).await, 0, "rung");
        let (waiter, kept) = UnixStream::pair().unwrap();
        let kept = Arc::new(kept);
        assert!(home.keep_waiting(7, 0, &kept).is_some());
        home.leave(7, first);
        assert_eq!(home.waiters(), 1, "the late leaver takes nobody else's waiters");
        home.leave(7, second);
        assert_eq!(receive(&waiter, &mut [0; 4]).await, 1);
        assert_eq!(receive(&waiter, &mut [0; 4]).await, 0);
        assert_eq!(home.waiters(), 0);
    }

    #[tokio::test]
    async fn whoever_has_waited_longest_is_rung_first() {
        let tmp = tempfile::tempdir().unwrap();
        let home = Home::of(tmp.path(), Rights { uid: 0, shared: false });
        let entry = home.enter(7, Weak::new());
        let (late, kept_late) = UnixStream::pair().unwrap();
        let (early, kept_early) = UnixStream::pair().unwrap();
        assert!(home.keep_waiting(7, 9, &Arc::new(kept_late)).is_some());
        assert!(home.keep_waiting(7, 5, &Arc::new(kept_early)).is_some());
        assert_eq!(receive(&early, &mut [0; 4]).await, 1);
        assert_eq!(receive(&late, &mut [0; 4]).await, 1);
        home.leave(7, entry);
        assert_eq!(early.try_read(&mut [0; 4]).ok(), Some(0), "rung within the call");
        assert!(late.try_read(&mut [0; 4]).is_err(), "not yet");
        assert_eq!(receive(&late, &mut [0; 4]).await, 0, "and then the others");
    }
}
