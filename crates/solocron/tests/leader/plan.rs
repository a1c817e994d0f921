//! The plan's switch between leading and following, told by hand.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use solocron::lock::{ClaimState, Delivery, Enrolled, Fence, Mark, MarkAfter, Note, Schedule};
use solocron::plan::{Action, Actions, Answer, Input, JobPlan, Marks, Plan, Win};
use solocron::trigger::{Every, Trigger};
use solocron::{Misfire, What};

const MINUTE: i64 = 60_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn mark(minute: i64) -> Mark {
    Mark::from_millis(minute * MINUTE)
}

struct Node {
    plan: Plan,
    every: Every,
}

impl Node {
    fn new(marks: Marks, delivery: Delivery) -> Self {
        let every = Every::new(Duration::from_secs(60)).unwrap();
        let misfire = Misfire::latest();
        let job = JobPlan::new(Arc::new(every), misfire, delivery);
        Self { plan: Plan::following([job], marks), every }
    }

    fn lead(&mut self, now: i64) -> Vec<Action> {
        decisions(self.plan.lead(at(now)))
    }

    fn follow(&mut self) -> Vec<Action> {
        decisions(self.plan.follow())
    }

    fn on(&mut self, now: i64, input: Input) -> Vec<Action> {
        decisions(self.plan.on(0, at(now), input))
    }

    fn enrolled(&mut self, now: i64, last: Mark, since: Mark) -> Vec<Action> {
        let last = ClaimState { mark: last, done: true, attempts: 1, owner: None };
        let schedule = Schedule { fingerprint: self.every.fingerprint(), since };
        let enrolled = Enrolled::new(last, schedule, false, Note::default());
        self.on(now, Input::Enrolled(Ok(enrolled)))
    }

    fn won(&mut self, now: i64, previous: Mark) -> Vec<Action> {
        let previous = ClaimState { mark: previous, done: true, attempts: 1, owner: None };
        let schedule =
            Some(Schedule { fingerprint: self.every.fingerprint(), since: Mark::from_millis(0) });
        let win = Win { fence: Fence::new(1), previous: Some(previous), attempt: 1, schedule };
        self.on(now, Input::Answer(Answer::Won(win)))
    }

    /// Leads from minute 0 on, and was asked to claim the tick of minute 1.
    fn claiming(marks: Marks) -> Self {
        let mut node = Self::new(marks, Delivery::AtMostOnce);
        assert!(matches!(node.lead(0)[..], [Action::Enroll]));
        node.enrolled(0, mark(0), mark(0));
        let asked = decisions(node.plan.wake(at(MINUTE)));
        assert!(matches!(asked[..], [Action::Claim(claim)] if claim.tick == mark(1)));
        node
    }

    fn running(marks: Marks) -> Self {
        let mut node = Self::claiming(marks);
        assert!(has(&node.won(MINUTE, mark(0)), |action| matches!(action, Action::Start { .. })));
        node
    }

    fn run_ended(&mut self, now: i64, complete: bool) -> Vec<Action> {
        let (started, ended) = (at(MINUTE), at(now));
        self.on(now, Input::RunEnded { started, ended, complete })
    }
}

fn decisions(actions: Actions) -> Vec<Action> {
    actions.into_iter().map(|(_, action)| action).collect()
}

fn has(actions: &[Action], what: impl Fn(&Action) -> bool) -> bool {
    actions.iter().any(what)
}

fn is_quiet(actions: &[Action]) -> bool {
    actions.iter().all(|action| matches!(action, Action::Report(_) | Action::Unwatch))
}

#[test]
fn a_follower_wants_nothing() {
    let mut node = Node::new(Marks::Stored, Delivery::AtMostOnce);
    assert_eq!(node.plan.next_wake(), None);
    assert!(decisions(node.plan.wake(at(MINUTE * 9))).is_empty());
    assert!(node.on(MINUTE, Input::Forgot).is_empty());
    assert!(decisions(node.plan.clock_stepped(at(MINUTE))).is_empty());
    assert!(node.plan.is_idle());
}

#[test]
fn who_leads_enrolls_and_claims_and_who_leads_again_enrolls_again() {
    let mut node = Node::claiming(Marks::Stored);
    assert!(node.lead(MINUTE).is_empty(), "it does already");
    node.won(MINUTE, mark(0));
    node.run_ended(MINUTE + 5, true);
    node.on(MINUTE + 6, Input::Released);
    node.follow();
    assert_eq!(node.plan.next_wake(), None);
    assert!(decisions(node.plan.wake(at(MINUTE * 3))).is_empty());
    assert!(matches!(node.lead(MINUTE * 5 + 1)[..], [Action::Enroll]));
    // Others have run up to minute 4.
    let actions = node.enrolled(MINUTE * 5 + 1, mark(4), mark(0));
    assert!(has(
        &actions,
        |action| matches!(action, Action::Claim(claim) if claim.tick == mark(5))
    ));
}

#[test]
fn what_is_won_for_a_term_that_is_over_is_given_back() {
    for again in [false, true] {
        for marks in [Marks::Stored, Marks::OfTheTerm] {
            let mut node = Node::claiming(marks);
            node.follow();
            if again {
                assert!(node.lead(MINUTE + 1).is_empty(), "its answer comes first");
            }
            let actions = node.won(MINUTE + 2, mark(0));
            assert!(has(&actions, |action| matches!(action, Action::Undo)), "{actions:?}");
            assert!(!has(&actions, |action| matches!(action, Action::Start { .. })));
            let next = node.on(MINUTE + 3, Input::Released);
            assert_eq!(has(&next, |action| matches!(action, Action::Enroll)), again, "{next:?}");
        }
    }
}

#[test]
fn any_other_answer_of_a_term_that_is_over_means_nothing() {
    let mut node = Node::claiming(Marks::Stored);
    node.follow();
    let busy = Answer::Busy { tick: Some(mark(1)), remaining: None, owner: None };
    assert!(is_quiet(&node.on(MINUTE + 1, Input::Answer(busy))));
    assert!(node.plan.is_idle());
    assert_eq!(node.plan.next_wake(), None);
}

#[test]
fn an_enrolment_of_a_term_that_is_over_is_made_again() {
    let mut node = Node::new(Marks::OfTheTerm, Delivery::AtMostOnce);
    node.lead(0);
    node.follow();
    assert!(node.lead(MINUTE * 3).is_empty(), "the first answer is awaited");
    let actions = node.enrolled(MINUTE * 3, mark(0), mark(0));
    assert!(matches!(actions[..], [Action::Enroll]), "{actions:?}");
    let actions = node.enrolled(MINUTE * 3 + 1, mark(3), mark(3));
    assert!(!has(&actions, |action| matches!(action, Action::Claim(_))), "{actions:?}");
    assert_eq!(node.plan.next_wake(), Some(at(MINUTE * 4)));
}

#[test]
fn a_run_of_before_keeps_its_job_from_running_beside_it() {
    for marks in [Marks::Stored, Marks::OfTheTerm] {
        let mut node = Node::running(marks);
        assert!(is_quiet(&node.follow()), "the run goes on");
        assert!(!node.plan.is_idle());
        assert!(node.lead(MINUTE * 2).is_empty());
        assert!(decisions(node.plan.wake(at(MINUTE * 3 + 1))).is_empty());
        let actions = node.run_ended(MINUTE * 3 + 2, true);
        let released = actions.iter().find_map(|action| match action {
            Action::Release(after) => Some(*after),
            _ => None,
        });
        // Its lease kept everybody from the ticks since, if others see it; else they were started by another leader.
        let expected = match marks {
            Marks::Stored => MarkAfter::DoneAndSkip(mark(3)),
            Marks::OfTheTerm => MarkAfter::Done,
        };
        assert_eq!(released, Some(expected));
        assert!(matches!(node.on(MINUTE * 3 + 3, Input::Released)[..], [Action::Enroll]));
    }
}

#[test]
fn a_term_with_marks_of_its_own_starts_after_its_own_beginning() {
    let mut node = Node::running(Marks::OfTheTerm);
    node.run_ended(MINUTE + 1, true);
    node.on(MINUTE + 2, Input::Released);
    node.follow();
    node.lead(MINUTE * 7 + 1);
    let actions = node.enrolled(MINUTE * 7 + 1, mark(7), mark(7));
    let told = has(
        &actions,
        |action| matches!(action, Action::Report(What::Enrolled { mark: at }) if *at == mark(7)),
    );
    assert!(told, "a take-over is no loss of memory: {actions:?}");
    assert!(!has(&actions, |action| matches!(action, Action::Claim(_))));
    assert_eq!(node.plan.next_wake(), Some(at(MINUTE * 8)));
    // And it says "started", not "claimed".
    decisions(node.plan.wake(at(MINUTE * 8)));
    let actions = node.won(MINUTE * 8, mark(7));
    assert!(has(&actions, |action| matches!(action, Action::Start { .. })));
    assert!(!has(&actions, |action| matches!(action, Action::Report(What::Claimed { .. }))));
}

#[test]
fn another_leaders_schedule_is_no_loss_of_memory_but_a_loss_is() {
    for lost in [false, true] {
        let mut node = Node::running(Marks::Stored);
        node.run_ended(MINUTE + 1, true);
        node.on(MINUTE + 2, Input::Released);
        node.follow();
        if lost {
            node.on(MINUTE + 3, Input::Forgot);
        }
        node.lead(MINUTE * 5);
        let actions = node.enrolled(MINUTE * 5, mark(5), mark(4));
        let told = has(&actions, |action| matches!(action, Action::Report(What::Forgot { .. })));
        assert_eq!(told, lost, "{actions:?}");
    }
}

#[test]
fn stopping_undoes_what_was_asked_for_before_too() {
    let mut node = Node::claiming(Marks::Stored);
    node.follow();
    node.plan.stop();
    assert!(!node.plan.is_idle());
    assert!(has(&node.won(MINUTE + 1, mark(0)), |action| matches!(action, Action::Undo)));
    assert!(is_quiet(&node.on(MINUTE + 2, Input::Released)));
    assert!(node.plan.is_idle());
}
