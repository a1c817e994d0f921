//! One batch of acquisitions, from the first send to a known outcome.
//!
//! ```text
//!   send(nonce) ──► Won in time ─────────────────────────────► guard
//!        │    └───► Won too late ── revoke ──────────────────► error (too late)
//!        │    └───► Stale, Busy, Behind, Early ──────────────► outcome (and revoke, if it was sent more than once)
//!        │    └───► error, certainly without effect ─────────► error
//!        └────────► no answer, or effect unknown
//!                     │  the same nonce again, while it may help
//!                     └─ then revoke, until acknowledged (the reaper) ──► error
//!   future dropped anywhere above ── revoke what has no outcome yet (the reaper)
//! ```

use std::sync::Arc;

use super::backend::{Claim, Grant, MarkAfter, Reply, Request};
use super::driver::AnyLease;
use super::guard::{LockGuard, Told};
use super::held::Held;
use super::keep::{Chore, Keep};
use super::options::Timing;
use super::rule::Rule;
use super::validity::Term;
use super::{LockKey, NodeId, Nonce};
use crate::clock::within;
use crate::error::{BackendError, Effect, Kind};

/// A known outcome.
pub(crate) enum Outcome {
    Won(LockGuard, Told),
    Lost(Reply<AnyLease>),
}

/// Acquisitions without an outcome yet. Dropping them revokes them.
struct Unanswered<'a> {
    keep: &'a Arc<Keep>,
    timing: Timing,
    /// Where the answer belongs, and what was asked. Only what was sent is here.
    requests: Vec<(usize, Request)>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        for (_, Request { key, nonce, .. }) in self.requests.drain(..) {
            self.keep.leave(Chore::Revoke { key, nonce, timing: self.timing });
        }
    }
}

/// Attempts each of `wanted` once. Answers in their order.
pub(crate) async fn attempt(
    keep: &Arc<Keep>,
    node: &NodeId,
    timing: Timing,
    longest_ttl: std::time::Duration,
    wanted: Vec<(LockKey, Option<Claim>)>,
) -> Vec<Result<Outcome, BackendError>> {
    /// The same nonce is sent this often before it is given up.
    const SENDS: u32 = 3;

    let first_sent = keep.clock.lease_now();
    let requests = wanted.into_iter().map(|(key, claim)| {
        let mut request = Request::new(key, Nonce::random(), node.clone(), timing.ttl, first_sent);
        request.longest_ttl = longest_ttl;
        request.claim = claim;
        request
    });
    let mut unanswered = Unanswered { keep, timing, requests: requests.enumerate().collect() };
    let mut answers: Vec<Option<Result<Outcome, BackendError>>> =
        unanswered.requests.iter().map(|_| None).collect();
    let patience = first_sent + timing.ttl.min(timing.request_timeout * SENDS);
    for send in 1.. {
        let requests: Vec<_> =
            unanswered.requests.iter().map(|(_, request)| request.clone()).collect();
        let limit = timing.request_timeout;
        let replies = within(&*keep.clock, limit, keep.driver.try_acquire(&requests))
            .await
            .unwrap_or_default();
        let mut replies = replies.into_iter();
        let last = send == SENDS || keep.clock.lease_now() >= patience;
        let mut unknown = Vec::new();
        for (at, mut request) in std::mem::take(&mut unanswered.requests) {
            let reply = replies.next().unwrap_or_else(|| Err(BackendError::timeout(limit)));
            answers[at] = Some(match reply {
                Ok(Reply::Won(grant)) => won(keep, timing, &request, grant, send > 1),
                Ok(reply) => {
                    // An earlier copy may still be on its way, and must not win what nobody waits for any more.
                    if send > 1 && Rule::SameNonce.holds() {
                        let (key, nonce) = (request.key, request.nonce);
                        keep.leave(Chore::Revoke { key, nonce, timing });
                    }
                    Ok(Outcome::Lost(reply))
                }
                Err(error) if error.effect() == Effect::Unknown && !last => {
                    if !Rule::SameNonce.holds() {
                        request.nonce = Nonce::random();
                    }
                    unknown.push((at, request));
                    continue;
                }
                Err(error) => {
                    // Refused: an earlier copy was given back, so there is nothing left to revoke.
                    if (error.effect() == Effect::Unknown || send > 1)
                        && error.kind() != Kind::Refused
                        && Rule::SameNonce.holds()
                    {
                        keep.leave(Chore::Revoke {
                            key: request.key,
                            nonce: request.nonce,
                            timing,
                        });
                    }
                    Err(error)
                }
            });
        }
        if unknown.is_empty() {
            break;
        }
        unanswered.requests = unknown;
        keep.clock.sleep(limit / 10).await;
    }
    answers
        .into_iter()
        .map(|answer| answer.expect("the loop ends when every request has its answer"))
        .collect()
}

/// A grant, unless it came too late to be of use.
fn won(
    keep: &Arc<Keep>,
    timing: Timing,
    request: &Request,
    grant: Grant<AnyLease>,
    resent: bool,
) -> Result<Outcome, BackendError> {
    let Grant { lease, fence, previous, attempt, mut validity, store_now, schedule, note } = grant;
    let now = keep.clock.lease_now();
    if let (super::Validity::Until { since, .. }, false) =
        (&mut validity, Rule::DeadlineFromSend.holds())
    {
        *since = now;
    }
    let term = Term::of(validity, &timing, now);
    let held = Arc::new(Held::new(
        request.key.clone(),
        request.nonce,
        fence,
        lease,
        term.deadline,
        resent,
    ));
    if now >= term.warn_at {
        keep.leave(Chore::GiveBack { held, after: MarkAfter::Undo, timing });
        let why = format!(
            "the grant came {:?} after it was asked for, when it was as good as over",
            now.saturating_since(request.first_sent)
        );
        return Err(BackendError::new(Kind::Timeout, why));
    }
    let id = keep.keep(&held, timing, term);
    // Until the caller has it in hand, dropping it means that nothing was started.
    let guard = LockGuard::new(held, Arc::clone(keep), timing, id, MarkAfter::Undo);
    Ok(Outcome::Won(guard, Told { attempt, previous, store_now, schedule, note }))
}
