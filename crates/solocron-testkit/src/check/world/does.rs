//! What happens: steps, faults, and what a node does by itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use solocron::BackendError;
use solocron::lock::{Mark, MarkAfter, Nonce};
use solocron::plan::{Action, Actions, Answer, Input, Plan};

use super::{
    Asked, Call, Chore, Flight, Give, Lease, Node, Run, Slot, Step, Stray, World, step, undo,
};
use crate::check::attempt::{Attempt, Unanswered};
use crate::check::config::{Fault, step_of, time};
use crate::check::monitor::Property;

impl World<'_> {
    pub(in crate::check) fn apply(&mut self, step: Step) {
        match step {
            Step::Pass => self.pass(),
            Step::Carry(n, j) => self.carry(n.into(), j.into(), false),
            Step::Read(n, j) => self.read(n.into(), j.into()),
            Step::Tidy(n, c) => self.tidy(n.into(), c.into(), true),
            Step::Arrive(s) => {
                let Stray { node, job, asked } = self.strays.remove(s.into());
                self.note(|_| "a late request arrives:".to_owned());
                self.monitor.came_late();
                let _ = self.serve(node.into(), job.into(), &asked);
            }
            Step::End(n, j) => self.end_run(n.into(), j.into(), true),
            Step::LoseLease(n, j) => self.end_run(n.into(), j.into(), false),
            Step::Resume(n) => self.resume(n.into()),
            Step::Heal(n) => {
                self.nodes[usize::from(n)].cut = false;
                self.note(|w| format!("{} is connected again", w.who(n.into())));
            }
            Step::Boot(n) => {
                self.boots -= 1;
                self.nodes[usize::from(n)].life += 1;
                self.boot(n.into());
            }
            Step::Hit(fault, n, j) => self.hit(fault, n.into(), j.into()),
            Step::HitChore(fault, n, c) => self.hit_chore(fault, n.into(), c.into()),
        }
        while let Some((n, j)) = self.woken.pop() {
            self.tell(n, j, Input::Woken);
        }
        if self.store.losses > 0 && !self.nodes.iter().any(|node| node.lives() && !node.stopping) {
            self.monitor.unwitnessed(self.now);
        }
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let over = |plan: &Rc<Plan>| node.stopping && plan.is_idle() && node.chores.is_empty();
            if node.plan.as_ref().is_some_and(over) {
                self.nodes[n].plan = None;
                self.nodes[n].slots.fill(Slot::default());
                self.note(|w| format!("{} has shut down", w.who(n)));
            }
        }
        if self.now > self.cfg.faults_until {
            self.boot_one();
        }
    }

    pub(super) fn boot(&mut self, n: usize) {
        self.note(|w| format!("{} starts", w.who(n)));
        let life = self.nodes[n].life;
        let node = &mut self.nodes[n];
        *node = Node {
            plan: Some(Rc::new(Plan::new(Arc::clone(self.plans)))),
            life,
            paused: false,
            cut: false,
            stopping: false,
            epoch: Some(self.store.losses),
            nonces: 0,
            slots: vec![Slot::default(); self.cfg.jobs.len()],
            chores: Vec::new(),
        };
        self.wake(n);
    }

    pub(super) fn hit(&mut self, fault: Fault, n: usize, j: usize) {
        self.budget -= 1;
        match fault {
            Fault::LostRequest | Fault::LostReply | Fault::Late => {
                self.monitor.delayed();
                if fault == Fault::LostReply {
                    self.note(|w| format!("(the answer to {} will be lost)", w.who(n)));
                    return self.carry(n, j, true);
                }
                self.note(|w| format!("a request of {} is {fault:?}", w.who(n)));
                let Some(call) = &mut self.nodes[n].slots[j].call else { return };
                call.flight = Flight::Unanswered;
                if fault == Fault::Late {
                    let asked = call.asked.clone();
                    self.stray(n, j, asked);
                }
            }
            Fault::Slow => {
                self.monitor.delayed();
                self.note(|w| format!("an answer to {} is slow", w.who(n)));
                if let Some(Call { flight: Flight::Answered { slow, .. }, .. }) =
                    &mut self.nodes[n].slots[j].call
                {
                    *slow = true;
                }
            }
            Fault::Crash => {
                self.note(|w| format!("{} dies", w.who(n)));
                self.unhealthy(n, true);
                self.nodes[n].plan = None;
                for j in 0..self.cfg.jobs.len() {
                    let slot = std::mem::take(&mut self.nodes[n].slots[j]);
                    if let Some(Call { asked, flight: Flight::OnWire, .. }) = slot.call {
                        self.stray(n, j, asked);
                    }
                }
                for chore in std::mem::take(&mut self.nodes[n].chores) {
                    if chore.on_wire {
                        self.stray(n, chore.job.into(), Asked::Give(chore.give));
                    }
                }
            }
            Fault::Pause => {
                self.note(|w| format!("{} is paused", w.who(n)));
                self.unhealthy(n, false);
                self.nodes[n].paused = true;
            }
            Fault::Cut => {
                self.note(|w| format!("{} is cut off", w.who(n)));
                self.unhealthy(n, false);
                self.nodes[n].cut = true;
            }
            Fault::Stop => {
                self.note(|w| format!("{} is told to shut down", w.who(n)));
                self.monitor.unhealthy(n, self.cfg, self.now);
                self.nodes[n].stopping = true;
                if let Some(plan) = &mut self.nodes[n].plan {
                    let actions = Rc::make_mut(plan).stop();
                    self.act(n, actions);
                }
            }
            Fault::Wipe => {
                self.note(|_| "the store forgets everything".to_owned());
                self.store.forget();
                (0..self.cfg.jobs.len()).for_each(|j| self.news(j));
            }
            Fault::Delete => {
                self.note(|_| "the record is deleted".to_owned());
                self.store.records[0] = None;
            }
        }
    }

    pub(super) fn hit_chore(&mut self, fault: Fault, n: usize, c: usize) {
        self.budget -= 1;
        self.monitor.delayed();
        self.note(|w| format!("a give-back of {} is {fault:?}", w.who(n)));
        let chore = &mut self.nodes[n].chores[c];
        chore.on_wire = false;
        let (job, give) = (chore.job.into(), chore.give.clone());
        match fault {
            Fault::Late => self.stray(n, job, Asked::Give(give)),
            Fault::LostReply => self.tidy(n, c, false),
            _ => {}
        }
    }

    pub(super) fn stray(&mut self, n: usize, j: usize, asked: Asked) {
        if !matches!(asked, Asked::Enroll) {
            self.strays.push(Stray { node: n as u8, job: j as u8, asked });
        }
    }

    pub(super) fn unhealthy(&mut self, n: usize, died: bool) {
        let nonces = self.nonces(n);
        self.monitor.trouble(&nonces, died);
        self.monitor.unhealthy(n, self.cfg, self.now);
    }

    pub(super) fn resume(&mut self, n: usize) {
        self.note(|w| format!("{} goes on", w.who(n)));
        self.nodes[n].paused = false;
        self.wake(n);
        for j in 0..self.cfg.jobs.len() {
            if self.nodes[n].slots[j].watching {
                self.woken.push((n, j));
            }
        }
    }

    /// The next instant at which anything can happen by itself.
    pub(super) fn next(&self) -> u16 {
        let soon = self.nodes.iter().any(|node| {
            let under_way = node.slots.iter().any(|slot| slot.call.is_some() || slot.run.is_some());
            let strange = node.paused || node.cut || node.epoch != Some(self.store.losses);
            node.lives() && (under_way || strange || !node.chores.is_empty())
        });
        let waits = self.now <= self.cfg.faults_until;
        if soon || waits && (!self.strays.is_empty() || self.boots > 0) {
            return self.now + 1;
        }
        let wakes = self.nodes.iter().enumerate().filter_map(|(n, node)| {
            let at = node.plan.as_ref()?.next_wake()?;
            let step = step_of(at) + i64::from(at.subsec_nanosecond() > 0);
            u16::try_from(step - i64::from(self.cfg.skew[n])).ok()
        });
        let ends = self.store.records.iter().flatten().filter_map(|record| {
            let left = record.holder(time(self.now.into()), true)?.remaining?;
            Some(self.now + left.as_secs() as u16)
        });
        let first_after = waits.then_some(self.cfg.faults_until + 1);
        let next = wakes.chain(ends).chain(first_after).chain([self.cfg.end()]).min();
        next.unwrap_or(0).max(self.now + 1)
    }

    pub(super) fn pass(&mut self) {
        let before = self.now;
        let bits = self.nodes.iter().enumerate();
        let healthy = bits.map(|(n, node)| u8::from(node.is_healthy()) << n).sum();
        self.now = self.next();
        if before <= self.cfg.faults_until && self.now > self.cfg.faults_until {
            self.heal();
        }
        let (nodes, store, cfg, now) = (&self.nodes, &self.store, self.cfg, self.now);
        self.monitor.passed(
            cfg,
            (before, now),
            healthy,
            |j| nodes.iter().any(|node| node.slots[j].run.is_some()),
            |j| store.is_free(now, j, cfg.ttl),
        );
        for n in 0..self.nodes.len() {
            if self.nodes[n].works() {
                self.live(n);
            }
        }
    }

    /// The time of faults is over.
    pub(super) fn heal(&mut self) {
        self.note(|_| "no more faults from here on".to_owned());
        self.strays.clear();
        for n in 0..self.nodes.len() {
            self.nodes[n].cut = false;
            if self.nodes[n].paused {
                self.resume(n);
            }
        }
    }

    /// After the time of faults, somebody is there.
    pub(super) fn boot_one(&mut self) {
        if self.nodes.iter().any(|node| node.lives() && !node.stopping) {
            return;
        }
        if let Some(dead) = self.nodes.iter().position(|node| !node.lives()) {
            self.nodes[dead].life += 1;
            self.boot(dead);
        }
    }

    /// What a working node does by itself, now.
    pub(super) fn live(&mut self, n: usize) {
        for j in 0..self.cfg.jobs.len() {
            self.keep(n, j);
            self.wait(n, j);
        }
        let cut = self.nodes[n].cut;
        for chore in &mut self.nodes[n].chores {
            chore.on_wire |= !cut;
        }
        if !cut {
            let epoch = self.store.epoch(self.now);
            if self.nodes[n].epoch.replace(epoch).is_some_and(|before| before != epoch) {
                for j in 0..self.cfg.jobs.len() {
                    self.tell(n, j, Input::Forgot);
                }
            }
        }
        self.wake(n);
    }

    /// Renews a lease, and notices that it is over.
    pub(super) fn keep(&mut self, n: usize, j: usize) {
        let Some(Lease { nonce, deadline, .. }) =
            self.nodes[n].slots[j].run.as_ref().map(|run| run.lease.clone())
        else {
            return;
        };
        let over = deadline <= self.now;
        let lost = over
            || !self.nodes[n].cut
                && !self.store.renew(self.now, j, Nonce::from_u128(nonce.into()), self.ttl());
        if lost {
            return self.end_run(n, j, false);
        }
        let cut = self.nodes[n].cut;
        if let (Some(run), false) = (&mut self.nodes[n].slots[j].run, cut) {
            run.lease.deadline = self.now + self.cfg.ttl;
        }
    }

    /// Notices that a call was not answered.
    pub(super) fn wait(&mut self, n: usize, j: usize) {
        let slot = &mut self.nodes[n].slots[j];
        match &mut slot.call {
            Some(Call { flight: Flight::Answered { slow, .. }, .. }) => return *slow = false,
            Some(Call { flight: Flight::Unanswered, sent, .. }) if *sent < self.now => {}
            _ => return,
        }
        let Some(call) = slot.call.take() else { return };
        let timeout = BackendError::timeout(Duration::from_secs(1));
        match call.asked {
            Asked::Enroll => self.tell(n, j, Input::Enrolled(Err(timeout))),
            Asked::Acquire(attempt) => {
                let (nonce, now, ttl) = (attempt.nonce, self.now, self.cfg.ttl);
                match attempt.unanswered(now, ttl, || self.fresh_nonce(n)) {
                    Unanswered::Again(attempt) => self.send(n, j, Asked::Acquire(attempt)),
                    Unanswered::Failed { revoke } => {
                        if revoke {
                            self.leave(n, j, undo(nonce));
                        }
                        self.tell(n, j, Input::Answer(Answer::Failed(timeout)));
                    }
                }
            }
            Asked::Give(give) => {
                self.leave(n, j, give);
                self.tell(n, j, Input::Released);
            }
        }
    }

    pub(super) fn wake(&mut self, n: usize) {
        let now = self.wall(n);
        if let Some(plan) =
            self.nodes[n].plan.as_mut().filter(|plan| plan.next_wake().is_some_and(|at| at <= now))
        {
            let actions = Rc::make_mut(plan).wake(now);
            self.act(n, actions);
        }
    }

    pub(super) fn tell(&mut self, n: usize, j: usize, input: Input) {
        let now = self.wall(n);
        if let Some(plan) = &mut self.nodes[n].plan {
            let actions = Rc::make_mut(plan).on(j, now, input);
            self.act(n, actions);
            self.wake(n);
        }
    }

    pub(super) fn act(&mut self, n: usize, actions: Actions) {
        for (j, action) in actions {
            match action {
                Action::Enroll => self.send(n, j, Asked::Enroll),
                Action::Claim(claim) => {
                    let nonce = self.fresh_nonce(n);
                    let attempt = Attempt { claim, nonce, first_sent: self.now, sends: 1 };
                    self.note(|w| format!("{} claims tick {}", w.who(n), step(claim.tick)));
                    self.send(n, j, Asked::Acquire(attempt));
                }
                Action::Start { tick, missed } => self.start(n, j, tick, &missed),
                Action::Undo => self.give_back(n, j, MarkAfter::Undo),
                Action::Release(after) => self.give_back(n, j, after),
                Action::Watch => {
                    self.nodes[n].slots[j].watching = true;
                    if self.cfg.pushes && !self.nodes[n].cut {
                        self.woken.push((n, j));
                    }
                }
                Action::Unwatch => self.nodes[n].slots[j].watching = false,
                Action::Report(what) => {
                    self.note(|w| format!("{} says: {what:?}", w.who(n)));
                    self.monitor.reported(j, &what);
                }
                other => unreachable!("no action of a plan today: {other:?}"),
            }
        }
    }

    pub(super) fn send(&mut self, n: usize, j: usize, asked: Asked) {
        let node = &mut self.nodes[n];
        let flight = if node.cut { Flight::Unanswered } else { Flight::OnWire };
        node.slots[j].call = Some(Call { asked, flight, sent: self.now });
    }

    pub(super) fn leave(&mut self, n: usize, j: usize, give: Give) {
        let node = &mut self.nodes[n];
        node.chores.push(Chore { job: j as u8, give, on_wire: !node.cut });
    }

    pub(super) fn start(&mut self, n: usize, j: usize, tick: Mark, missed: &[Mark]) {
        let Some(lease) = self.nodes[n].slots[j].hand.take() else { return };
        self.note(|w| {
            let (who, at) = (w.who(n), step(tick));
            let missed: Vec<_> = missed.iter().map(|mark| step(*mark)).collect();
            format!(
                "{who} STARTS tick {at}, attempt {}, fence {}, missed {missed:?}",
                lease.attempt, lease.fence
            )
        });
        self.monitor.started(j, self.cfg, self.now, tick, lease.attempt, missed);
        for other in 0..self.nodes.len() {
            let Some(run) = self.nodes[other].slots[j].run.as_ref().filter(|_| other != n) else {
                continue;
            };
            let (trusts, in_order) = (run.lease.deadline > self.now, run.lease.fence < lease.fence);
            if trusts || !in_order {
                let (one, two) = (self.who(other), self.who(n));
                self.monitor.breaks(Property::Exclusion, || {
                    let why = if trusts { "trusts its lease" } else { "has no lower fence" };
                    format!("{two} started while {one} ran and {why}")
                });
            }
        }
        self.nodes[n].slots[j].run = Some(Run { lease, tick, started: self.now });
    }

    pub(super) fn end_run(&mut self, n: usize, j: usize, complete: bool) {
        let Some(Run { lease, tick, started }) = self.nodes[n].slots[j].run.take() else { return };
        self.note(|w| {
            let how = if complete { "ENDS" } else { "loses its lease and STOPS" };
            format!("{} {how} the run of tick {}", w.who(n), step(tick))
        });
        self.monitor.ended(j, tick, complete);
        let granted = time(lease.granted.into());
        self.nodes[n].slots[j].hand = Some(lease);
        let started = time(i32::from(started) + i32::from(self.cfg.skew[n]));
        let started = started.max(granted);
        let ended = time(i32::from(self.now) + i32::from(self.cfg.skew[n]));
        self.tell(n, j, Input::RunEnded { started, ended, complete });
    }

    pub(super) fn give_back(&mut self, n: usize, j: usize, after: MarkAfter) {
        let Some(lease) = self.nodes[n].slots[j].hand.take() else { return };
        let revoke = lease.resent;
        self.send(n, j, Asked::Give(Give { nonce: lease.nonce, after, revoke }));
    }
}
