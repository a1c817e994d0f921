//! What may happen next.

use super::{Flight, Node, Step, World};
use crate::check::config::{Fault, time};
use crate::check::monitor::Property;

impl World<'_> {
    /// Everything that may happen next; nothing at the end of a path.
    pub(in crate::check) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.monitor.broken.is_some() {
            return steps;
        }
        let faulty = self.budget > 0 && self.now <= self.cfg.faults_until;
        let may = |fault| faulty && self.cfg.faults.contains(&fault);
        let mut urgent = false;
        for (n, node) in self.nodes.iter().enumerate() {
            let at = n as u8;
            for (j, slot) in node.slots.iter().enumerate() {
                let job = j as u8;
                match slot.call.as_ref().map(|call| &call.flight) {
                    Some(Flight::OnWire) => {
                        urgent = true;
                        steps.push(Step::Carry(at, job));
                        let hits = [Fault::LostRequest, Fault::LostReply, Fault::Late];
                        steps.extend(
                            hits.into_iter().filter(|f| may(*f)).map(|f| Step::Hit(f, at, job)),
                        );
                    }
                    Some(Flight::Answered { slow: false, .. }) if node.works() => {
                        urgent = true;
                        steps.push(Step::Read(at, job));
                        if may(Fault::Slow) {
                            steps.push(Step::Hit(Fault::Slow, at, job));
                        }
                    }
                    _ => {}
                }
                if let Some(run) = slot.run.as_ref().filter(|_| node.works()) {
                    let over = run.lease.deadline <= self.now;
                    if over {
                        steps.push(Step::LoseLease(at, job));
                    }
                    urgent |= over
                        || self.now >= run.started + self.cfg.longest_run
                        || self.now > self.cfg.faults_until;
                    steps.push(Step::End(at, job));
                }
            }
            for (c, _) in node.chores.iter().enumerate().filter(|(_, chore)| chore.on_wire) {
                urgent = true;
                steps.push(Step::Tidy(at, c as u8));
                let hits = [Fault::LostRequest, Fault::LostReply, Fault::Late];
                steps.extend(
                    hits.into_iter().filter(|f| may(*f)).map(|f| Step::HitChore(f, at, c as u8)),
                );
            }
            if !node.lives() {
                if self.boots > 0 && node.life < 3 && self.now <= self.cfg.faults_until {
                    steps.push(Step::Boot(at));
                }
                continue;
            }
            if node.paused {
                steps.push(Step::Resume(at));
            }
            if node.cut {
                steps.push(Step::Heal(at));
            }
            let hits = [
                (Fault::Crash, true),
                (Fault::Pause, !node.paused),
                (Fault::Cut, !node.cut),
                (Fault::Stop, node.works() && !node.stopping),
            ];
            let hits = hits.into_iter().filter(|(fault, can)| *can && may(*fault));
            steps.extend(hits.map(|(fault, _)| Step::Hit(fault, at, 0)));
        }
        if self.now <= self.cfg.faults_until {
            steps.extend((0..self.strays.len()).map(|s| Step::Arrive(s as u8)));
        }
        let hits = [Fault::Wipe, Fault::Delete].into_iter().filter(|fault| may(*fault));
        steps.extend(hits.map(|fault| Step::Hit(fault, 0, 0)));
        if !urgent && self.now < self.cfg.end() {
            steps.push(Step::Pass);
        }
        steps
    }

    /// Whether this is the end of a path.
    pub(in crate::check) fn is_over(&self) -> bool {
        self.now >= self.cfg.end()
    }

    /// Judges what only the end of a path shows.
    pub(in crate::check) fn finish(&mut self) {
        for j in 0..self.cfg.jobs.len() {
            let record = self.store.records[j].as_ref();
            let holder = record.and_then(|record| record.holder(time(self.now.into()), true));
            if let Some(holder) = holder {
                self.monitor
                    .breaks(Property::NothingHeld, || format!("{holder} still has the key"));
            }
        }
        let busy = |node: &Node| {
            !node.chores.is_empty()
                || node.slots.iter().any(|slot| slot.call.is_some() || slot.hand.is_some())
        };
        if let Some(n) = self.nodes.iter().position(|node| node.lives() && busy(node)) {
            let who = self.who(n);
            self.monitor.breaks(Property::NothingHeld, || format!("{who} has something under way"));
        }
        self.monitor.finish(self.cfg);
    }
}
