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
//! beat, and what turns up under a nonce that nobody may still want is taken back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use solocron::lock::{Lost, Nonce};
use solocron::{Clock, LeaseInstant, SystemClock};

use crate::lease::{Lease, State};
use crate::session::Session;

/// How long a nonce is refused here, and how often the book is tidied.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Nobody revokes for longer than the core does; after that, the connection is long gone.
const DOUBTED_FOR: Duration = Duration::from_secs(700);

/// Whoever got no answer may send the same nonce again, and shall find what it won.
const RESENT_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    asked: HashMap<Nonce, Asked>,
    held: HashMap<Nonce, Arc<Lease>>,
    /// Until when they are refused.
    over: HashMap<Nonce, LeaseInstant>,
    /// Who holds a lock key.
    holds: HashMap<Vec<u8>, Nonce>,
    /// Since when.
    doubts: HashMap<Nonce, LeaseInstant>,
    tidied: LeaseInstant,
}

/// What an acquisition that is under way must know when it is answered.
#[derive(Debug)]
struct Asked {
    lock_key: Vec<u8>,
    calls: u32,
    /// The last revision that deleted the key in between.
    deleted: i64,
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
        if let Some(lease) = book.held.get(&nonce) {
            return Begun::Held(Arc::clone(lease));
        }
        if book.over.contains_key(&nonce) {
            return Begun::Over;
        }
        let asked = book.asked.entry(nonce);
        let new = || Asked { lock_key: lock_key.to_vec(), calls: 0, deleted: 0 };
        asked.or_insert_with(new).calls += 1;
        Begun::Asking(Asking { ledger: self, nonce, sent: false })
    }

    /// A key was granted. Answers with its lease: the one of an earlier copy, if there is one.
    pub(crate) fn granted(&self, lease: Arc<Lease>) -> Arc<Lease> {
        let mut book = self.book();
        if let Some(held) = book.held.get(&lease.nonce) {
            return Arc::clone(held);
        }
        let deleted = book.asked.get(&lease.nonce).map_or(0, |asked| asked.deleted);
        book.holds.insert(lease.lock_key.clone(), lease.nonce);
        book.held.insert(lease.nonce, Arc::clone(&lease));
        drop(book);
        if deleted > lease.fence {
            // The news was faster than the answer.
            self.lose(&lease, Lost::ForceReleased, true);
        }
        lease
    }

    /// The lease of `nonce`, if it holds something.
    pub(crate) fn lease(&self, nonce: Nonce) -> Option<Arc<Lease>> {
        self.book().held.get(&nonce).cloned()
    }

    /// Whether somebody here may still want what this nonce has won.
    pub(crate) fn may_want(&self, nonce: Nonce) -> bool {
        let book = self.book();
        let young =
            |since: &LeaseInstant| SystemClock.lease_now().saturating_since(*since) < RESENT_WITHIN;
        book.asked.contains_key(&nonce)
            || book.held.contains_key(&nonce)
            || book.doubts.get(&nonce).is_some_and(young)
    }

    /// Whether any acquisition is under way.
    pub(crate) fn is_asking(&self) -> bool {
        !self.book().asked.is_empty()
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
        for asked in book.asked.values_mut().filter(|asked| asked.lock_key == lock_key) {
            asked.deleted = revision;
        }
        let held = book.holds.get(lock_key).and_then(|nonce| book.held.get(nonce));
        let held = held.filter(|lease| lease.fence < revision).cloned();
        drop(book);
        if let Some(lease) = held {
            self.lose(&lease, Lost::ForceReleased, true);
        }
    }

    /// The leases of a session that are living.
    pub(crate) fn living(&self, session: &Session) -> Vec<Arc<Lease>> {
        let book = self.book();
        let held = book.held.values().filter(|lease| lease.session.id == session.id);
        held.filter(|lease| matches!(lease.state(), State::Living { .. })).cloned().collect()
    }

    /// Whether the put of some nonce may still arrive.
    pub(crate) fn in_doubt(&self) -> bool {
        let mut book = self.book();
        let now = SystemClock.lease_now();
        book.doubts.retain(|_, since| now.saturating_since(*since) < DOUBTED_FOR);
        !book.doubts.is_empty()
    }

    /// How much the book holds: `(asked, over, doubts)`.
    #[cfg(test)]
    fn size(&self) -> (usize, usize, usize) {
        let book = self.book();
        (book.asked.len(), book.over.len(), book.doubts.len())
    }
}

impl Book {
    fn over(&mut self, nonce: Nonce) {
        self.over.insert(nonce, SystemClock.lease_now() + REFUSED_FOR);
        if let Some(lease) = self.held.remove(&nonce)
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
        self.over.retain(|_, until| *until > now);
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
        if let Some(asked) = book.asked.get_mut(&self.nonce) {
            asked.calls -= 1;
            if asked.calls == 0 {
                book.asked.remove(&self.nonce);
            }
        }
        if self.sent {
            book.doubts.entry(self.nonce).or_insert_with(|| SystemClock.lease_now());
        }
    }
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
        assert!(ledger.is_asking() && !ledger.in_doubt());
        drop(asking);
        assert!(!ledger.is_asking() && ledger.in_doubt());
        assert!(ledger.may_want(nonce(1)), "it may be sent again");
        ledger.revoked(nonce(1));
        assert!(!ledger.in_doubt() && !ledger.may_want(nonce(1)));
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
        assert_eq!(ledger.size(), (0, 0, 0));
    }
}
