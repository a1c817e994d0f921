//! What this process has asked for, holds, and has given back: by nonce.
//!
//! ```text
//!   begin(nonce) ──► Asking ── granted ──► Held ── over ──► Over: refused from now on, for a minute
//!        │             └ answered otherwise ──► forgotten
//!        │             └ no answer, or dropped ──► forgotten, and in doubt until its revocation is acknowledged
//!        └ Held: the same lease again     └ Over: refused
//! ```
//!
//! While a nonce is in doubt its put may still arrive, and would ride on the living session: the session is then audited with each
//! beat, and what turns up under a nonce that is neither held nor asked for is taken back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use solocron::lock::{LockKey, Lost, Nonce};
use solocron::{Clock, LeaseInstant, SystemClock};

use crate::lease::{Lease, State};
use crate::session::Session;

/// How long a nonce is refused here, and how often the book is tidied.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Nobody revokes for longer than the core does; after that, the connection is long gone.
const DOUBTED_FOR: Duration = Duration::from_secs(700);

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<Nonce, Entry>,
    /// Who holds a lock key.
    holds: HashMap<Vec<u8>, Nonce>,
    doubts: HashMap<Nonce, LeaseInstant>,
    tidied: LeaseInstant,
}

#[derive(Debug)]
enum Entry {
    /// This many calls are under way.
    Asking {
        lock_key: Vec<u8>,
        calls: u32,
        deleted: i64,
    },
    Held(Arc<Lease>),
    Over(LeaseInstant),
}

/// What is known of a nonce before it is sent.
pub(crate) enum Begun<'a> {
    Asking(Asking<'a>),
    Held(Arc<Lease>),
    Over,
}

/// An acquisition that is under way. Dropped between [`sent`](Self::sent) and [`settled`](Self::settled), it is in doubt.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    ledger: &'a Ledger,
    nonce: Nonce,
    sent: bool,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change in here is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, nonce: Nonce, lock_key: &[u8]) -> Begun<'_> {
        let mut book = self.book();
        book.tidy();
        match book.entries.get_mut(&nonce) {
            Some(Entry::Asking { calls, .. }) => *calls += 1,
            Some(Entry::Held(lease)) => return Begun::Held(Arc::clone(lease)),
            Some(Entry::Over(_)) => return Begun::Over,
            None => {
                let lock_key = lock_key.to_vec();
                book.entries.insert(nonce, Entry::Asking { lock_key, calls: 1, deleted: 0 });
            }
        }
        Begun::Asking(Asking { ledger: self, nonce, sent: false })
    }

    /// A key was granted. Answers with its lease: the one of an earlier copy, if there is one.
    pub(crate) fn granted(&self, lease: Arc<Lease>) -> Arc<Lease> {
        let mut book = self.book();
        let deleted = match book.entries.get(&lease.nonce) {
            Some(Entry::Held(held)) => return Arc::clone(held),
            Some(Entry::Asking { deleted, .. }) => *deleted,
            _ => 0,
        };
        book.holds.insert(lease.lock_key.clone(), lease.nonce);
        book.entries.insert(lease.nonce, Entry::Held(Arc::clone(&lease)));
        drop(book);
        if deleted > lease.fence {
            // The news was faster than the answer.
            self.lose(&lease, Lost::ForceReleased, true);
        }
        lease
    }

    /// The lease of `nonce`, if it holds something.
    pub(crate) fn lease(&self, nonce: Nonce) -> Option<Arc<Lease>> {
        match self.book().entries.get(&nonce)? {
            Entry::Held(lease) => Some(Arc::clone(lease)),
            _ => None,
        }
    }

    /// Whether an acquisition with this nonce is under way, or has won.
    pub(crate) fn knows(&self, nonce: Nonce) -> bool {
        matches!(self.book().entries.get(&nonce), Some(Entry::Asking { .. } | Entry::Held(_)))
    }

    /// Whether somebody here holds this lock key.
    pub(crate) fn holds(&self, lock_key: &[u8]) -> bool {
        self.book().holds.contains_key(lock_key)
    }

    /// `nonce` is given back: it wins nothing any more.
    pub(crate) fn over(&self, nonce: Nonce) {
        self.book().over(nonce);
    }

    /// `nonce` is revoked, and the store knows it.
    pub(crate) fn revoked(&self, nonce: Nonce) {
        let mut book = self.book();
        book.doubts.remove(&nonce);
        book.over(nonce);
    }

    /// The lease is lost. Says whether that is news.
    pub(crate) fn lose(&self, lease: &Lease, why: Lost, deleted: bool) -> bool {
        let news = lease.lose(why, deleted);
        if news {
            self.book().over(lease.nonce);
        }
        news
    }

    /// A lock key was deleted by `revision`.
    pub(crate) fn deleted(&self, lock_key: &[u8], revision: i64) {
        let mut book = self.book();
        for entry in book.entries.values_mut() {
            if let Entry::Asking { lock_key: asked, deleted, .. } = entry
                && asked == lock_key
            {
                *deleted = revision;
            }
        }
        let held = book.holds.get(lock_key).and_then(|nonce| match book.entries.get(nonce) {
            Some(Entry::Held(lease)) if lease.fence < revision => Some(Arc::clone(lease)),
            _ => None,
        });
        drop(book);
        if let Some(lease) = held {
            self.lose(&lease, Lost::ForceReleased, true);
        }
    }

    /// The leases of a session that are living.
    pub(crate) fn living(&self, session: &Session) -> Vec<Arc<Lease>> {
        let book = self.book();
        let held = book.entries.values().filter_map(|entry| match entry {
            Entry::Held(lease) if lease.session.id == session.id => Some(lease),
            _ => None,
        });
        held.filter(|lease| matches!(lease.state(), State::Living { .. })).cloned().collect()
    }

    /// Whether the put of some nonce may still arrive.
    pub(crate) fn in_doubt(&self) -> bool {
        let mut book = self.book();
        let now = SystemClock.lease_now();
        book.doubts.retain(|_, until| *until > now);
        !book.doubts.is_empty()
    }

    /// How much the book holds: `(entries, doubts)`.
    #[cfg(test)]
    fn size(&self) -> (usize, usize) {
        let book = self.book();
        (book.entries.len(), book.doubts.len())
    }
}

impl Book {
    fn over(&mut self, nonce: Nonce) {
        let until = SystemClock.lease_now() + REFUSED_FOR;
        let before = self.entries.insert(nonce, Entry::Over(until));
        if let Some(Entry::Held(lease)) = before
            && self.holds.get(&lease.lock_key) == Some(&nonce)
        {
            self.holds.remove(&lease.lock_key);
        }
    }

    /// Forgets what was refused for long enough, now and then.
    fn tidy(&mut self) {
        let now = SystemClock.lease_now();
        if now.saturating_since(self.tidied) < REFUSED_FOR / 4 {
            return;
        }
        self.tidied = now;
        self.entries.retain(|_, entry| !matches!(entry, Entry::Over(until) if *until <= now));
    }
}

impl Asking<'_> {
    /// A request is about to leave that may be carried out.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// What became of it is known.
    pub(crate) fn settled(&mut self) {
        self.sent = false;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        if let Some(Entry::Asking { calls, .. }) = book.entries.get_mut(&self.nonce) {
            *calls -= 1;
            if *calls == 0 {
                book.entries.remove(&self.nonce);
            }
        }
        if self.sent {
            let until = SystemClock.lease_now() + DOUBTED_FOR;
            book.doubts.insert(self.nonce, until);
        }
    }
}

/// Whose lock a key is, for a log line.
pub(crate) fn orphan(key: &LockKey, nonce: Nonce) {
    tracing::warn!(%key, ?nonce, "taking back a lock that this process asked for and gave up");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(n: u128) -> Nonce {
        Nonce::from_u128(n)
    }

    #[test]
    fn an_acquisition_without_an_answer_is_in_doubt_until_it_is_revoked() {
        let ledger = Ledger::default();
        let Begun::Asking(mut asking) = ledger.begin(nonce(1), b"k") else { panic!("new") };
        asking.sent();
        assert!(ledger.knows(nonce(1)) && !ledger.in_doubt());
        drop(asking);
        assert!(!ledger.knows(nonce(1)) && ledger.in_doubt());
        ledger.revoked(nonce(1));
        assert!(!ledger.in_doubt());
        assert!(matches!(ledger.begin(nonce(1), b"k"), Begun::Over));
    }

    #[test]
    fn one_that_was_answered_or_never_sent_leaves_nothing() {
        let ledger = Ledger::default();
        drop(ledger.begin(nonce(1), b"k"));
        let Begun::Asking(mut asking) = ledger.begin(nonce(2), b"k") else { panic!("new") };
        asking.sent();
        asking.settled();
        drop(asking);
        assert_eq!(ledger.size(), (0, 0));
    }
}
