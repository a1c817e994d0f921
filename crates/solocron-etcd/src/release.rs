//! Giving back and renewing.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use solocron::jiff::Timestamp;
use solocron::lock::{Lost, MarkAfter, Released, Renewal, Validity};
use solocron::{BackendError, Clock, LeaseInstant, SystemClock};

use crate::change::deleted_if_of;
use crate::home::Home;
use crate::lease::{EtcdLease, Lease, State};
use crate::seen::Seen;
use crate::session::Session;
use crate::wire::{Guarded, Outcome, Write};

impl Home {
    pub(crate) async fn release(
        &self,
        lease: &Arc<Lease>,
        after: MarkAfter,
    ) -> Result<Released, BackendError> {
        let answer = match lease.state() {
            State::GivenBack(answer) => return Ok(answer),
            State::Living { .. } if !lease.claimed => self.release_plain(lease).await?,
            State::Living { .. } => {
                lease.going();
                self.settle(lease, after).await?
            }
            State::Lost(_) => self.settle(lease, after).await?,
        };
        let answer = lease.given_back(answer);
        self.ledger.over(lease.nonce);
        Ok(answer)
    }

    /// A plain lock touches no record: its key is deleted, if it is still the one that was won.
    async fn release_plain(&self, lease: &Arc<Lease>) -> Result<Released, BackendError> {
        let names = self.names(&lease.key);
        let asked_before = lease.going();
        let guarded = Guarded {
            lock: &names.lock,
            state: &names.state,
            lock_is: Some(lease.fence),
            state_is: None,
        };
        Ok(match self.wire.commit(&guarded, &[Write::DeleteLock]).await? {
            Outcome::Done(revision) => {
                self.memory.freed(&names.lock, revision);
                Released::Done
            }
            Outcome::Otherwise(both) => {
                let seen = self.see(&names, Seen::of(&lease.key, both)?)?;
                if asked_before
                    && lease.until().is_some_and(|until| SystemClock.lease_now() < until)
                {
                    // The answer to the first release was lost.
                    Released::Done
                } else {
                    Released::NotOwner { mark: seen.record.last().map(|last| last.mark) }
                }
            }
        })
    }

    /// Settles the tick, and deletes the key if it is still there.
    async fn settle(&self, lease: &Arc<Lease>, after: MarkAfter) -> Result<Released, BackendError> {
        let names = self.names(&lease.key);
        let known = self.remembered(&names);
        self.change(&lease.key, &names, known, |record, lock| {
            let released = record.release(lease.nonce, after, Timestamp::now());
            Ok((released, deleted_if_of(lock, lease.nonce)))
        })
        .await
    }

    /// One beat for each session, for all of its locks.
    pub(crate) async fn renew(
        &self,
        leases: &[&EtcdLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let mut sessions: HashMap<i64, &Arc<Session>> = HashMap::new();
        for EtcdLease(lease) in leases {
            sessions.insert(lease.session.id, &lease.session);
        }
        let beats = sessions.into_iter().map(|(id, session)| async move {
            // A beat of a moment ago will do. It also brings leases that were won at different times into one step.
            (id, session.alive_since(sent.minus(session.ttl / 6)).await)
        });
        let beats: HashMap<_, _> = join_all(beats).await.into_iter().collect();
        let renewal = |lease: &Arc<Lease>| {
            let confirmed = match &beats[&lease.session.id] {
                Ok(confirmed) => *confirmed,
                Err(error) => match (lease.state(), lease.session.over()) {
                    (State::Lost(why), _) | (_, Some(why)) => return Ok(Renewal::NotOwner(why)),
                    _ => return Err(error.clone()),
                },
            };
            let since = confirmed.min(sent);
            if lease.extend(since + lease.ttl, SystemClock.lease_now()) {
                return Ok(Renewal::Extended(Validity::Until { since, ttl: lease.ttl }));
            }
            Ok(Renewal::NotOwner(match lease.state() {
                State::Lost(why) => why,
                State::Living { .. } => Lost::Expired,
                State::GivenBack(_) => Lost::TakenOver,
            }))
        };
        leases.iter().map(|EtcdLease(lease)| renewal(lease)).collect()
    }
}
