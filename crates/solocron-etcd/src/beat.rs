//! The task of one session: its beats, the locks on it that nobody renews, and what turned up on it late.

use std::sync::Arc;
use std::time::Duration;

use solocron::lock::{Lost, MarkAfter};
use solocron::{BackendError, Clock, LeaseInstant, SystemClock};

use crate::backend::KEYS_AT_ONCE;
use crate::home::{Home, Names};
use crate::keys::Tag;
use crate::lease::Lease;
use crate::ledger::{Stray, taking_back};
use crate::session::Session;
use crate::watch;
use crate::wire::{Beat, Fault, Guarded, Outcome, Write};

/// A session without a lock is kept for this long: making one costs a round trip, keeping one a beat now and then.
const IDLE: Duration = Duration::from_secs(600);

/// Keeps the session until it is over, and then takes it away.
pub(crate) async fn keep(home: Arc<Home>, session: Arc<Session>) {
    let why = run(&home, &session).await;
    session.end(why);
    home.forget_session(&session);
    for lease in home.ledger.living(&session) {
        home.ledger.lose(&lease, why, false);
    }
    revoke(&home, &session).await;
}

/// Why it is over.
async fn run(home: &Arc<Home>, session: &Arc<Session>) -> Lost {
    let mut beat = Beat::of(session.id);
    let mut retry_at = None;
    let mut used = SystemClock.lease_now();
    let losses = home.wire.memory().1;
    loop {
        let now = SystemClock.lease_now();
        if let Some(why) = session.over() {
            return why;
        }
        if now >= session.deadline() || home.wire.memory().1 != losses {
            return Lost::Expired;
        }
        let living = home.ledger.living(session);
        if !living.is_empty() {
            used = now;
        } else if now.saturating_since(used) >= IDLE.max(session.lives) {
            return Lost::Expired;
        }
        let ends = give_up_unrenewed(home, living, now);
        let due = retry_at.unwrap_or(session.confirmed() + session.lives / 3);
        if now >= due || session.is_wanted() {
            let sent = SystemClock.lease_now();
            match home.wire.beat(&mut beat).await {
                Ok(true) => {
                    session.beat_answered(sent);
                    retry_at = None;
                    // A beat says nothing of the keys, and the watch nothing of what it missed.
                    let unseen = session.is_to_be_looked_at() || watch::unbroken(home).is_none();
                    if home.ledger.in_doubt() || unseen {
                        home.keeper.spawn(audit(Arc::clone(home), Arc::clone(session)));
                    }
                }
                Ok(false) => return Lost::TakenOver,
                Err(fault) => {
                    tracing::debug!(error = %fault.error, "no answer to a beat; trying again until the session is over");
                    session.beat_failed(fault.error);
                    retry_at = Some(SystemClock.lease_now() + session.lives / 20);
                }
            }
            continue;
        }
        tokio::select! {
            () = home.closed.cancelled() => return Lost::Expired,
            () = session.wake.notified() => {}
            () = SystemClock.sleep_until(due.min(session.deadline()).min(ends)) => {}
        }
    }
}

/// Gives up the locks that nobody renewed in time. Answers when the next one is to be.
fn give_up_unrenewed(home: &Arc<Home>, living: Vec<Arc<Lease>>, now: LeaseInstant) -> LeaseInstant {
    let mut next = LeaseInstant::NEVER;
    for lease in living {
        let Some(until) = lease.until() else { continue };
        if until > now {
            next = next.min(until);
        } else if home.ledger.lose(&lease, Lost::Expired, false) {
            home.keeper.spawn(give_up(Arc::clone(home), lease));
        }
    }
    next
}

/// Deletes the key of a lock that is over. Its tick stays as it is, as if the process had died.
async fn give_up(home: Arc<Home>, lease: Arc<Lease>) {
    let names = home.names(&lease.key);
    while lease.session.over().is_none() && !home.closed.is_cancelled() {
        match delete(&home, &names, lease.fence).await {
            Ok(_) => return, // it is gone, or it was
            Err(_) => SystemClock.sleep(lease.session.lives / 20).await,
        }
    }
}

/// Looks at what the server keeps alive for this session: what we hold must be there, and nothing else. The next beat tries again
/// what failed.
pub(crate) async fn audit(home: Arc<Home>, session: Arc<Session>) {
    let held = home.ledger.living(&session);
    let audited = match home.wire.look_at_lease(session.id, true).await {
        Ok(Some(state)) => compare(&home, &session, &held, &state.keys).await,
        Ok(None) => return session.end(Lost::TakenOver),
        Err(fault) => Err(fault.into()),
    };
    if let Err(error) = audited {
        tracing::debug!(%error, "could not look at the locks of this process");
        session.look_again();
    }
}

/// `kept` is what a member said without asking the others: news, but no proof.
pub(crate) async fn compare(
    home: &Home,
    session: &Session,
    held: &[Arc<Lease>],
    kept: &[Vec<u8>],
) -> Result<(), BackendError> {
    let missing: Vec<_> = held.iter().filter(|lease| !kept.contains(&lease.lock_key)).collect();
    for missing in missing.chunks(KEYS_AT_ONCE) {
        let names = missing.iter().map(|lease| home.names(&lease.key));
        let keys: Vec<_> = names.map(|names| (names.lock, names.state)).collect();
        for (lease, both) in missing.iter().zip(home.wire.read(&keys).await?) {
            if both.lock.is_none_or(|lock| lock.created != lease.fence) {
                home.ledger.lose(lease, Lost::ForceReleased, true);
            }
        }
    }
    let mut audited = Ok(());
    for lock_key in kept {
        if lock_key.starts_with(home.keys.locks()) && !home.ledger.holds(lock_key) {
            // One that cannot be taken back is no reason to leave the others.
            audited = take_back(home, session, lock_key).await.and(audited);
        }
    }
    audited
}

/// Takes back a lock of this session whose nonce this process neither holds nor asks for; its tick, too, if it was never granted.
async fn take_back(home: &Home, session: &Session, lock_key: &[u8]) -> Result<(), BackendError> {
    for kept in home.wire.list(lock_key).await? {
        // Since this session was looked at, the lock may have become somebody else's.
        let Some(Tag { key, nonce, .. }) = Tag::from_bytes(&kept.value).ok() else { continue };
        let names = home.names(&key);
        if kept.lease != session.id || names.lock != lock_key {
            continue;
        }
        let stray = home.ledger.disown(nonce);
        taking_back(&key, nonce, stray);
        match stray {
            Stray::Ours => {}
            Stray::Unanswered => drop(home.revoke(&key, nonce, MarkAfter::Undo).await?),
            Stray::Over => {
                if let Outcome::Done(revision) = delete(home, &names, kept.created).await? {
                    home.memory.freed(&names.lock, revision);
                }
            }
        }
    }
    Ok(())
}

/// Deletes a lock key, if it is still the one that was put by `fence`. The record stays as it is.
async fn delete(home: &Home, names: &Names, fence: i64) -> Result<Outcome, Fault> {
    let guarded =
        Guarded { lock: &names.lock, state: &names.state, lock_is: Some(fence), state_is: None };
    home.wire.commit(&guarded, &[Write::DeleteLock]).await
}

/// Takes the lease away at the server, which may have given it more time than it had here.
async fn revoke(home: &Arc<Home>, session: &Session) {
    /// An election gives every lease its whole time again.
    const LIVES: u32 = 4;
    let until = SystemClock.lease_now() + session.lives * LIVES;
    let mut pause = Duration::from_millis(100);
    while home.wire.revoke_lease(session.id).await.is_err() {
        if SystemClock.lease_now() >= until || home.closed.is_cancelled() {
            return;
        }
        SystemClock.sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
