//! A simulated fleet of real schedulers keeps its promises for an hour, whatever the seed; without a rule it soon does not.

use std::sync::atomic::{AtomicU64, Ordering};

use solocron::lock::Rule;
use solocron_testkit::sim::{Judged, Profile, run};

/// Simulates these seeds on two threads; answers with what was broken first.
fn first_broken(seeds: u64, profile: Profile) -> Option<Judged> {
    let next = AtomicU64::new(0);
    let work = || {
        std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
            .take_while(|seed| *seed < seeds)
            .map(|seed| run(seed, profile))
            .find(|judged| !judged.is_clean())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mine = work();
        mine.or(other.join().expect("a simulation does not panic"))
    })
}

/// How many seeds each profile gets: all of them only where the code is optimized.
const SEEDS: u64 = if cfg!(debug_assertions) { 10 } else { 100 };

#[test]
fn a_fleet_without_faults_runs_every_tick() {
    let judged = run(1, Profile::Calm);
    assert!(judged.is_clean(), "{judged}");
    assert_eq!(judged.ledger.missed + judged.ledger.lost + judged.ledger.abandoned, 0);
    assert!(judged.ledger.runs > 700);
}

#[test]
fn a_fleet_under_faults_keeps_its_promises() {
    if let Some(judged) = first_broken(SEEDS, Profile::Faults) {
        panic!("{judged}");
    }
}

#[test]
fn a_fleet_whose_store_forgets_keeps_its_promises() {
    if let Some(judged) = first_broken(SEEDS, Profile::Wipes) {
        panic!("{judged}");
    }
}

#[test]
fn a_fleet_with_a_leader_under_faults_keeps_its_promises() {
    if let Some(judged) = first_broken(SEEDS, Profile::Leader) {
        panic!("{judged}");
    }
    let ledger = run(0, Profile::Leader).ledger;
    assert!(ledger.kills_of_holders >= 3, "{ledger}");
    assert!((ledger.ran_once + ledger.ran_again) * 4 > ledger.due * 3, "{ledger}");
}

#[test]
fn the_faults_of_a_seed_happen_and_the_ticks_run_nevertheless() {
    let ledger = run(0, Profile::Wipes).ledger;
    for kind in ["kill", "stop", "cut", "wipe", "late", "lost reply", "lost request", "refused"] {
        assert!(ledger.faults.get(kind).is_some_and(|times| *times >= 3), "{kind}: {ledger}");
    }
    assert!(ledger.kills_of_holders >= 5, "{ledger}");
    assert!((ledger.ran_once + ledger.ran_again) * 10 > ledger.due * 9, "{ledger}");
}

/// A seed of the first few in which taking the rule away is seen.
fn fails_without(rule: Rule) {
    let found = rule.without(|| {
        let seeds = (0..30).flat_map(|seed| [(seed, Profile::Faults), (seed, Profile::Wipes)]);
        seeds.map(|(seed, profile)| run(seed, profile)).find(|judged| !judged.is_clean())
    });
    let found = found.unwrap_or_else(|| panic!("nothing is wrong without {rule:?}"));
    let first = found.broken[0].lines().next().unwrap_or_default();
    eprintln!("without {rule:?}, seed {} ({:?}): {first}", found.seed, found.profile);
}

macro_rules! without {
    ($($test:ident: $rule:ident;)*) => { $(#[test]
        fn $test() {
            fails_without(Rule::$rule);
        })*
    };
}

without! {
    a_fleet_without_marks_fails: Mark;
    a_fleet_that_claims_early_fails: Early;
    a_fleet_whose_mark_moves_at_the_end_fails: MarkOnWin;
    a_fleet_without_a_bound_on_attempts_fails: BoundedAttempts;
    a_fleet_whose_fence_is_a_bare_counter_fails: FenceFromClock;
    a_fleet_that_forgets_since_when_it_knows_fails: ForgottenBeginsNow;
    a_fleet_that_gives_a_busy_tick_up_fails: BusyIsProvisional;
}
