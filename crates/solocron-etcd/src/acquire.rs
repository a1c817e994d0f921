//! One acquisition: mostly one transaction.
//!
//! ```text
//!   what was seen last, or "never used" ──► judge ── Grant ──► IF   the lock key is absent AND the record is as it was judged
//!                                             │                THEN put the lock key on the session; a claim: put the record
//!                                             │                ELSE get both ──► judge again, exactly
//!                                             └ anything else: not news ──► get both ──► judge again, exactly
//! ```
//!
//! The mark is in the record, and so is every refused nonce: a transaction that was judged before either changed is not carried out,
//! however late it arrives.

use std::sync::Arc;
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, Fence, Grant, Granted, Holder, KeyRecord, Lost, Reply, Request, Validity, Verdict,
};
use solocron::{BackendError, Effect, Kind};

use crate::change::contended;
use crate::home::{Home, Names};
use crate::keys::Tag;
use crate::lease::{EtcdLease, Lease};
use crate::ledger::{Asking, Begun};
use crate::seen::{Lock, Seen};
use crate::session::Session;
use crate::watch;
use crate::wire::{Guarded, Outcome, Write};

/// How often a transaction is tried that meets another one. Whoever fails has seen what the other did.
const TRIES: u32 = 32;

impl Home {
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        request: &Request,
    ) -> Result<Reply<EtcdLease>, BackendError> {
        let names = self.names(&request.key);
        let mut asking = match self.ledger.begin(request.nonce, &names.lock) {
            Begun::Asking(asking) => asking,
            Begun::Held(lease) => return self.again(request, &names, &lease).await,
            Begun::Over => return Err(given_back()),
        };
        let (mut seen, mut fresh) = match self.remembered(&names) {
            Some(seen) => (seen, false),
            // Most locks that are taken for the first time were never used; a claim was enrolled somewhere.
            None if request.claim.is_none() => (Arc::new(Seen::nothing(&request.key)), false),
            None => {
                (self.read(&request.key, &names).await.map_err(|error| asking.unsent(error))?, true)
            }
        };
        for _ in 0..TRIES {
            let verdict = judge(&seen.record, request);
            match verdict {
                Verdict::Grant => {}
                _ if !fresh => {
                    let read = self.read(&request.key, &names).await;
                    (seen, fresh) = (read.map_err(|error| asking.unsent(error))?, true);
                    continue;
                }
                Verdict::Again(granted) => return self.found(request, &seen, &granted).await,
                verdict => return answer(verdict, &seen),
            }
            match self.take(request, &names, &seen, &mut asking).await? {
                Taken::Won(grant) => return Ok(Reply::Won(grant)),
                Taken::NotSo(now) => (seen, fresh) = (now, true),
                Taken::NoSession => {}
            }
        }
        Err(contended(&request.key))
    }

    /// Takes the key, if it is as it was seen.
    async fn take(
        self: &Arc<Self>,
        request: &Request,
        names: &Names,
        seen: &Seen,
        asking: &mut Asking<'_>,
    ) -> Result<Taken, BackendError> {
        let ttl = whole_seconds(request.ttl);
        let session = self.session(ttl).await.map_err(|error| asking.unsent(error))?;
        let now = Timestamp::now();
        let mut record = seen.record.clone();
        let granted = record.grant(request, now, Some(ttl));
        let tag = Tag {
            key: request.key.clone(),
            nonce: request.nonce,
            node: request.node.clone(),
            since: now,
            tick: request.claim.map(|claim| claim.tick),
            attempt: granted.attempt,
            ttl,
        };
        let mut writes = vec![Write::PutLock { value: tag.to_bytes(), lease: session.id }];
        if request.claim.is_some() {
            writes.push(Write::PutState { value: record.to_bytes(), lease: 0 });
        }
        let guarded = Guarded {
            lock: &names.lock,
            state: &names.state,
            lock_is: Some(0),
            state_is: Some(seen.state),
        };
        asking.sent();
        let watched = watch::unbroken(self);
        // The lease must live for the whole ttl from the first send on; that is found out beside the transaction.
        let (taken, alive) =
            tokio::join!(self.wire.commit(&guarded, &writes), good_for(&session, request, ttl));
        let revision = match taken {
            Ok(Outcome::Done(revision)) => revision,
            Ok(Outcome::Otherwise(both)) => {
                asking.settled();
                return Ok(Taken::NotSo(self.see(names, Seen::of(&request.key, both)?)?));
            }
            Err(fault) => {
                if fault.no_lease {
                    session.end(Lost::TakenOver);
                    asking.settled();
                    return Ok(Taken::NoSession);
                }
                if fault.error.effect() == Effect::None {
                    asking.settled();
                }
                return Err(fault.error);
            }
        };
        // Won, but for how long nobody knows: the core sends it again, or takes it back.
        alive.map_err(BackendError::effect_unknown)?;
        asking.settled();
        let claimed = request.claim.is_some();
        let lock = Lock { created: revision, lease: session.id, tag };
        let state = if claimed { revision } else { seen.state };
        if !claimed {
            record = seen.record.clone();
        }
        let seen = self.see(names, Seen::after(record, revision, state, Some(lock.clone())))?;
        let lease = self.hold(request, names, &lock, session);
        if watched.is_none() || watched != watch::unbroken(self) {
            // Nobody was told if it was deleted in between.
            watch::audit_when_watched(self, &lease.session);
        }
        Ok(Taken::Won(grant(lease, request, &seen, &granted)))
    }

    /// The key has this nonce, and its answer was lost: the same grant.
    async fn found(
        &self,
        request: &Request,
        seen: &Seen,
        granted: &Granted,
    ) -> Result<Reply<EtcdLease>, BackendError> {
        let lock = seen.lock.as_ref().ok_or_else(given_back)?;
        // On a session that was given up here it is as good as over, and will be gone soon.
        let session = self.session_of(lock.lease).ok_or_else(given_back)?;
        good_for(&session, request, whole_seconds(request.ttl))
            .await
            .map_err(BackendError::effect_unknown)?;
        let lease = self.hold(request, &self.names(&request.key), lock, session);
        Ok(Reply::Won(grant(lease, request, seen, granted)))
    }

    /// This process holds the key with this nonce: the same grant, if it still stands.
    async fn again(
        &self,
        request: &Request,
        names: &Names,
        lease: &Arc<Lease>,
    ) -> Result<Reply<EtcdLease>, BackendError> {
        let seen = self.read(&request.key, names).await?;
        match judge(&seen.record, request) {
            Verdict::Again(granted) if lease.until().is_some() => {
                Ok(Reply::Won(grant(Arc::clone(lease), request, &seen, &granted)))
            }
            _ => Err(given_back()),
        }
    }

    fn hold(
        &self,
        request: &Request,
        names: &Names,
        lock: &Lock,
        session: Arc<Session>,
    ) -> Arc<Lease> {
        let ttl = whole_seconds(request.ttl);
        let lease = Lease::new(
            request.key.clone(),
            names.lock.clone(),
            request.nonce,
            lock.created,
            lock.tag.tick.is_some(),
            ttl,
            request.first_sent + ttl,
            session,
        );
        let lease = self.ledger.granted(lease);
        if lease.session.over().is_some() {
            self.ledger.lose(&lease, Lost::Expired, false);
        }
        lease
    }
}

/// What came of a transaction.
enum Taken {
    Won(Grant<EtcdLease>),
    /// The keys are not as they were seen, but so.
    NotSo(Arc<Seen>),
    /// The session is over; nothing was carried out.
    NoSession,
}

/// Whether the session lives for the whole ttl of a grant.
async fn good_for(session: &Session, request: &Request, ttl: Duration) -> Result<(), BackendError> {
    let since = (request.first_sent + ttl).minus(session.lives);
    session.alive_since(since).await.map(drop)
}

/// etcd has no clock, so no tick is too early for it: nodes go by their own, and a mark from the future is reported by the core.
fn judge(record: &KeyRecord, request: &Request) -> Verdict {
    let now = Timestamp::now();
    match (record.judge(request, now, true), request.claim) {
        (Verdict::Early, Some(Claim { tick, .. })) => record.judge(request, tick.timestamp(), true),
        (verdict, _) => verdict,
    }
}

fn grant(lease: Arc<Lease>, request: &Request, seen: &Seen, granted: &Granted) -> Grant<EtcdLease> {
    // Revisions are positive.
    let fence = Fence::new(u64::try_from(lease.fence).unwrap_or_default());
    let validity = Validity::Until { since: request.first_sent, ttl: lease.ttl };
    let mut grant = Grant::new(EtcdLease(lease), fence, validity);
    grant.previous = granted.previous.clone();
    grant.attempt = granted.attempt;
    grant.schedule = seen.record.schedule();
    grant.note = seen.record.note().clone();
    grant
}

fn answer(verdict: Verdict, seen: &Seen) -> Result<Reply<EtcdLease>, BackendError> {
    // How much longer it lives, only etcd knows: at most for what its holder asked for.
    let told = |mut holder: Holder| {
        let ttl = seen.lock.as_ref().map(|lock| lock.tag.ttl);
        holder.remaining = ttl.filter(|_| holder.living);
        Box::new(holder)
    };
    Ok(match verdict {
        Verdict::NotEnrolled => {
            let why = "the key takes no claims: enroll the job first";
            return Err(BackendError::new(Kind::NotEnrolled, why));
        }
        Verdict::Stale { mark, done, owner } => Reply::Stale { mark, done, owner: owner.map(told) },
        Verdict::Busy(holder) => Reply::Busy { holder: Some(told(holder)) },
        Verdict::Behind { mark, unfinished } => Reply::Behind { mark, unfinished },
        // Grants are dealt with, and nothing is early here.
        _ => return Err(given_back()),
    })
}

fn given_back() -> BackendError {
    BackendError::new(Kind::Refused, "this acquisition was given back, or its lease is over")
}

/// etcd counts the life of leases in seconds; what is granted is never less than what was asked for.
pub(crate) fn whole_seconds(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0))
}
