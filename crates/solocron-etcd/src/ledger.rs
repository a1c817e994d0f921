//! What this process has asked for, holds, and has given back: by nonce.
//!
//! ```text
//!   begin(nonce) ──► Asking ── granted ──► Held ── over ──► Over: refused from now on, for a minute and as long as it is in doubt
//!        │             └ answered otherwise ──► forgotten
//!        │             └ no answer, or dropped ──► forgotten, and in doubt until its revocation is acknowledged
//!        └ Held: the same lease again     └ Over: refused
//! ```
//!
//! While a nonce is in doubt its put may still arrive, and would ride on the living session: the session is then audited with each
//! beat, and what turns up under a nonce that is neither held nor asked for is taken back ([`Stray`]). Its tick goes back with it only
//! where nothing was ever granted under that nonce, so that no run can have begun: the key of a lock that was held and is lost also
//! stays for a while, until its deletion gets through.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use solocron::lock::{LockKey, Lost, Nonce};
use solocron::{BackendError, Clock, LeaseInstant, SystemClock};

use crate::lease::{Lease, State};
use crate::session::Session;
use crate::wire::without_effect;

/// How long a nonce is refused here, and how often the book is tidied.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Nobody revokes for longer than the core does; after that, the connection is long gone.
pub(crate) const DOUBTED_FOR: Duration = Duration::from_secs(700);

#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    asked: HashMap<Nonce, Asked>,
    held: HashMap<Nonce, Arc<Lease>>,
    over: HashMap<Nonce, Over>,
    /// Who holds a lock key.
    holds: HashMap<Vec<u8>, Nonce>,
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

/// A nonce that is refused.
#[derive(Debug, Clone, Copy)]
struct Over {
    until: LeaseInstant,
    /// Whether it was held here once: somebody may have run under it.
    granted: bool,
}

/// Whose a lock key is that this process's session keeps alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stray {
    /// An acquisition with its nonce is under way, or has won.
    Ours,
    /// An acquisition that got no answer put it: no run began.
    Unanswered,
    /// It was held once, or nothing is known of it any more: a run may have begun, and ended.
    Over,
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

    /// Says whose the key of `nonce` is, and refuses the nonce from now on, unless the key is ours.
    ///
    /// Whoever takes back what turned up under a nonce asks this first: an acquisition that is sent again meanwhile would find the
    /// grant that is about to go.
    pub(crate) fn disown(&self, nonce: Nonce) -> Stray {
        let mut book = self.book();
        if book.asked.contains_key(&nonce) || book.held.contains_key(&nonce) {
            return Stray::Ours;
        }
        let granted = book.over.get(&nonce).is_some_and(|over| over.granted);
        book.over(nonce);
        if !granted && book.doubts.contains_key(&nonce) { Stray::Unanswered } else { Stray::Over }
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
        book.doubts.retain(|_, until| *until > now);
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
        let held = self.held.remove(&nonce);
        let granted = held.is_some() || self.over.get(&nonce).is_some_and(|over| over.granted);
        self.over.insert(nonce, Over { until: SystemClock.lease_now() + REFUSED_FOR, granted });
        if let Some(lease) = held
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
        self.forget(now);
    }

    /// A nonce of which a request may still be on its way is refused for as long as it may be.
    fn forget(&mut self, now: LeaseInstant) {
        self.doubts.retain(|_, until| *until > now);
        let Self { over, doubts, asked, .. } = self;
        over.retain(|nonce, over| {
            over.until > now || doubts.contains_key(nonce) || asked.contains_key(nonce)
        });
    }
}

impl Asking<'_> {
    /// A request is about to leave that may be carried out.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// A failure before anything of this acquisition could be carried out: also where a read got no answer. Where a copy of it may be on
    /// its way, it is left as it is.
    pub(crate) fn unsent(&self, error: BackendError) -> BackendError {
        if self.sent || self.ledger.book().doubts.contains_key(&self.nonce) {
            return error;
        }
        without_effect(error)
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
            let until = SystemClock.lease_now() + DOUBTED_FOR;
            book.doubts.insert(self.nonce, until);
        }
    }
}

/// For the log: a lock that is taken back.
pub(crate) fn taking_back(key: &LockKey, nonce: Nonce, stray: Stray) {
    match stray {
        Stray::Ours => {}
        Stray::Unanswered => {
            tracing::warn!(%key, ?nonce, "taking back a lock that this process asked for and gave up");
        }
        Stray::Over => tracing::debug!(%key, ?nonce, "freeing a lock that this process has lost"),
    }
}

#[cfg(test)]
mod tests {
    use solocron::{Effect, Kind};

    use super::*;

    fn nonce(n: u128) -> Nonce {
        Nonce::from_u128(n)
    }

    #[test]
    fn an_acquisition_without_an_answer_is_in_doubt_until_it_is_revoked() {
        let ledger = Ledger::default();
        let Begun::Asking(mut asking) = ledger.begin(nonce(1), b"k") else { panic!("new") };
        asking.sent();
        assert!(!ledger.in_doubt());
        drop(asking);
        assert!(ledger.in_doubt());
        ledger.revoked(nonce(1));
        assert!(!ledger.in_doubt());
        assert!(matches!(ledger.begin(nonce(1), b"k"), Begun::Over));
    }

    #[test]
    fn what_is_about_to_be_taken_back_cannot_be_found_again() {
        let ledger = Ledger::default();
        let Begun::Asking(mut asking) = ledger.begin(nonce(1), b"k") else { panic!("new") };
        asking.sent();
        assert_eq!(ledger.disown(nonce(1)), Stray::Ours, "its answer may be on its way");
        drop(asking);
        assert_eq!(ledger.disown(nonce(1)), Stray::Unanswered, "it may be taken back");
        assert!(matches!(ledger.begin(nonce(1), b"k"), Begun::Over), "and does not come again");
    }

    /// A grant on a session that lives for a minute.
    fn lease(n: u128) -> Arc<Lease> {
        let now = SystemClock.lease_now();
        let ttl = Duration::from_secs(60);
        let session = Arc::new(Session::new(7, ttl, ttl, now));
        let key = LockKey::new("k").expect("a name");
        Lease::new(key, b"k".to_vec(), nonce(n), 42, true, ttl, now + ttl, session)
    }

    #[test]
    fn what_was_granted_once_is_never_undone_however_it_ended() {
        let ends: [fn(&Ledger, &Lease); 3] = [
            |ledger, lease| assert!(ledger.lose(lease, Lost::Expired, false)),
            |ledger, lease| assert!(ledger.lose(lease, Lost::ForceReleased, true)),
            |ledger, lease| ledger.over(lease.nonce),
        ];
        for end in ends {
            let ledger = Ledger::default();
            let Begun::Asking(mut first) = ledger.begin(nonce(1), b"k") else { panic!("new") };
            first.sent();
            drop(first);
            let Begun::Asking(mut again) = ledger.begin(nonce(1), b"k") else { panic!("again") };
            again.sent();
            let held = ledger.granted(lease(1));
            again.settled();
            drop(again);
            assert!(ledger.in_doubt(), "the first copy may still arrive");
            assert_eq!(ledger.disown(nonce(1)), Stray::Ours);
            end(&ledger, &held);
            assert_eq!(ledger.disown(nonce(1)), Stray::Over);
            let later = SystemClock.lease_now() + Duration::from_secs(600);
            ledger.book().forget(later);
            assert_eq!(
                ledger.disown(nonce(1)),
                Stray::Over,
                "it is not forgotten before the doubt"
            );
        }
    }

    #[test]
    fn what_is_not_in_doubt_is_never_undone() {
        let ledger = Ledger::default();
        assert_eq!(ledger.disown(nonce(1)), Stray::Over);
        let Begun::Asking(mut asking) = ledger.begin(nonce(2), b"k") else { panic!("new") };
        asking.sent();
        drop(asking);
        ledger.revoked(nonce(2));
        assert_eq!(ledger.disown(nonce(2)), Stray::Over);
    }

    #[test]
    fn a_failure_before_the_first_request_has_no_effect() {
        let timeout = || BackendError::timeout(Duration::from_secs(1));
        let ledger = Ledger::default();
        let Begun::Asking(mut asking) = ledger.begin(nonce(1), b"k") else { panic!("new") };
        let error = asking.unsent(timeout());
        assert_eq!((error.kind(), error.effect()), (Kind::Timeout, Effect::None));
        asking.sent();
        assert_eq!(asking.unsent(timeout()).effect(), Effect::Unknown);
        drop(asking);
        let Begun::Asking(again) = ledger.begin(nonce(1), b"k") else { panic!("again") };
        assert_eq!(again.unsent(timeout()).effect(), Effect::Unknown, "the first may arrive");
    }

    #[test]
    fn a_nonce_is_refused_for_as_long_as_a_copy_of_it_may_be_on_its_way() {
        let ledger = Ledger::default();
        let Begun::Asking(mut first) = ledger.begin(nonce(1), b"k") else { panic!("new") };
        first.sent();
        let Begun::Asking(second) = ledger.begin(nonce(1), b"k") else { panic!("another copy") };
        drop(first);
        drop(second);
        assert_eq!(ledger.disown(nonce(1)), Stray::Unanswered);
        ledger.over(nonce(2));
        let now = SystemClock.lease_now();
        let later = |seconds| now + Duration::from_secs(seconds);
        ledger.book().forget(later(61));
        assert!(matches!(ledger.begin(nonce(1), b"k"), Begun::Over), "it is still in doubt");
        assert!(matches!(ledger.begin(nonce(2), b"k"), Begun::Asking(_)), "nothing is on its way");
        ledger.book().forget(later(701));
        assert_eq!(ledger.size(), (0, 0, 0));
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
