//! The plan alone: what it decides, told time and answers by hand.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use solocron::lock::{
    Claim, ClaimState, Delivery, Enrolled, Fence, Mark, MarkAfter, NodeId, Note, Schedule,
};
use solocron::plan::{Action, Actions, Answer, Input, JobPlan, Plan, Win};
use solocron::trigger::{Every, Trigger};
use solocron::{BackendError, Kind, Misfire, MissedWhy, What};

const MINUTE: i64 = 60_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn mark(minute: i64) -> Mark {
    Mark::from_millis(minute * MINUTE)
}

fn ms(minute: i64) -> i64 {
    minute * MINUTE
}

/// One job, due each minute, and what it did last.
struct Node {
    plan: Plan,
    every: Every,
}

impl Node {
    /// Enrolled at minute 0 of a record that was created then.
    fn new(misfire: Misfire, delivery: Delivery) -> Self {
        let mut node = Self::unenrolled(misfire, delivery);
        node.enroll(0, mark(0), true, 0);
        node
    }

    fn unenrolled(misfire: Misfire, delivery: Delivery) -> Self {
        let every = Every::new(Duration::from_secs(60)).unwrap();
        let job = JobPlan::new(Arc::new(every), misfire, delivery);
        let mut plan = Plan::new([job]);
        assert!(matches!(plan.wake(at(0))[..], [(0, Action::Enroll)]));
        Self { plan, every }
    }

    fn enroll(&mut self, now: i64, last: Mark, done: bool, attempts: u32) -> Vec<Action> {
        let last = ClaimState { mark: last, done, attempts, owner: None };
        let schedule = Schedule { fingerprint: self.every.fingerprint(), since: mark(0) };
        let enrolled = Enrolled::new(last, schedule, false, Note::default());
        self.on(now, Input::Enrolled(Ok(enrolled)))
    }

    fn wake(&mut self, now: i64) -> Vec<Action> {
        decisions(self.plan.wake(at(now)))
    }

    fn on(&mut self, now: i64, input: Input) -> Vec<Action> {
        decisions(self.plan.on(0, at(now), input))
    }

    fn answer(&mut self, now: i64, answer: Answer) -> Vec<Action> {
        self.on(now, Input::Answer(answer))
    }

    fn won(&mut self, now: i64, previous: ClaimState) -> Vec<Action> {
        let schedule = Some(Schedule { fingerprint: self.every.fingerprint(), since: mark(0) });
        self.answer(
            now,
            Answer::Won(Win {
                fence: Fence::new(1),
                previous: Some(previous),
                attempt: 1,
                schedule,
            }),
        )
    }

    fn next_wake(&self) -> i64 {
        self.plan.next_wake().unwrap().as_millisecond()
    }
}

fn decisions(actions: Actions) -> Vec<Action> {
    actions.into_iter().map(|(_, action)| action).collect()
}

fn claimed(actions: &[Action]) -> Option<Claim> {
    actions
        .iter()
        .find_map(|action| if let Action::Claim(claim) = action { Some(*claim) } else { None })
}

fn started(actions: &[Action]) -> Option<(Mark, Vec<Mark>)> {
    actions.iter().find_map(|action| match action {
        Action::Start { tick, missed } => Some((*tick, missed.clone())),
        _ => None,
    })
}

fn released(actions: &[Action]) -> Option<MarkAfter> {
    actions
        .iter()
        .find_map(|action| if let Action::Release(after) = action { Some(*after) } else { None })
}

fn missed(actions: &[Action]) -> Vec<(Mark, MissedWhy)> {
    let missed = actions.iter().filter_map(|action| match action {
        Action::Report(What::Missed { tick, why }) => Some((*tick, *why)),
        _ => None,
    });
    missed.collect()
}

fn done(minute: i64) -> ClaimState {
    ClaimState { mark: mark(minute), done: true, attempts: 1, owner: None }
}

fn stale(minute: i64, done: bool, living: bool) -> Answer {
    Answer::Stale { mark: mark(minute), done, living, remaining: None, owner: None }
}

/// A run of that minute's tick holds the key.
fn busy(minute: i64, remaining: Option<Duration>) -> Answer {
    Answer::Busy { tick: Some(mark(minute)), remaining, owner: Some(NodeId::named("other")) }
}

const AT_LEAST_ONCE: Delivery = Delivery::AtLeastOnce { max_attempts: 2 };

#[test]
fn a_due_tick_is_claimed_run_and_released_and_the_next_one_follows_it() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    assert_eq!(node.next_wake(), ms(1));
    assert_eq!(claimed(&node.wake(ms(1))).unwrap().tick, mark(1));
    assert_eq!(started(&node.won(ms(1) + 5, done(0))), Some((mark(1), vec![])));
    let ended = node.on(
        ms(1) + 500,
        Input::RunEnded { started: at(ms(1) + 5), ended: at(ms(1) + 500), complete: true },
    );
    assert_eq!(released(&ended), Some(MarkAfter::Done));
    node.on(ms(1) + 501, Input::Released);
    assert_eq!(node.next_wake(), ms(2));
}

#[test]
fn an_early_wake_up_neither_runs_nor_loses_a_tick() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    assert!(node.wake(ms(1) - 1).is_empty());
    assert_eq!(claimed(&node.wake(ms(1))).unwrap().tick, mark(1));
}

#[test]
fn a_clock_that_steps_back_runs_nothing_again() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(5));
    node.answer(ms(5), stale(5, true, false));
    assert!(
        decisions(node.plan.clock_stepped(at(ms(2))))
            .iter()
            .all(|action| !matches!(action, Action::Claim(_)))
    );
    assert_eq!(node.next_wake(), ms(6));
}

#[test]
fn missed_ticks_become_one_run_of_the_latest_that_is_told_of_the_others() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    let now = ms(5) + 20_000;
    assert_eq!(claimed(&node.wake(now)).unwrap().tick, mark(5));
    assert_eq!(started(&node.won(now, done(1))), Some((mark(5), vec![mark(2), mark(3), mark(4)])));
}

#[test]
fn a_tick_later_than_its_grace_is_reported_and_not_run() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    let late = node.wake(ms(1) + 30_001);
    assert_eq!(missed(&late), [(mark(1), MissedWhy::NobodyThere)]);
    assert!(claimed(&late).is_none());
    assert_eq!(node.next_wake(), ms(2));
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    assert!(claimed(&node.wake(ms(1) + 30_000)).is_some(), "the grace is half a minute");
}

#[test]
fn catching_up_all_claims_the_oldest_first_and_gives_up_what_is_too_old() {
    let mut node = Node::new(Misfire::all(Duration::from_secs(150)), Delivery::AtMostOnce);
    let now = ms(4) + 10_000;
    let actions = node.wake(now);
    assert_eq!(missed(&actions), [(mark(1), MissedWhy::NobodyThere)], "it is 190 s old");
    let claim = claimed(&actions).unwrap();
    assert_eq!((claim.tick, claim.after), (mark(2), None), "what is too old holds up nobody");
    node.won(now, done(0));
    node.on(now, Input::RunEnded { started: at(now), ended: at(now), complete: true });
    let next = claimed(&node.on(now, Input::Released)).unwrap();
    assert_eq!((next.tick, next.after), (mark(3), Some(mark(2))));
    // Another node was slower: the store says what goes first.
    let behind = node.answer(now, Answer::Behind { mark: mark(1), unfinished: false });
    assert_eq!(claimed(&behind).unwrap().tick, mark(2));
}

#[test]
fn a_claimed_tick_is_watched_until_its_run_has_ended() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    let watching = node.answer(ms(1), stale(1, false, true));
    assert!(matches!(watching[..], [Action::Watch]), "{watching:?}");
    // Its winner shut down and gave it back.
    assert_eq!(claimed(&node.on(ms(1) + 50, Input::Woken)).unwrap().tick, mark(1));
    let won = node.won(ms(1) + 51, done(0));
    assert!(matches!(won[0], Action::Unwatch) && started(&won).is_some(), "{won:?}");
}

#[test]
fn a_wake_up_during_an_attempt_is_not_lost() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    node.answer(ms(1), busy(0, None));
    node.on(ms(1) + 1, Input::Woken);
    assert!(node.on(ms(1) + 2, Input::Woken).is_empty(), "an attempt is under way");
    let again = node.answer(ms(1) + 3, busy(0, None));
    assert!(
        claimed(&again).is_some(),
        "what woke us may have come after the store answered: {again:?}"
    );
}

#[test]
fn a_busy_key_is_tried_until_its_holder_dies_and_only_the_latest_tick_runs() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    node.answer(ms(1), busy(0, Some(Duration::from_secs(3))));
    assert_eq!(node.next_wake(), ms(1) + 3_001, "when the lease ends");
    assert_eq!(claimed(&node.on(ms(2) + 5, Input::Woken)).unwrap().tick, mark(2));
    let dead =
        ClaimState { mark: mark(0), done: false, attempts: 1, owner: Some(NodeId::named("dead")) };
    let won = node.won(ms(2) + 6, dead);
    assert_eq!(started(&won), Some((mark(2), vec![mark(1)])));
    assert!(won.iter().any(
        |action| matches!(action, Action::Report(What::Abandoned { tick, .. }) if *tick == mark(0))
    ));
}

#[test]
fn a_run_skips_the_ticks_that_fell_into_it() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    node.won(ms(1), done(0));
    let ended = node.on(
        ms(3) + 10,
        Input::RunEnded { started: at(ms(1)), ended: at(ms(3) + 10), complete: true },
    );
    assert_eq!(released(&ended), Some(MarkAfter::DoneAndSkip(mark(3))));
    // The store cuts that at its own clock, so it is asked what became of the latest.
    assert_eq!(claimed(&node.on(ms(3) + 11, Input::Released)).unwrap().tick, mark(3));
    node.answer(ms(3) + 12, stale(3, true, false));
    assert_eq!(node.next_wake(), ms(4));
}

#[test]
fn a_run_does_not_skip_a_tick_that_was_due_before_it_started() {
    let patient = Misfire::latest().grace(Duration::from_secs(120));
    let mut node = Node::new(patient, Delivery::AtMostOnce);
    node.wake(ms(2) - 1);
    node.won(ms(2) - 1, done(0));
    let ended = node.on(
        ms(2) + 50,
        Input::RunEnded { started: at(ms(2) + 5), ended: at(ms(2) + 50), complete: true },
    );
    assert_eq!(released(&ended), Some(MarkAfter::Done));
    assert_eq!(claimed(&node.on(ms(2) + 51, Input::Released)).unwrap().tick, mark(2));
}

#[test]
fn an_unfinished_run_goes_first_and_knows_no_grace() {
    let mut node = Node::new(Misfire::latest(), AT_LEAST_ONCE);
    node.wake(ms(9));
    let behind = node.answer(ms(9), Answer::Behind { mark: mark(1), unfinished: true });
    assert_eq!(claimed(&behind).unwrap().tick, mark(1));
    assert!(missed(&behind).is_empty());
    node.won(ms(9), ClaimState { done: false, ..done(1) });
    node.on(ms(9), Input::RunEnded { started: at(ms(9)), ended: at(ms(9)), complete: true });
    assert_eq!(claimed(&node.on(ms(9), Input::Released)).unwrap().tick, mark(9));
}

#[test]
fn an_unfinished_run_is_found_when_a_node_starts() {
    let mut node = Node::unenrolled(Misfire::latest(), AT_LEAST_ONCE);
    let actions = node.enroll(ms(3) + 100, mark(1), false, 1);
    assert_eq!(claimed(&actions).unwrap().tick, mark(1));
    let mut node = Node::unenrolled(Misfire::latest(), AT_LEAST_ONCE);
    assert_eq!(
        claimed(&node.enroll(ms(3) + 100, mark(1), false, 2)).unwrap().tick,
        mark(3),
        "its attempts are used up"
    );
}

#[test]
fn a_run_that_was_cut_short_leaves_its_tick_unfinished() {
    let mut node = Node::new(Misfire::latest(), AT_LEAST_ONCE);
    node.wake(ms(1));
    node.won(ms(1), done(0));
    let ended = node.on(
        ms(1) + 10,
        Input::RunEnded { started: at(ms(1)), ended: at(ms(1) + 10), complete: false },
    );
    assert_eq!(released(&ended), Some(MarkAfter::Unfinished));
    assert_eq!(claimed(&node.on(ms(1) + 11, Input::Released)).unwrap().tick, mark(1));
}

#[test]
fn a_fast_node_waits_for_the_stores_clock_and_does_not_count_that_as_late() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    node.answer(ms(1), Answer::Early { store_now: at(ms(1) - 50_000) });
    assert_eq!(node.next_wake(), ms(1) + 5_000, "the store's clock may be set meanwhile");
    assert_eq!(claimed(&node.wake(ms(1) + 5_000)).unwrap().tick, mark(1));
    node.answer(ms(1) + 5_000, Answer::Early { store_now: at(ms(1) - 45_000) });
    assert_eq!(claimed(&node.wake(ms(1) + 50_000)).unwrap().tick, mark(1), "longer than its grace");
}

#[test]
fn a_store_that_is_down_is_asked_until_the_grace_is_over() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    let down = || Answer::Failed(BackendError::new(Kind::Unavailable, "down"));
    let (mut now, mut tries) = (ms(1), 0);
    let mut actions = node.wake(now);
    while claimed(&actions).is_some() {
        tries += 1;
        node.answer(now, down());
        now = node.next_wake();
        actions = node.wake(now);
    }
    assert_eq!(missed(&actions), [(mark(1), MissedWhy::Backend)]);
    assert!((8..40).contains(&tries), "{tries} tries in half a minute");
}

#[test]
fn a_job_that_the_store_forgot_is_enrolled_again_and_old_ticks_stay_settled() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    let forgot =
        node.answer(ms(1), Answer::Failed(BackendError::new(Kind::NotEnrolled, "forgotten")));
    assert!(matches!(forgot[..], [Action::Enroll]), "{forgot:?}");
    let last =
        ClaimState { mark: Mark::from_millis(ms(1) + 500), done: true, attempts: 0, owner: None };
    let schedule = Schedule { fingerprint: node.every.fingerprint(), since: last.mark };
    let enrolled = Enrolled::new(last, schedule, true, Note::default());
    let actions = node.on(ms(1) + 500, Input::Enrolled(Ok(enrolled)));
    assert!(matches!(actions[..], [Action::Report(What::Forgot { .. })]), "{actions:?}");
    assert_eq!(node.next_wake(), ms(2));
}

#[test]
fn after_a_stop_nothing_is_claimed_and_what_is_won_is_undone() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    node.plan.stop();
    assert!(!node.plan.is_idle());
    let won = node.won(ms(1), done(0));
    assert!(matches!(won[..], [Action::Undo, Action::Report(What::Undone { .. })]), "{won:?}");
    node.on(ms(1), Input::Released);
    assert!(node.plan.is_idle() && node.wake(ms(9)).is_empty() && node.plan.next_wake().is_none());
}

#[test]
fn a_schedule_that_began_just_now_has_missed_nothing() {
    let mut node = Node::unenrolled(Misfire::latest(), Delivery::AtMostOnce);
    let schedule =
        Schedule { fingerprint: node.every.fingerprint(), since: Mark::from_millis(ms(5) + 100) };
    let enrolled = Enrolled::new(done(1), schedule, false, Note::default());
    let actions = node.on(ms(5) + 100, Input::Enrolled(Ok(enrolled)));
    assert!(claimed(&actions).is_none(), "{actions:?}");
    assert_eq!(node.next_wake(), ms(6));
}

#[test]
fn a_long_run_elsewhere_is_no_miss() {
    let yielded = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Report(What::Yielded { .. })))
    };
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    node.wake(ms(1));
    node.answer(ms(1), stale(1, false, true));
    let mut now = ms(1);
    while now < ms(1) + 30_000 {
        now = node.next_wake();
        let actions = node.wake(now);
        if claimed(&actions).is_none() {
            assert!(yielded(&actions) && missed(&actions).is_empty(), "{actions:?}");
            return;
        }
        node.answer(now, stale(1, false, true));
    }
    let over = node.wake(ms(1) + 36_000);
    assert!(yielded(&over) && missed(&over).is_empty(), "{over:?}");
}

#[test]
fn an_at_least_once_run_is_waited_for_beyond_its_grace() {
    let mut node = Node::new(Misfire::latest(), AT_LEAST_ONCE);
    node.wake(ms(1));
    node.answer(ms(1), busy(1, None));
    assert_eq!(claimed(&node.wake(ms(7))).unwrap().tick, mark(1), "hours later, too");
    let ended = node.answer(ms(7), stale(6, true, false));
    assert_eq!(claimed(&ended).unwrap().tick, mark(7), "it ended, and skipped what it overlapped");
}

#[test]
fn a_claim_of_before_a_node_started_may_still_be_undone() {
    let mut node = Node::unenrolled(Misfire::latest(), Delivery::AtMostOnce);
    assert_eq!(claimed(&node.enroll(ms(1) + 100, mark(1), false, 1)).unwrap().tick, mark(1));
    let mut node = Node::unenrolled(Misfire::latest(), Delivery::AtMostOnce);
    let late = node.enroll(ms(1) + 40_000, mark(1), false, 1);
    assert!(
        claimed(&late).is_none() && missed(&late).is_empty(),
        "it was claimed, whatever became of it: {late:?}"
    );
}

#[test]
fn a_clock_that_was_ahead_settles_nothing_for_good() {
    let mut node = Node::new(Misfire::latest(), Delivery::AtMostOnce);
    let year = ms(60 * 24 * 365);
    assert!(!missed(&node.wake(year + 40_000)).is_empty());
    let back = decisions(node.plan.clock_stepped(at(ms(2))));
    assert!(matches!(back[..], [Action::Enroll]), "the store knows what was claimed: {back:?}");
    assert_eq!(claimed(&node.enroll(ms(2), mark(1), true, 1)).unwrap().tick, mark(2));
}

#[test]
fn catching_up_after_a_month_takes_no_walk_through_it() {
    let mut node = Node::new(Misfire::all(Duration::from_secs(150)), Delivery::AtMostOnce);
    let actions = node.wake(ms(60 * 24 * 30) + 10_000);
    assert_eq!(missed(&actions).len(), 101, "the last ones are named");
    assert_eq!(claimed(&actions).unwrap().tick, mark(60 * 24 * 30 - 2));
}

#[test]
fn a_behind_that_names_no_unfinished_run_ends_the_wait_for_one() {
    let mut node = Node::unenrolled(Misfire::all(Duration::from_secs(600)), AT_LEAST_ONCE);
    assert_eq!(claimed(&node.enroll(ms(5), mark(4), false, 1)).unwrap().tick, mark(4));
    let actions = node.answer(ms(5), Answer::Behind { mark: mark(2), unfinished: false });
    assert_eq!(claimed(&actions).unwrap().tick, mark(3), "the record was set back");
}
