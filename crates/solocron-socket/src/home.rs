//! What this process holds and remembers, whichever of its backends asked for it.
//!
//! ```text
//!   registry ── one per process; a forked child finds that none is its own and adds one to its copy of the chain
//!     └─ home ── held[address] = lease; the records of locks without a state directory; nonces that were given back
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use solocron::jiff::Timestamp;
use solocron::lock::{KeyRecord, LockKey, Nonce};

use crate::addr::Address;
use crate::guests::Guests;
use crate::lease::Lease;

/// One process.
#[derive(Debug)]
pub(crate) struct Home {
    pid: u32,
    /// Whoever is connected to one of its sockets.
    pub(crate) guests: Guests,
    state: Mutex<State>,
}

/// A lock: its address, its namespace and its key. An abstract name says all three, a port only itself.
type Name = (Address, String, LockKey);

#[derive(Debug, Default)]
struct State {
    held: HashMap<Address, (u64, Weak<Lease>)>,
    next: u64,
    /// The records of locks without a state directory, and when each was last put back.
    records: HashMap<Name, (KeyRecord, Timestamp)>,
    /// Nonces are not sent by two processes, so that this one remembers them is enough.
    refused: Vec<(Nonce, Timestamp)>,
}

/// Never dropped: a forked child must not run the destructors of its parent's sockets, which would take them out of the epoll
/// instance that both share.
struct Registry {
    home: Arc<Home>,
    child: OnceLock<Box<Self>>,
}

impl Registry {
    fn new(pid: u32) -> Self {
        let home = Arc::new(Home { pid, guests: Guests::default(), state: Mutex::default() });
        Self { home, child: OnceLock::new() }
    }

    /// That of this process. Takes no lock that another thread may have held while this process was forked.
    fn own() -> &'static Self {
        static FIRST: OnceLock<Registry> = OnceLock::new();
        let pid = std::process::id();
        let mut at = FIRST.get_or_init(|| Self::new(pid));
        while at.home.pid != pid {
            at = at.child.get_or_init(|| Box::new(Self::new(pid)));
        }
        at
    }
}

impl Home {
    /// This process's home.
    pub(crate) fn own() -> Arc<Self> {
        Arc::clone(&Registry::own().home)
    }

    /// Whether the caller is the process whose home this is, and not a forked child of it.
    pub(crate) fn is_mine(&self) -> bool {
        self.pid == std::process::id()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change in here is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease that this process has on an address.
    pub(crate) fn lease(&self, at: &Address) -> Option<Arc<Lease>> {
        self.state().held.get(at)?.1.upgrade()
    }

    /// Enters an address that was just taken. Answers with the number under which to [`leave`](Self::leave) it.
    pub(crate) fn enter(&self, at: Address, lease: Weak<Lease>) -> u64 {
        let mut state = self.state();
        state.next += 1;
        let entry = state.next;
        state.held.insert(at, (entry, lease));
        entry
    }

    /// Takes out an address that was just given up.
    pub(crate) fn leave(&self, at: &Address, entry: u64) {
        let mut state = self.state();
        if state.held.get(at).is_some_and(|(held, _)| *held == entry) {
            state.held.remove(at);
        }
    }

    /// The record of a lock without a state directory.
    pub(crate) fn record(&self, at: &Address, namespace: &str, key: &LockKey) -> KeyRecord {
        let name = (at.clone(), namespace.to_owned(), key.clone());
        let known = self.state().records.get(&name).map(|(record, _)| record.clone());
        known.unwrap_or_else(|| KeyRecord::new(key.clone()))
    }

    /// Puts it back.
    pub(crate) fn remember(
        &self,
        at: &Address,
        namespace: &str,
        record: KeyRecord,
        now: Timestamp,
    ) {
        /// With so many, those are forgotten that no delayed request can mean any more.
        const MANY: usize = 4096;
        let mut state = self.state();
        if state.records.len() >= MANY {
            let old = now.checked_sub(KeyRecord::REFUSED_FOR).unwrap_or(Timestamp::MIN);
            state.records.retain(|_, (_, put)| *put > old);
        }
        let name = (at.clone(), namespace.to_owned(), record.key().clone());
        state.records.insert(name, (record, now));
    }

    /// Refuses a nonce for as long as a record would.
    pub(crate) fn refuse(&self, nonce: Nonce, now: Timestamp) {
        let until = now.checked_add(KeyRecord::REFUSED_FOR).unwrap_or(Timestamp::MAX);
        let refused = &mut self.state().refused;
        refused.retain(|(other, until)| *until > now && *other != nonce);
        refused.push((nonce, until));
    }

    /// Whether a nonce was refused.
    pub(crate) fn refuses(&self, nonce: Nonce, now: Timestamp) -> bool {
        self.state().refused.iter().any(|(other, until)| *other == nonce && *until > now)
    }
}
