//! Requests that reach the store, and answers that are read.

use std::rc::Rc;
use std::time::Duration;

use solocron::lock::{MarkAfter, Nonce, Reply, Request, Rule};
use solocron::plan::{Answer, Input};
use solocron::{BackendError, Kind, LeaseInstant};

use super::{Answered, Asked, Call, Chore, Flight, Give, Lease, NONCES, World, name, said, undo};
use crate::check::attempt::Attempt;
use crate::check::config::{step_of, time};
use crate::check::monitor::Property;
use crate::check::store::{Store, key};

impl World<'_> {
    /// A call has its effect; its answer is read at once, unless it is a win, or lost, or nobody is awake to read it.
    pub(super) fn carry(&mut self, n: usize, j: usize, lose: bool) {
        let Some(asked) = self.nodes[n].slots[j].call.as_ref().map(|call| call.asked.clone())
        else {
            return;
        };
        let answer = self.serve(n, j, &asked);
        let won = matches!(answer, Answered::Acquired(Ok(Reply::Won(_))));
        let flight = if lose {
            Flight::Unanswered
        } else {
            Flight::Answered { answer: Rc::new(answer), slow: false }
        };
        if let Some(call) = &mut self.nodes[n].slots[j].call {
            call.flight = flight;
        }
        if !lose && !won && self.nodes[n].works() {
            self.read(n, j);
        }
    }

    pub(super) fn serve(&mut self, n: usize, j: usize, asked: &Asked) -> Answered {
        match asked {
            Asked::Enroll => {
                let fingerprint = self.plans[j].fingerprint();
                Answered::Enrolled(self.store.enroll(self.now, j, fingerprint))
            }
            Asked::Acquire(attempt) => Answered::Acquired(self.acquire(n, j, attempt)),
            Asked::Give(give) => {
                self.settle(n, j, give);
                Answered::Released
            }
        }
    }

    pub(super) fn acquire(
        &mut self,
        n: usize,
        j: usize,
        attempt: &Attempt,
    ) -> Result<Reply<()>, BackendError> {
        let life = attempt.nonce / NONCES - n as u32 * 4;
        let nonce = Nonce::from_u128(attempt.nonce.into());
        let sent = LeaseInstant::from_origin(Duration::from_secs(attempt.first_sent.into()));
        let request = Request::new(key(j), nonce, name(n, life as u8), self.ttl(), sent)
            .claiming(attempt.claim);
        let living = self.store.records[j]
            .as_ref()
            .and_then(|record| record.holder(time(self.now.into()), true))
            .and_then(|holder| holder.nonce);
        let reply = self.store.acquire(self.now, j, request);
        self.note(|_| format!("  store to {}: {}", name(n, life as u8), said(&reply)));
        let refused = matches!(&reply, Err(error) if error.kind() == Kind::Refused);
        if living == Some(nonce) && !refused && !matches!(reply, Ok(Reply::Won(_))) {
            let said = said(&reply);
            self.monitor.breaks(Property::SameGrant, || {
                format!("the holder asked again, and was answered: {said}")
            });
        }
        if let Ok(Reply::Won(grant)) = &reply {
            self.monitor.granted(
                j,
                attempt.claim.tick,
                grant.attempt,
                attempt.nonce,
                grant.fence.as_u64(),
                attempt.claim.delivery,
            );
            let died = !self.nodes[n].lives() || u32::from(self.nodes[n].life) != life;
            if died || self.nodes[n].paused || self.nodes[n].cut {
                let first = attempt.nonce / NONCES * NONCES;
                self.monitor.trouble(&(first..first + NONCES), died);
            }
        }
        reply
    }

    pub(super) fn settle(&mut self, n: usize, j: usize, give: &Give) {
        let mark = |store: &Store| store.records[j].as_ref()?.last().map(|last| last.mark);
        let before = mark(&self.store);
        let nonce = Nonce::from_u128(give.nonce.into());
        if give.revoke {
            self.store.revoke(self.now, j, nonce, give.after);
        } else {
            self.store.release(self.now, j, nonce, give.after);
        }
        let after = mark(&self.store);
        self.note(|w| {
            let what = if give.revoke { "revoked" } else { "released" };
            format!("  store: {} {what}, {:?}", w.who(n), give.after)
        });
        if let (Some(before), Some(after)) = (before, after)
            && after < before
        {
            if give.after != MarkAfter::Undo {
                self.monitor.breaks(Property::Marks, || {
                    format!("the mark went back from {before} by {:?}", give.after)
                });
            }
            self.monitor.undone(j, before, give.nonce);
        }
        self.news(j);
    }

    pub(super) fn tidy(&mut self, n: usize, c: usize, acknowledged: bool) {
        let Chore { job, give, .. } = self.nodes[n].chores[c].clone();
        self.monitor.came_late();
        if acknowledged {
            self.nodes[n].chores.remove(c);
        }
        self.settle(n, job.into(), &give);
    }

    pub(super) fn news(&mut self, j: usize) {
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            if self.cfg.pushes && node.works() && !node.cut && node.slots[j].watching {
                self.woken.push((n, j));
            }
        }
    }

    pub(super) fn read(&mut self, n: usize, j: usize) {
        let Some(Call { asked, flight: Flight::Answered { answer, .. }, .. }) =
            self.nodes[n].slots[j].call.take()
        else {
            return;
        };
        match (&*answer, asked) {
            (Answered::Enrolled(answer), _) => self.tell(n, j, Input::Enrolled(answer.clone())),
            (Answered::Acquired(reply), Asked::Acquire(attempt)) => {
                self.read_reply(n, j, reply, &attempt)
            }
            _ => self.tell(n, j, Input::Released),
        }
    }

    pub(super) fn read_reply(
        &mut self,
        n: usize,
        j: usize,
        reply: &Result<Reply<()>, BackendError>,
        attempt: &Attempt,
    ) {
        if attempt.sends > 1
            && !Rule::SameNonce.is_suspended()
            && !matches!(reply, Ok(Reply::Won(_)))
        {
            self.leave(n, j, undo(attempt.nonce));
        }
        let answer = match reply {
            Ok(won @ Reply::Won(grant)) => {
                let deadline = attempt.deadline(self.now, self.cfg.ttl);
                if self.now >= deadline {
                    self.leave(n, j, undo(attempt.nonce));
                    Answer::Failed(BackendError::new(Kind::Timeout, "the grant came too late"))
                } else {
                    self.nodes[n].slots[j].hand = Some(Lease {
                        nonce: attempt.nonce,
                        fence: grant.fence.as_u64(),
                        attempt: grant.attempt,
                        deadline,
                        granted: grant.store_now.map_or(0, |at| step_of(at) as u16),
                        resent: attempt.sends > 1,
                    });
                    Answer::from(won)
                }
            }
            // Perhaps the grant of an earlier copy, whose lease is over already: mine, and never run.
            Ok(Reply::Stale { mark, done: false, owner })
                if attempt.sends > 1
                    && *mark == attempt.claim.tick
                    && owner.as_ref().is_none_or(|owner| !owner.living) =>
            {
                Answer::Failed(BackendError::new(Kind::Timeout, "nobody knows"))
            }
            Ok(reply) => Answer::from(reply),
            Err(error) => Answer::Failed(error.clone()),
        };
        self.tell(n, j, Input::Answer(answer));
    }
}
