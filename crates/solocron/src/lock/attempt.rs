//! One batch of acquisitions, from the first send to a known outcome.
//!
//! ```text
//!   send(nonce) ──► Won in time ─────────────────────────────► guard
//!        │    └───► Won too late ── revoke ──────────────────► error (too late)
//!        │    └───► Stale, Busy, Behind, Early ──────────────► outcome (and revoke, if it was sent more than once)
//!        │    └───► error, certainly without effect ─────────► error
//!        └────────► no answer, or effect unknown
//!                     │  the same nonce again, alone, while it may help
//!                     └─ then revoke, until acknowledged (the reaper) ──► error
//!   future dropped anywhere above ── revoke what has no outcome yet (the reaper)
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::backend::{Claim, Grant, MarkAfter, Reply, Request};
use super::driver::AnyLease;
use super::guard::{LockGuard, Told};
use super::held::Won;
use super::keep::{Chore, Keep};
use super::options::Timing;
use super::rule::Rule;
use super::validity::Term;
use super::{LockKey, NodeId, Nonce};
use crate::clock::{LeaseInstant, all, within};
use crate::error::{BackendError, Effect, Kind};

/// A known outcome.
pub(crate) enum Outcome {
    Won(LockGuard, Told),
    Lost {
        reply: Reply<AnyLease>,
        /// It was sent more than once and is being revoked: its nonce is not to be sent again.
        revoked: bool,
    },
}

/// The place of an acquisition among those that were wanted, and what became of it.
pub(crate) type Known = (usize, Result<Outcome, BackendError>);

/// Acquisitions that were sent and have no outcome yet. Dropping them revokes them.
struct Unanswered<'a> {
    keep: &'a Arc<Keep>,
    timing: Timing,
    requests: Vec<Request>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        for Request { key, nonce, .. } in self.requests.drain(..) {
            self.keep.leave(Chore::Revoke { key, nonce, timing: self.timing });
        }
    }
}

/// The same nonce is sent this often before it is given up.
const SENDS: u32 = 3;

/// Attempts each of `wanted` once, as the acquisition with the nonce at the same place: a fresh one, or one that was answered with Busy
/// every time before and was granted nothing that anybody knows of. All in one call where the store can. `answer` gets outcomes as soon as they are known, most of
/// them together: one that is stuck holds up no other.
pub(crate) async fn attempt(
    keep: &Arc<Keep>,
    node: &NodeId,
    timing: Timing,
    longest_ttl: Duration,
    wanted: Vec<(LockKey, Option<Claim>)>,
    nonces: impl IntoIterator<Item = Nonce>,
    mut answer: impl FnMut(Vec<Known>),
) {
    let limit = timing.request_timeout;
    // Whoever is forked while this waits owns nothing of what comes back.
    let pid = std::process::id();
    if keep.revokes_any(pid) {
        for (key, _) in &wanted {
            // What is still being revoked must be gone before a fresh nonce is sent; for no longer than a request may take.
            within(&*keep.clock, limit, keep.revoked(key)).await;
        }
    }
    let sender = Sender { keep, timing, pid };
    let first_sent = keep.clock.lease_now();
    let requests = wanted.into_iter().zip(nonces).map(|((key, claim), nonce)| {
        let mut request = Request::new(key, nonce, node.clone(), timing.ttl, first_sent);
        request.longest_ttl = longest_ttl;
        request.claim = claim;
        request
    });
    let mut sent = Unanswered { keep, timing, requests: requests.collect() };
    let replies = within(&*keep.clock, limit, keep.driver.try_acquire(&sent.requests)).await;
    let mut replies = replies.unwrap_or_default().into_iter();
    let now = keep.clock.lease_now();
    let (mut known, mut unknown) = (Vec::with_capacity(sent.requests.len()), Vec::new());
    for (at, request) in std::mem::take(&mut sent.requests).into_iter().enumerate() {
        let reply = replies.next().unwrap_or_else(|| Err(BackendError::timeout(limit)));
        match sender.settle(&request, reply, now, false) {
            Some(outcome) => known.push((at, outcome)),
            None => unknown.push((at, Unanswered { keep, timing, requests: vec![request] })),
        }
    }
    if !known.is_empty() {
        answer(sender.keep(known));
    }
    if unknown.is_empty() {
        return;
    }
    let insisting =
        unknown.into_iter().map(|(at, sent)| async move { (at, sender.insist(sent).await) });
    all(insisting, |known| answer(sender.keep(vec![known]))).await;
}

/// Whose requests they are.
#[derive(Clone, Copy)]
struct Sender<'a> {
    keep: &'a Arc<Keep>,
    timing: Timing,
    pid: u32,
}

impl Sender<'_> {
    /// Has what was won kept from here on.
    fn keep(&self, known: Vec<Known>) -> Vec<Known> {
        let won = known.iter().filter_map(|(_, outcome)| match outcome {
            Ok(Outcome::Won(guard, _)) => Some(&guard.held),
            _ => None,
        });
        self.keep.keep(won, self.pid);
        known
    }

    /// Sends one request of unknown outcome again, with the same nonce, while it may help.
    async fn insist(self, mut sent: Unanswered<'_>) -> Result<Outcome, BackendError> {
        let Self { keep, timing, .. } = self;
        let limit = timing.request_timeout;
        let patience = sent.requests[0].first_sent + timing.ttl.min(limit * SENDS);
        for _ in 1..SENDS {
            keep.clock.sleep(limit / 10).await;
            if keep.clock.lease_now() >= patience {
                break;
            }
            if !Rule::SameNonce.holds() {
                sent.requests[0].nonce = Nonce::random();
            }
            let replies =
                within(&*keep.clock, limit, keep.driver.try_acquire(&sent.requests)).await;
            let reply = replies.and_then(|mut replies| replies.pop());
            let reply = reply.unwrap_or_else(|| Err(BackendError::timeout(limit)));
            let now = keep.clock.lease_now();
            if let Some(outcome) = self.settle(&sent.requests[0], reply, now, true) {
                sent.requests.clear();
                return outcome;
            }
        }
        if !Rule::SameNonce.holds() {
            sent.requests.clear();
        }
        Err(BackendError::timeout(limit)) // and revoked, by dropping it
    }

    /// What a reply means. `None`: nothing is known.
    fn settle(
        &self,
        request: &Request,
        reply: Result<Reply<AnyLease>, BackendError>,
        now: LeaseInstant,
        resent: bool,
    ) -> Option<Result<Outcome, BackendError>> {
        let outcome = match reply {
            Ok(Reply::Won(grant)) => return Some(self.won(request, grant, now, resent)),
            // Perhaps the grant of an earlier copy, whose lease is over already: mine, and never run.
            Ok(Reply::Stale { mark, done: false, owner })
                if resent
                    && request.claim.is_some_and(|claim| claim.tick == mark)
                    && owner.as_ref().is_none_or(|owner| !owner.living) =>
            {
                Err(BackendError::timeout(self.timing.request_timeout))
            }
            Ok(reply) => Ok(Outcome::Lost { reply, revoked: resent && Rule::SameNonce.holds() }),
            Err(error) if error.effect() == Effect::Unknown => return None,
            Err(error) => Err(error),
        };
        // An earlier copy may still be on its way, and must not win what nobody waits for any more. Also where this one was refused:
        // its grant may be over, and its mark must go back.
        if resent && Rule::SameNonce.holds() {
            let (key, nonce) = (request.key.clone(), request.nonce);
            self.keep.leave(Chore::Revoke { key, nonce, timing: self.timing });
        }
        Some(outcome)
    }

    /// A grant, unless it came too late to be of use.
    fn won(
        &self,
        request: &Request,
        grant: Grant<AnyLease>,
        now: LeaseInstant,
        resent: bool,
    ) -> Result<Outcome, BackendError> {
        let Self { keep, timing, pid } = *self;
        let (key, nonce, first_sent) = (request.key.clone(), request.nonce, request.first_sent);
        let Grant { lease, fence, previous, attempt, mut validity, store_now, schedule, note } =
            grant;
        if let (super::Validity::Until { since, .. }, false) =
            (&mut validity, Rule::DeadlineFromSend.holds())
        {
            *since = now;
        }
        let term = Term::of(validity, &timing, now);
        let held = keep.held(Won { key, nonce, fence, lease, timing, term, resent, pid });
        if now >= term.warn_at {
            keep.leave(Chore::GiveBack { held, after: MarkAfter::Undo });
            let late = now.saturating_since(first_sent);
            let why = format!(
                "the grant came {late:?} after it was asked for, when it was as good as over"
            );
            return Err(BackendError::new(Kind::Timeout, why));
        }
        // Until the caller has it in hand, dropping it means that nothing was started.
        let guard = LockGuard::new(held, Arc::clone(keep), MarkAfter::Undo);
        Ok(Outcome::Won(guard, Told { attempt, previous, store_now, schedule, note }))
    }
}
