//! Hand-made histories: the legal ones are clean, and each broken one is flagged with exactly its
//! invariant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use solocron_testkit::history::{
    Claim, EVERYBODY, Event, Excuse, History, Invariant, KILL, Meta, Outcome, Report, Rules, STOP,
    Schedule, What, check,
};

const GRACE: Duration = Duration::from_millis(300);
const SETTLE: Duration = Duration::from_millis(100);
const MS: u64 = 1_000_000;

/// A history under construction: times are milliseconds, and so are ticks on the same axis.
struct Story(Vec<Event>);

impl Story {
    /// `a` and `b` are up from 0 on; `mail` is due at 1000, 2000, 3000.
    fn new() -> Self {
        let jobs = BTreeMap::from([("mail".to_owned(), Schedule::Every { period_ms: 1000 })]);
        let mut story = Self(vec![]);
        story.at(
            0,
            "harness",
            What::Meta(Meta { wall_ms: 0, grace_ms: 300, settle_ms: 100, jobs }),
        );
        story.at(0, "a", What::Boot).at(0, "b", What::Boot);
        story
    }

    fn at(&mut self, ms: u64, node: &str, what: What) -> &mut Self {
        self.0.push(Event { t: ms * MS, node: node.to_owned(), pid: 1, what });
        self
    }

    fn grant(&mut self, ms: u64, node: &str, tick: i64, fence: u64) -> &mut Self {
        self.at(
            ms,
            node,
            What::Grant { claim: claim(tick, fence), asked: ms * MS, answered: ms * MS + 1 },
        )
    }

    fn start(&mut self, ms: u64, node: &str, tick: i64, fence: u64, attempt: u32) -> &mut Self {
        self.at(ms, node, What::Start { claim: claim(tick, fence), attempt })
    }

    fn effect(&mut self, ms: u64, node: &str, tick: i64, fence: u64) -> &mut Self {
        self.at(ms, node, What::Effect { claim: claim(tick, fence), n: 1 })
    }

    fn over(&mut self, ms: u64, node: &str, tick: i64, fence: u64, outcome: Outcome) -> &mut Self {
        self.at(ms, node, What::Over { claim: claim(tick, fence), outcome })
    }

    /// A whole run with one effect.
    fn run(&mut self, from: u64, until: u64, node: &str, tick: i64, fence: u64) -> &mut Self {
        self.grant(from, node, tick, fence)
            .start(from, node, tick, fence, 1)
            .effect(from, node, tick, fence)
            .over(until, node, tick, fence, Outcome::End)
    }

    fn fault(&mut self, ms: u64, kind: &str, node: &str) -> &mut Self {
        self.at(ms, "harness", What::Fault { kind: kind.to_owned(), node: node.to_owned() })
    }

    fn heal(&mut self, ms: u64, kind: &str, node: &str) -> &mut Self {
        self.at(ms, "harness", What::Heal { kind: kind.to_owned(), node: node.to_owned() })
    }

    /// The runs of all three ticks, but for `skip`.
    fn runs_but(&mut self, skip: &[i64]) -> &mut Self {
        for (tick, node) in [(1000, "a"), (2000, "b"), (3000, "a")] {
            if !skip.contains(&tick) {
                let from = tick.unsigned_abs() + 5;
                self.run(from, from + 100, node, tick, from);
            }
        }
        self
    }

    /// Ends at 3500 and judges by the meta and `more`.
    fn judged(&mut self, more: impl FnOnce(Rules) -> Rules) -> Report {
        self.at(3500, "a", What::Bye).at(3500, "b", What::Bye);
        let history = History::new(self.0.clone()).unwrap();
        check(&history, &more(Rules::of(&history)))
    }
}

fn claim(tick: i64, fence: u64) -> Claim {
    Claim::new("mail", tick, fence)
}

fn same(rules: Rules) -> Rules {
    rules
}

fn lease(rules: Rules) -> Rules {
    rules.holder_ttl(Duration::from_millis(200))
}

#[track_caller]
fn assert_clean(report: &Report) {
    assert!(report.is_clean(), "{report}");
}

/// Each mutant breaks one promise; the others must not be blamed.
#[track_caller]
fn assert_only(report: &Report, id: Invariant) {
    let ids: BTreeSet<_> = report.violations.iter().map(|violation| violation.id).collect();
    assert_eq!(ids, [id].into(), "{report}");
}

#[test]
fn a_plain_history_is_clean_and_counted() {
    let report = Story::new()
        .runs_but(&[])
        .judged(|rules| rules.process_bound().max_attempts(1).at_least_ran(1.0));
    assert_clean(&report);
    let ledger = &report.ledger;
    assert_eq!((ledger.nodes, ledger.due, ledger.ran_once, ledger.runs), (2, 3, 3, 3));
    assert_eq!(
        (ledger.lasted, ledger.worst_lateness),
        (Duration::from_millis(3500), Duration::from_millis(5))
    );
    assert!(ledger.fences_in_order);
    assert!(report.to_string().ends_with("clean: no promise was broken"), "{report}");
}

#[test]
fn i1_two_runs_under_one_fence() {
    let report = Story::new().runs_but(&[]).effect(3200, "b", 3000, 3005).judged(same);
    assert_only(&report, Invariant::Exclusion);
    assert_eq!(report.violations[0].events.len(), 2);
}

#[test]
fn i1_a_late_run_that_does_not_notice() {
    let late = |effects: u64| {
        let mut story = Story::new();
        story.runs_but(&[2000, 3000]).grant(2005, "a", 2000, 2005).start(2005, "a", 2000, 2005, 1);
        story.effect(2006, "a", 2000, 2005).fault(2007, STOP, "a").run(3005, 3100, "b", 3000, 3005);
        story.heal(3200, STOP, "a");
        for n in 0..effects {
            story.effect(3201 + n, "a", 2000, 2005);
        }
        story.over(3300, "a", 2000, 2005, Outcome::Lost).judged(lease)
    };
    let once = late(1);
    assert_clean(&once);
    assert_eq!((once.ledger.refused_effects, once.ledger.overlaps), (1, 1));
    assert_only(&late(2), Invariant::Exclusion);
}

#[test]
fn i1s_an_overlap_where_the_kernel_holds_the_lock() {
    let overlapping = |more: fn(Rules) -> Rules| {
        let mut story = Story::new();
        story.runs_but(&[2000, 3000]).grant(2005, "a", 2000, 2005).start(2005, "a", 2000, 2005, 1);
        story
            .run(3005, 3100, "b", 3000, 3005)
            .over(3055, "a", 2000, 2005, Outcome::End)
            .judged(more)
    };
    let strict = overlapping(Rules::process_bound);
    assert_only(&strict, Invariant::StrictExclusion);
    assert_eq!(strict.ledger.worst_overlap, Duration::from_millis(50));
    assert_clean(&overlapping(same));
}

#[test]
fn i2_a_fence_that_falls() {
    let report = Story::new().runs_but(&[3000]).run(3005, 3100, "b", 3000, 7).judged(same);
    assert_only(&report, Invariant::Fences);
    assert!(!report.ledger.fences_in_order);
}

#[test]
fn i2_a_fence_given_twice() {
    let mut story = Story::new();
    story.runs_but(&[3000]).grant(3005, "b", 3000, 2005).start(3005, "b", 3000, 2005, 1);
    story.over(3006, "b", 3000, 2005, Outcome::End);
    assert_only(&story.judged(same), Invariant::Fences);
}

#[test]
fn i2_one_fence_of_one_leadership_is_legal_only_where_it_is_said() {
    let mut story = Story::new();
    story.runs_but(&[2000, 3000]).run(2005, 2006, "a", 2000, 1005).run(3005, 3006, "a", 3000, 1005);
    assert_clean(&story.judged(Rules::shared_fences));
}

#[test]
fn i2_claims_at_the_same_time_have_no_order() {
    let mut story = Story::new();
    let slow = What::Grant { claim: claim(1000, 1), asked: 1000 * MS, answered: 1100 * MS };
    story.run(1005, 1050, "a", 1000, 2).at(1100, "b", slow).at(
        1101,
        "b",
        What::Undo { claim: claim(1000, 1) },
    );
    assert_clean(&story.runs_but(&[1000]).judged(same));
}

#[test]
fn i3_an_attempt_started_twice() {
    let report = Story::new().runs_but(&[]).start(3150, "a", 3000, 3005, 1).judged(same);
    assert_only(&report, Invariant::Once);
    assert_eq!(report.ledger.ran_again, 1);
}

#[test]
fn i3_a_tick_run_by_two_nodes() {
    assert_only(
        &Story::new().runs_but(&[]).run(3150, 3160, "b", 3000, 3150).judged(same),
        Invariant::Once,
    );
}

#[test]
fn i3_attempts_are_counted_from_one_without_a_gap() {
    let attempts = |attempts: &[u32]| {
        let mut story = Story::new();
        story.runs_but(&[3000]).grant(3005, "a", 3000, 3005);
        for attempt in attempts {
            story.start(3006, "a", 3000, 3005, *attempt).over(
                3007,
                "a",
                3000,
                3005,
                Outcome::Panic,
            );
        }
        story
    };
    assert_clean(&attempts(&[1, 2, 3]).judged(same));
    assert_only(&attempts(&[2]).judged(same), Invariant::Once);
    assert_only(&attempts(&[1, 3]).judged(same), Invariant::Once);
    assert_only(&attempts(&[2, 1]).judged(same), Invariant::Once);
    assert_only(&attempts(&[1, 2]).judged(|rules| rules.max_attempts(1)), Invariant::Once);
}

#[test]
fn i3_a_win_that_was_never_started_uses_up_a_number() {
    let mut story = Story::new();
    story
        .runs_but(&[3000])
        .grant(3005, "a", 3000, 3005)
        .fault(3006, KILL, "a")
        .grant(3210, "b", 3000, 3210);
    story.start(3211, "b", 3000, 3210, 2).over(3212, "b", 3000, 3210, Outcome::End);
    assert_clean(&story.judged(lease));
}

#[test]
fn i4_a_tick_that_nobody_started() {
    let report = Story::new().runs_but(&[2000]).judged(same);
    assert_only(&report, Invariant::NoneLost);
    assert_eq!((report.ledger.due, report.ledger.lost), (3, 1));
}

#[test]
fn i4_a_tick_started_after_its_grace() {
    let report = Story::new().runs_but(&[2000]).run(2401, 2410, "b", 2000, 2401).judged(same);
    assert_only(&report, Invariant::NoneLost);
    assert_clean(&Story::new().runs_but(&[2000]).run(2400, 2410, "b", 2000, 2400).judged(same));
}

#[test]
fn i4_a_tick_that_was_never_due() {
    let report = Story::new().runs_but(&[]).run(2505, 2510, "b", 2500, 2505).judged(same);
    assert_only(&report, Invariant::NoneLost);
}

#[test]
fn i4_a_win_that_a_living_node_keeps_for_itself_excuses_nothing() {
    let report = Story::new().runs_but(&[2000, 3000]).grant(2005, "a", 2000, 2005).judged(lease);
    assert_only(&report, Invariant::NoneLost);
    assert_eq!((report.ledger.lost, report.ledger.never_started), (2, 1));
}

#[test]
fn a_reported_tick_is_not_lost() {
    let (job, tick) = ("mail".to_owned(), 2000);
    for (what, counts) in [
        (What::Missed { job: job.clone(), tick }, (1, 0, 0)),
        (What::Skipped { job: job.clone(), tick, why: "paused by hand".to_owned() }, (0, 1, 0)),
        (What::Abandoned { job, tick }, (0, 0, 1)),
    ] {
        let report = Story::new().runs_but(&[2000]).at(2500, "a", what).judged(same);
        assert_clean(&report);
        let ledger = report.ledger;
        assert_eq!((ledger.missed, ledger.skipped, ledger.abandoned), counts);
    }
}

#[test]
fn a_tick_is_excused_while_no_node_is_healthy_and_not_by_one_sick_node() {
    let sick = |node: &str| {
        Story::new().runs_but(&[2000]).fault(1500, "cut", node).heal(2200, "cut", node).judged(same)
    };
    let report = sick(EVERYBODY);
    assert_clean(&report);
    assert_eq!(report.ledger.excused, [(Excuse::NoHealthyNode, 1)].into());
    assert_only(&sick("a"), Invariant::NoneLost);
}

#[test]
fn a_killed_holder_excuses_its_tick_and_what_its_lease_outlives() {
    let killed_at = |ms: u64| {
        let mut story = Story::new();
        story.runs_but(&[2000, 3000]).grant(ms - 5, "a", 2000, 2005).start(
            ms - 4,
            "a",
            2000,
            2005,
            1,
        );
        story.fault(ms, KILL, "a").judged(|rules| rules.holder_ttl(Duration::from_millis(900)))
    };
    // The lease ends at 3305, after the window of 3000 has ended at 3300; or at 3295, in time for
    // it.
    let report = killed_at(2405);
    assert!(
        report.violations.iter().all(|violation| violation.sentence.contains("tick 2000")),
        "{report}"
    );
    assert_eq!(report.ledger.excused, [(Excuse::CrashedHolder, 1)].into());
    assert_eq!(killed_at(2395).ledger.lost, 1);

    let mut story = Story::new();
    let report =
        story.runs_but(&[2000]).grant(2005, "a", 2000, 2005).fault(2006, KILL, "a").judged(lease);
    assert_eq!(report.ledger.excused, [(Excuse::CrashedHolder, 1)].into());
}

#[test]
fn a_run_that_goes_on_excuses_the_next_tick_but_not_an_earlier_one() {
    let report = Story::new()
        .run(1005, 2050, "a", 1000, 1005)
        .runs_but(&[1000, 2000])
        .judged(Rules::process_bound);
    assert_clean(&report);
    assert_eq!(report.ledger.excused, [(Excuse::Overlap, 1)].into());

    let report = Story::new().run(2005, 2050, "a", 2000, 2005).runs_but(&[1000, 2000]).judged(same);
    assert_only(&report, Invariant::NoneLost);
}

#[test]
fn a_stopped_holder_blocks_for_ever_only_where_the_kernel_holds_the_lock() {
    let stopped = |more: fn(Rules) -> Rules| {
        let mut story = Story::new();
        story.grant(1005, "a", 1000, 1005).start(1006, "a", 1000, 1005, 1).fault(1007, STOP, "a");
        story.heal(3100, STOP, "a").over(3101, "a", 1000, 1005, Outcome::End);
        story.run(3102, 3103, "b", 3000, 3102).judged(more)
    };
    let report = stopped(Rules::process_bound);
    assert_clean(&report);
    assert_eq!(report.ledger.excused, [(Excuse::TroubledHolder, 1)].into());
    assert_only(&stopped(lease), Invariant::NoneLost);
}

#[test]
fn a_tick_whose_window_is_open_at_the_end_is_pending() {
    let mut story = Story::new();
    let report = story.runs_but(&[]).judged(|rules| rules.due("mail", [3200]));
    assert_clean(&report);
    assert_eq!((report.ledger.due, report.ledger.pending), (3, 1));
}

#[test]
fn i7_something_is_left_behind() {
    let mut story = Story::new();
    story.runs_but(&[]).at(3400, "harness", What::Leak { what: "solocron/mail".to_owned() });
    assert_only(&story.judged(same), Invariant::NoLeak);
}

#[test]
fn i7_work_after_the_goodbye() {
    let mut story = Story::new();
    story.runs_but(&[]).at(3300, "a", What::Bye).effect(3301, "a", 3000, 3005);
    assert_only(&story.judged(same), Invariant::NoLeak);
}

#[test]
fn a_history_in_which_too_little_happened_is_void() {
    let report = Story::new().runs_but(&[]).judged(|rules| rules.at_least_faults(KILL, 1));
    assert_only(&report, Invariant::Vacuity);
    let missed = What::Missed { job: "mail".to_owned(), tick: 2000 };
    let report = Story::new()
        .runs_but(&[2000])
        .at(2500, "a", missed)
        .judged(|rules| rules.at_least_ran(0.7));
    assert_only(&report, Invariant::Vacuity);
}

#[test]
fn a_take_over_is_measured_from_the_kill_to_the_start_elsewhere() {
    let mut story = Story::new();
    story.runs_but(&[2000, 3000]).grant(2005, "a", 2000, 2005).start(2006, "a", 2000, 2005, 1);
    story.fault(2010, KILL, "a").at(2050, "a", What::Boot).fault(2100, KILL, "a");
    let report = story.run(3005, 3100, "b", 3000, 3005).judged(lease);
    assert_clean(&report);
    let ledger = &report.ledger;
    assert_eq!((ledger.interrupted, ledger.kills_of_holders, ledger.faults[KILL]), (1, 1, 2));
    assert_eq!(ledger.worst_take_over(), Some(Duration::from_millis(995)));
    assert_eq!(
        (ledger.take_overs[0].killed.as_str(), ledger.take_overs[0].by.as_str()),
        ("a", "b")
    );
}

#[test]
fn a_report_shows_its_violations_and_their_lines() {
    let report =
        Story::new().runs_but(&[3000]).run(3005, 3100, "b", 3000, 7).judged(same).to_string();
    assert!(
        report.contains("I2: `mail` was given the fence 7 after 2005 had been given"),
        "{report}"
    );
    assert!(
        report
            .contains("line 12: t=3005000000 node=b pid=1 event=grant job=mail tick=3000 fence=7"),
        "{report}"
    );
    assert!(report.ends_with("1 violations"), "{report}");
}

#[test]
fn rules_can_be_given_without_a_meta() {
    let mut story = Story::new();
    story.runs_but(&[]).at(3500, "a", What::Bye);
    let rules =
        Rules::new(GRACE, SETTLE).due_within("mail", Duration::from_millis(10), [1000, 2000, 3000]);
    assert_eq!(check(&History::new(story.0).unwrap(), &rules).ledger.ran_once, 3);
}
