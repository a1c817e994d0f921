//! Every order of events in a small fleet: no promise is broken, and without any one rule some promise is.

use solocron::lock::Rule;
use solocron_testkit::check::Fault::{
    Crash, Cut, Delete, Late, LostReply, LostRequest, Pause, Slow, Stop, Wipe,
};
use solocron_testkit::check::{Config, Fault, search};

const ALL: [Fault; 9] = [LostRequest, LostReply, Late, Slow, Crash, Pause, Cut, Stop, Wipe];

/// Searches all of it; prints how much that was.
fn holds(cfg: &Config) {
    let searched = search(cfg);
    let (states, steps, ends) = (searched.states, searched.steps, searched.ends);
    eprintln!("{:40} {states:>9} states {steps:>9} steps {ends:>7} ends of paths", cfg.name);
    if let Some(found) = searched.found {
        panic!("{}:\n{found}", cfg.name);
    }
    assert!(ends > 0, "{}: no path came to its end", cfg.name);
}

/// Searches without the rule until a promise is broken; prints how.
fn breaks_without(rule: Rule, cfg: &Config) {
    let searched = rule.without(|| search(cfg));
    let found = searched.found.unwrap_or_else(|| {
        panic!("{} states without {rule:?}, and nothing is wrong", searched.states)
    });
    eprintln!("without {rule:?}, after {} steps:\n{found}", found.length);
}

#[test]
fn with_all_rules_nothing_is_lost_or_doubled_under_any_one_fault() {
    holds(&Config::new("any fault", &ALL, 1));
    holds(&Config::new("any fault, no pushes", &ALL, 1).without_pushes());
    holds(&Config::new("any fault, long runs", &ALL, 1).longest_run(4));
    holds(&Config::new("any fault, at least once", &ALL, 1).at_least_once(2));
    holds(&Config::new("any fault, run all", &ALL, 1).run_all().longest_run(4));
}

#[test]
fn with_all_rules_nothing_is_lost_or_doubled_where_clocks_are_wrong() {
    holds(&Config::new("a fast clock", &ALL, 1).skew(&[0, 1]));
    holds(&Config::new("a slow clock", &ALL, 1).skew(&[0, -1]));
    holds(&Config::new("fast and slow, long runs", &ALL, 1).skew(&[1, -1]).longest_run(4));
    holds(&Config::new("one node, far ahead", &ALL, 2).skew(&[2]).longest_run(4));
}

#[test]
fn with_all_rules_nothing_is_lost_or_doubled_under_several_faults() {
    holds(&Config::new("three messages", &[LostRequest, LostReply, Late], 2).ticks(&[2]));
    holds(&Config::new("a late question", &[LostRequest, Stop], 2));
    holds(&Config::new("processes", &[Crash, Pause, Stop], 2));
    holds(&Config::new("three crashes", &[Crash], 3).boots(1).at_least_once(2).ticks(&[2]));
    holds(&Config::new("one node, anything", &ALL, 3).skew(&[0]).ticks(&[2]));
    holds(&Config::new("a late copy, at least once", &[Late, Crash], 2).at_least_once(2));
    holds(&Config::new("amnesia", &[Wipe, Late], 2).ticks(&[2, 7]));
}

#[test]
fn with_all_rules_two_jobs_and_three_nodes_are_safe() {
    let other = Config::new("", &[], 0).run_all().ticks(&[2]);
    holds(&Config::new("two jobs", &[Crash, LostReply], 1).ticks(&[2]).and(other));
    holds(&Config::new("three nodes", &[Crash, Stop], 1).skew(&[0, 0, 0]).ticks(&[2]));
}

/// The configuration in which the bug that a rule prevents is within reach, one test a rule.
macro_rules! without {
    ($($test:ident: $rule:ident => $cfg:expr;)*) => {
        const TESTED: &[Rule] = &[$(Rule::$rule),*];
        $(#[test]
        fn $test() {
            breaks_without(Rule::$rule, &$cfg);
        })*
    };
}

without! {
    without_marks_a_tick_runs_twice: Mark => Config::new("", &[], 0);
    without_refused_nonces_a_late_copy_wins: RefusedNonce => Config::new("", &[Late, LostRequest, LostReply], 2);
    without_the_nonce_first_a_resent_request_is_stale: NonceBeforeStale => Config::new("", &[LostReply], 1);
    without_early_a_fast_node_runs_before_time: Early => Config::new("", &[], 0).skew(&[1, 0]);
    without_enrolling_a_deleted_record_grants_an_old_tick: Enrolled => Config::new("", &[Delete, Late], 2);
    without_the_mark_on_win_a_crashed_run_runs_again: MarkOnWin => Config::new("", &[Crash], 1);
    without_the_mark_back_an_undone_tick_is_lost: MarkBackOnUndo => Config::new("", &[Stop], 1);
    without_revoking_after_the_end_a_tick_is_lost: RevokeAfterEnd => Config::new("", &[LostReply, LostRequest], 2).ttl(2).ticks(&[2, 9]);
    without_behind_an_unfinished_tick_is_passed_over: Behind => Config::new("", &[Crash, Pause], 2).at_least_once(2);
    without_a_bound_attempts_go_on: BoundedAttempts => Config::new("", &[Crash, Cut], 2).at_least_once(2).boots(1);
    without_the_owner_check_a_sleeper_frees_another_lock: OwnerCheck => Config::new("", &[Pause], 1).longest_run(4).ticks(&[2, 5, 7]);
    without_the_store_clock_a_fast_node_skips_what_did_not_overlap: SkipUpToStoreClock => Config::new("", &[], 0).skew(&[1, 0]);
    without_the_start_a_release_skips_what_was_due_before_it: SkipFromStart => Config::new("", &[LostRequest], 2).ticks(&[2, 3]);
    without_asking_the_policy_a_release_skips_what_it_wants: SkipNothingWanted => Config::new("", &[], 0).run_all().longest_run(4);
    without_the_clock_a_fence_falls_back: FenceFromClock => Config::new("", &[Wipe], 1);
    without_beginning_now_a_forgotten_tick_runs_again: ForgottenBeginsNow => Config::new("", &[Wipe, Late], 2);
    without_the_wait_a_forgotten_lease_overlaps: ForgottenWaits => Config::new("", &[Wipe, Cut], 2).longest_run(4);
    without_waiting_for_the_busy_a_dead_holder_costs_a_tick: BusyIsProvisional => Config::new("", &[Crash], 1).longest_run(4).at_least_once(2);
    without_waiting_for_the_claimed_an_undone_tick_is_lost: ClaimIsProvisional => Config::new("", &[Stop], 1);
    without_the_same_nonce_an_answer_lost_is_a_tick_lost: SameNonce => Config::new("", &[LostReply], 1);
    without_counting_from_the_first_send_two_trust_their_lease: DeadlineFromSend => Config::new("", &[LostReply, Slow, Cut], 3).ticks(&[2, 6]).longest_run(6);
}

#[test]
fn every_rule_has_its_test() {
    for rule in Rule::ALL {
        assert!(TESTED.contains(&rule), "{rule:?}");
    }
}
