//! What follows from an answer, or from the end of a run.

use std::time::Duration;

use jiff::Timestamp;

use super::catch_up::{before, between, later};
use super::{Action, Actions, Answer, Marks, Phase, Plan, WaitsFor, Win};
use crate::error::{BackendError, Kind};
use crate::event::{MissedWhy, What};
use crate::lock::Mark;
use crate::lock::backend::{Delivery, Enrolled, MarkAfter};
use crate::lock::rule::Rule;
use crate::policy::CatchUp;

impl Plan {
    pub(super) fn enrolled(
        &mut self,
        job: usize,
        now: Timestamp,
        answer: Result<Enrolled, BackendError>,
        actions: &mut Actions,
    ) {
        if std::mem::take(&mut self.states[job].void) {
            // Read in a term that is over: others may have claimed since.
            self.states[job].phase = Phase::New;
            self.states[job].forgot = false;
            return self.look(job, now, actions);
        }
        let enrolled = match answer {
            Ok(enrolled) => enrolled,
            Err(error) => {
                self.states[job].phase = Phase::New;
                let retry = self.backoff(job, &error, actions);
                return self.wake_job_at(job, Some(later(now, retry)));
            }
        };
        let last = &enrolled.last;
        let again = self.states[job].cursor > Mark::from_millis(i64::MIN);
        let forgot = enrolled.schedule.since > self.states[job].since;
        actions.push((
            job,
            // Whoever made the record anew may be gone, or may not have heard of it: every node that was there before says so.
            Action::Report(if again && (enrolled.created || forgot) {
                What::Forgot { mark: enrolled.schedule.since }
            } else {
                What::Enrolled { mark: last.mark }
            }),
        ));
        if last.mark.timestamp() > later(now, Self::MAX_SKEW) {
            actions.push((
                job,
                Action::Report(What::MarkAhead { mark: last.mark, owner: last.owner.clone() }),
            ));
        }
        self.states[job].since = enrolled.schedule.since;
        // A claim that is not done may yet be undone: its tick is asked for once, while that can be of use.
        let provisional = !last.done
            && last.attempts > 0
            && now <= self.late_at(job, last.mark)
            && Rule::ClaimIsProvisional.holds();
        let settled = match provisional {
            true => before(&self.jobs[job], last.mark).unwrap_or(Mark::from_millis(i64::MIN)),
            false => last.mark,
        };
        // Nothing was missed before a schedule began.
        let state = &mut self.states[job];
        state.cursor = state.cursor.max(settled).max(state.since);
        let attempts_left = match self.jobs[job].delivery() {
            Delivery::AtMostOnce => false,
            Delivery::AtLeastOnce { max_attempts } => last.attempts < max_attempts,
        };
        state.set_unfinished(
            (!last.done && last.attempts > 0 && attempts_left).then_some(last.mark),
        );
        state.phase = Phase::Idle;
        self.look(job, now, actions);
    }

    pub(super) fn answered(
        &mut self,
        job: usize,
        now: Timestamp,
        answer: Answer,
        actions: &mut Actions,
    ) {
        let Phase::Claiming { tick, woken } = self.states[job].phase else { return };
        if std::mem::take(&mut self.states[job].void) {
            return self.answered_too_late(job, now, tick, answer, actions);
        }
        if !matches!(answer, Answer::Failed(_)) {
            self.states[job].failures = 0;
        }
        match answer {
            Answer::Won(win) => return self.won(job, now, tick, win, actions),
            Answer::Stale { mark, done, living, remaining, owner } => {
                // Claimed, and its run goes on: it may yet be undone. Anything else is settled.
                if mark == tick && !done && living && Rule::ClaimIsProvisional.holds() {
                    let retry = remaining.unwrap_or(Self::BUSY_RETRY);
                    self.wait(job, now, tick, retry, WaitsFor::Run(owner), actions);
                } else {
                    if mark.timestamp() > later(now, Self::MAX_SKEW) {
                        actions.push((
                            job,
                            Action::Report(What::MarkAhead { mark, owner: owner.clone() }),
                        ));
                    }
                    actions.push((job, Action::Report(What::Yielded { tick, to: owner })));
                    // A later claim whose run goes on may yet be undone: it settles what lies before it, not its own tick.
                    let settled =
                        if mark > tick && !done && living && Rule::ClaimIsProvisional.holds() {
                            before(&self.jobs[job], mark).unwrap_or(tick)
                        } else {
                            mark
                        };
                    self.settle(job, tick.max(settled));
                    self.states[job].phase = Phase::Idle;
                    return self.look(job, now, actions);
                }
            }
            Answer::Busy { tick: holders, remaining, owner } => {
                if !Rule::BusyIsProvisional.holds() {
                    self.settle(job, tick);
                    self.states[job].phase = Phase::Idle;
                    return self.look(job, now, actions);
                }
                if let (Delivery::AtLeastOnce { .. }, Some(running)) =
                    (self.jobs[job].delivery(), holders)
                {
                    // If it dies, its tick goes first, and no grace ends that.
                    self.states[job].set_unfinished(Some(running.min(tick)));
                }
                // Its tick is mine: another node runs it, which is no overlap.
                let why =
                    if holders == Some(tick) { WaitsFor::Run(owner) } else { WaitsFor::Overlap };
                self.wait(job, now, tick, remaining.unwrap_or(Self::BUSY_RETRY), why, actions);
            }
            Answer::Behind { mark, unfinished } => {
                let state = &mut self.states[job];
                if unfinished {
                    state.set_unfinished(Some(mark));
                } else {
                    state.cursor = mark.max(state.since);
                    state.set_unfinished(None);
                }
                state.phase = Phase::Idle;
                return self.look(job, now, actions);
            }
            Answer::Early { store_now } => {
                let wait = Duration::try_from(tick.timestamp().duration_since(store_now))
                    .unwrap_or_default();
                let wait = wait.max(Duration::from_millis(1));
                self.states[job].set_held_back(Some(later(now, wait)));
                self.states[job].phase = Phase::Waiting { tick };
                // Nobody can wake us from this one, so a wake-up in between means nothing.
                return self.wake_job_at(job, Some(later(now, wait.min(Self::LONGEST_WAIT))));
            }
            // Once at once; a store that goes on saying so is treated like one that fails.
            Answer::Failed(error)
                if error.kind() == Kind::NotEnrolled && self.states[job].failures == 0 =>
            {
                self.states[job].failures = 1;
                self.states[job].forgot = true;
                self.states[job].phase = Phase::Idle;
                return self.look(job, now, actions);
            }
            Answer::Failed(error) => {
                self.states[job].forgot |= error.kind() == Kind::NotEnrolled;
                let retry = self.backoff(job, &error, actions);
                self.wait(job, now, tick, retry, WaitsFor::Backend, actions);
            }
        }
        if woken {
            self.look(job, now, actions);
        }
    }

    /// An answer to what was asked in a term that is over.
    fn answered_too_late(
        &mut self,
        job: usize,
        now: Timestamp,
        tick: Mark,
        answer: Answer,
        actions: &mut Actions,
    ) {
        if let Answer::Won(Win { fence, .. }) = answer {
            self.states[job].phase = Phase::Releasing;
            actions.push((job, Action::Undo));
            return actions.push((job, Action::Report(What::Undone { tick, fence })));
        }
        self.states[job].phase = Phase::Idle;
        self.look(job, now, actions);
    }

    /// Tries again when woken, or after `retry`.
    fn wait(
        &mut self,
        job: usize,
        now: Timestamp,
        tick: Mark,
        retry: Duration,
        why: WaitsFor,
        actions: &mut Actions,
    ) {
        let state = &mut self.states[job];
        state.phase = Phase::Waiting { tick };
        let watch = matches!(why, WaitsFor::Run(_) | WaitsFor::Overlap);
        state.set_waits_for(why);
        if watch && !std::mem::replace(&mut state.watching, true) {
            actions.push((job, Action::Watch));
        }
        // A store's expiry has a grain of a millisecond.
        let retry = retry.saturating_add(Duration::from_millis(1)).min(Self::LONGEST_WAIT);
        self.wake_job_at(job, Some(later(now, retry)));
    }

    fn backoff(&mut self, job: usize, error: &BackendError, actions: &mut Actions) -> Duration {
        let state = &mut self.states[job];
        if state.failures == 0 || !error.kind().is_transient() {
            actions.push((job, Action::Report(What::BackendFailed { error: error.clone() })));
        }
        state.failures = (state.failures + 1).min(16);
        let backoff = Duration::from_millis(25)
            .saturating_mul(1 << state.failures)
            .min(Self::LONGEST_BACKOFF);
        // What only a person can mend is tried seldom.
        let backoff = if error.kind().is_transient() {
            backoff
        } else {
            backoff.max(Self::LONGEST_BACKOFF) * 2
        };
        error
            .retry_after()
            .map_or(backoff, |after| after.clamp(Duration::from_millis(1), Self::LONGEST_BACKOFF))
    }

    fn won(&mut self, job: usize, now: Timestamp, tick: Mark, win: Win, actions: &mut Actions) {
        let Win { fence, previous, attempt, schedule } = win;
        self.unwatch(job, actions);
        let too_late = self.states[job].unfinished().is_none() && now > self.late_at(job, tick);
        self.settle(job, tick);
        if self.stopping || too_late {
            self.states[job].phase = Phase::Releasing;
            actions.push((job, Action::Undo));
            let what = if self.stopping {
                What::Undone { tick, fence }
            } else {
                What::Missed { tick, why: MissedWhy::Backend }
            };
            return actions.push((job, Action::Report(what)));
        }
        self.states[job].phase = Phase::Running { tick };
        self.wake_job_at(job, None);
        if self.marks == Marks::Stored {
            actions.push((job, Action::Report(What::Claimed { tick, fence, attempt })));
        }
        if let Some(previous) = previous
            .as_ref()
            .filter(|previous| !previous.done && previous.attempts > 0 && previous.mark != tick)
        {
            actions.push((
                job,
                Action::Report(What::Abandoned {
                    tick: previous.mark,
                    owner: previous.owner.clone(),
                }),
            ));
        }
        let spec = self.jobs[job].clone();
        let state = &mut self.states[job];
        if let Some(schedule) = schedule {
            state.since = state.since.max(schedule.since);
            if schedule.fingerprint != spec.fingerprint()
                && !std::mem::replace(&mut state.told_of_schedule, true)
            {
                actions.push((job, Action::Report(What::ScheduleDiffers)));
            }
        }
        let from = previous.map_or(tick, |previous| previous.mark.max(state.since));
        actions.push((job, Action::Start { tick, missed: between(&spec, from, tick) }));
    }

    pub(super) fn run_ended(
        &mut self,
        job: usize,
        started: Timestamp,
        ended: Timestamp,
        complete: bool,
        actions: &mut Actions,
    ) {
        let Phase::Running { tick } = self.states[job].phase else { return };
        self.states[job].phase = Phase::Releasing;
        let void = std::mem::take(&mut self.states[job].void);
        let spec = &self.jobs[job];
        if !complete {
            if matches!(spec.delivery(), Delivery::AtLeastOnce { .. }) && !self.stopping && !void {
                self.states[job].set_unfinished(Some(tick));
            }
            return actions.push((job, Action::Release(MarkAfter::Unfinished)));
        }
        // Ticks that came due while it ran are not run. But one that came due before it started is somebody's to claim, and the mark
        // must not pass it.
        let wants_all = spec.misfire().catch_up == CatchUp::All && Rule::SkipNothingWanted.holds();
        let unclaimed = Rule::SkipFromStart.holds()
            && spec.next_after(tick.timestamp()).is_some_and(|next| next <= started);
        let overlapped = spec
            .last_at_or_before(ended)
            .map(Mark::floor)
            .filter(|last| *last > tick && !wants_all && !unclaimed)
            // Without a lease that others see, they have started what was due since.
            .filter(|_| !(void && self.marks == Marks::OfTheTerm));
        match overlapped {
            Some(to) => {
                // Not settled here: the store cuts it at its own clock, and a fast node that took its own clock's word would lose
                // the rest. It asks, and is told.
                actions.push((job, Action::Report(What::Overlapped { after: tick, to })));
                actions.push((job, Action::Release(MarkAfter::DoneAndSkip(to))));
            }
            None => actions.push((job, Action::Release(MarkAfter::Done))),
        }
    }
}
