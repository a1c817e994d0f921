//! Generated histories: every legal one is clean, and one illegal edit anywhere is caught.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use solocron_testkit::history::{
    Claim, Event, History, Invariant, KILL, Meta, Outcome, Report, Rules, STOP, Schedule, What,
    check,
};

const MS: u64 = 1_000_000;
const NODES: [&str; 3] = ["a", "b", "c"];

/// What becomes of one tick; the next one is due 1000 ms later.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Ran,
    /// Two attempts under one claim.
    Retried,
    /// Given back, then run by another node.
    Undone,
    Missed,
    Skipped,
    Abandoned,
    /// Its node dies with it, and boots again.
    KilledRunning,
    KilledBeforeStart,
    /// Its node is stopped, another one runs it again, and the sleeper is refused once.
    Slept,
}

#[derive(Debug, Clone)]
struct Tick {
    fate: Fate,
    node: usize,
    late: u64,
    lasts: u64,
    effects: u64,
    fence_step: u64,
}

fn tick() -> impl Strategy<Value = Tick> {
    use Fate::{
        Abandoned, KilledBeforeStart, KilledRunning, Missed, Ran, Retried, Skipped, Slept, Undone,
    };
    let special =
        [Retried, Undone, Missed, Skipped, Abandoned, KilledRunning, KilledBeforeStart, Slept];
    let fate = prop_oneof![2 => Just(Ran), 1 => prop::sample::select(special.to_vec())];
    (fate, 0..3_usize, 0..100_u64, 2..200_u64, 0..3_u64, 1..5_u64).prop_map(
        |(fate, node, late, lasts, effects, fence_step)| Tick {
            fate,
            node,
            late,
            lasts,
            effects,
            fence_step,
        },
    )
}

#[derive(Debug, Default)]
struct Story {
    events: Vec<Event>,
    fence: u64,
}

impl Story {
    fn of(ticks: &[Tick]) -> Self {
        let mut story = Self { events: vec![], fence: 10 };
        let jobs = BTreeMap::from([("j".to_owned(), Schedule::Every { period_ms: 1000 })]);
        story.at(
            0,
            "harness",
            What::Meta(Meta { wall_ms: 0, grace_ms: 300, settle_ms: 100, jobs }),
        );
        NODES.iter().for_each(|node| story.at(0, node, What::Boot));
        let mut due = 0;
        for tick in ticks {
            due += 1000;
            story.tell(due, tick);
        }
        NODES.iter().for_each(|node| story.at(due + 900, node, What::Bye));
        story
    }

    fn at(&mut self, ms: u64, node: &str, what: What) {
        self.events.push(Event { t: ms * MS, node: node.to_owned(), pid: 1, what });
    }

    fn win(&mut self, ms: u64, node: &str, tick: i64, step: u64) -> Claim {
        self.fence += step;
        let claim = Claim::new("j", tick, self.fence);
        self.at(
            ms,
            node,
            What::Grant { claim: claim.clone(), asked: (ms - 1) * MS, answered: ms * MS - 1 },
        );
        claim
    }

    fn attempt(
        &mut self,
        ms: u64,
        node: &str,
        claim: &Claim,
        attempt: u32,
        tick: &Tick,
        outcome: Option<Outcome>,
    ) {
        let claim = claim.clone();
        self.at(ms, node, What::Start { claim: claim.clone(), attempt });
        for n in 1..=tick.effects {
            self.at(ms + 1, node, What::Effect { claim: claim.clone(), n });
        }
        if let Some(outcome) = outcome {
            self.at(ms + tick.lasts, node, What::Over { claim, outcome });
        }
    }

    fn tell(&mut self, due: u64, tick: &Tick) {
        let (node, other) = (NODES[tick.node], NODES[(tick.node + 1) % 3]);
        let (from, at) = (due + tick.late, due.cast_signed());
        let (job, of, on) = ("j".to_owned(), node.to_owned(), |kind: &str| kind.to_owned());
        let win = |story: &mut Self, ms, node| story.win(ms, node, at, tick.fence_step);
        match tick.fate {
            Fate::Ran => {
                let claim = win(self, from, node);
                self.attempt(from, node, &claim, 1, tick, Some(Outcome::End));
            }
            Fate::Retried => {
                let claim = win(self, from, node);
                self.attempt(from, node, &claim, 1, tick, Some(Outcome::Panic));
                self.attempt(from + tick.lasts, node, &claim, 2, tick, Some(Outcome::End));
            }
            Fate::Undone => {
                let claim = win(self, from, node);
                self.at(from + 1, node, What::Undo { claim });
                let claim = win(self, from + 2, other);
                self.attempt(from + 2, other, &claim, 1, tick, Some(Outcome::End));
            }
            Fate::Missed => self.at(due + 350, node, What::Missed { job, tick: at }),
            Fate::Skipped => {
                self.at(due + 350, node, What::Skipped { job, tick: at, why: "held up".to_owned() })
            }
            Fate::Abandoned => self.at(due + 350, node, What::Abandoned { job, tick: at }),
            Fate::KilledRunning | Fate::KilledBeforeStart => {
                let claim = win(self, from, node);
                if matches!(tick.fate, Fate::KilledRunning) {
                    self.attempt(from, node, &claim, 1, tick, None);
                }
                self.at(from + tick.lasts, "harness", What::Fault { kind: on(KILL), node: of });
                self.at(due + 700, node, What::Boot);
            }
            Fate::Slept => {
                let claim = win(self, from, node);
                self.attempt(from, node, &claim, 1, tick, None);
                self.at(from + 2, "harness", What::Fault { kind: on(STOP), node: of.clone() });
                let again = win(self, from + 202, other);
                self.attempt(from + 202, other, &again, 2, tick, Some(Outcome::End));
                self.at(due + 600, "harness", What::Heal { kind: on(STOP), node: of });
                self.at(
                    due + 601,
                    node,
                    What::Effect { claim: claim.clone(), n: tick.effects + 1 },
                );
                self.at(due + 602, node, What::Over { claim, outcome: Outcome::Lost });
            }
        }
    }

    fn judged(self, more: fn(Rules) -> Rules) -> Report {
        let history = History::new(self.events).unwrap();
        let rules = Rules::of(&history).holder_ttl(Duration::from_millis(200)).at_least_ran(0.0);
        check(&history, &more(rules))
    }

    fn places(&self, is: impl Fn(&What) -> bool) -> Vec<usize> {
        (0..self.events.len()).filter(|i| is(&self.events[*i].what)).collect()
    }
}

fn ids(report: &Report) -> BTreeSet<Invariant> {
    report.violations.iter().map(|violation| violation.id).collect()
}

fn same(rules: Rules) -> Rules {
    rules
}

fn ticks() -> impl Strategy<Value = Vec<Tick>> {
    prop::collection::vec(tick(), 1..25)
}

/// The ticks, and one among them that simply ran.
fn ticks_and_one_that_ran() -> impl Strategy<Value = (Vec<Tick>, usize)> {
    (ticks(), any::<Index>()).prop_map(|(mut ticks, index)| {
        let one = index.index(ticks.len());
        ticks[one].fate = Fate::Ran;
        (ticks, one)
    })
}

proptest! {
    #[test]
    fn any_legal_history_is_clean_and_every_tick_is_counted(ticks in ticks()) {
        let report = Story::of(&ticks).judged(same);
        prop_assert!(report.is_clean(), "{}", report);
        let of = |is: fn(&Fate) -> bool| ticks.iter().filter(|tick| is(&tick.fate)).count();
        let ledger = &report.ledger;
        prop_assert_eq!(ledger.due, ticks.len());
        prop_assert_eq!(ledger.pending, 0);
        prop_assert_eq!(ledger.ran_again, of(|fate| matches!(fate, Fate::Retried | Fate::Slept)));
        prop_assert_eq!(ledger.interrupted, of(|fate| matches!(fate, Fate::KilledRunning)));
        prop_assert_eq!(ledger.excused.values().sum::<usize>(), of(|fate| matches!(fate, Fate::KilledBeforeStart)));
        let reported = ledger.missed + ledger.skipped + ledger.abandoned;
        prop_assert_eq!(reported, of(|fate| matches!(fate, Fate::Missed | Fate::Skipped | Fate::Abandoned)));
        let settled = ledger.ran_once + ledger.ran_again + reported + ledger.excused.values().sum::<usize>();
        prop_assert_eq!(settled, ledger.due);
    }

    #[test]
    fn a_start_written_twice_is_caught((ticks, _) in ticks_and_one_that_ran(), any in any::<Index>()) {
        let mut story = Story::of(&ticks);
        let starts = story.places(|what| matches!(what, What::Start { .. }));
        let at = *any.get(&starts);
        story.events.insert(at, story.events[at].clone());
        prop_assert_eq!(ids(&story.judged(same)), [Invariant::Once].into());
    }

    #[test]
    fn a_lower_fence_is_caught((mut ticks, one) in ticks_and_one_that_ran()) {
        ticks.insert(0, Tick { fate: Fate::Ran, ..ticks[0].clone() });
        ticks[one + 1].effects = 1; // a second one would be refused, and break I1 too
        let mut story = Story::of(&ticks);
        let tick = (one as i64 + 2) * 1000;
        for event in &mut story.events {
            if let What::Grant { claim, .. } | What::Start { claim, .. } | What::Effect { claim, .. }
                | What::Over { claim, .. } = &mut event.what && claim.tick == tick
            {
                claim.fence = 1;
            }
        }
        prop_assert_eq!(ids(&story.judged(same)), [Invariant::Fences].into());
    }

    #[test]
    fn a_tick_dropped_by_a_healthy_fleet_is_caught((ticks, one) in ticks_and_one_that_ran()) {
        let mut story = Story::of(&ticks);
        let tick = (one as i64 + 1) * 1000;
        story.events.retain(|event| event.what.claim().is_none_or(|claim| claim.tick != tick));
        let report = story.judged(same);
        prop_assert_eq!(ids(&report), [Invariant::NoneLost].into());
        prop_assert_eq!(report.ledger.lost, 1);
    }

    #[test]
    fn an_overlap_is_caught((mut ticks, one) in ticks_and_one_that_ran()) {
        ticks.retain(|tick| !matches!(tick.fate, Fate::Slept)); // legal only on a store
        let before = ticks.len();
        ticks.push(Tick { fate: Fate::Ran, ..ticks[one.min(before - 1)].clone() });
        let mut story = Story::of(&ticks);
        // The first run that is followed by another one ends only after that has begun.
        let overs = story.places(|what| matches!(what, What::Over { outcome: Outcome::End, .. }));
        let starts = story.places(|what| matches!(what, What::Start { .. }));
        let Some((over, start)) = overs.iter().find_map(|over| Some((*over, *starts.iter().find(|start| *start > over)?)))
        else { return Ok(()) };
        let mut late = story.events.remove(over);
        late.t = story.events[start - 1].t + 1;
        story.events.insert(start, late);
        prop_assert_eq!(ids(&story.judged(Rules::process_bound)), [Invariant::StrictExclusion].into());
    }

    #[test]
    fn a_leak_is_caught(ticks in ticks()) {
        let mut story = Story::of(&ticks);
        story.at(ticks.len() as u64 * 1000 + 950, "harness", What::Leak { what: "j".to_owned() });
        prop_assert_eq!(ids(&story.judged(same)), [Invariant::NoLeak].into());
    }
}
