//! The scheduler in leader mode, over a backend that keeps marks.

use std::collections::BTreeMap;
use std::time::Duration;

use solocron::lock::Lost;
use solocron::trigger::Every;
use solocron::{
    Cancelled, Context, Coordination, Event, Job, Misfire, MissedWhy, Outcome, Scheduler, What,
};
use tokio::time::Instant;

use super::support::{GROUP, Line, Log, Member, Run, Said, TTL, World, group, in_time, job};

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

fn period_of(tick: jiff::Timestamp) -> i64 {
    tick.as_millisecond() / 10_000
}

/// Every tick between the first and the last run, and how often it was begun.
fn starts(log: &Log) -> BTreeMap<i64, usize> {
    let mut starts = BTreeMap::new();
    for (_, run) in log.begun() {
        *starts.entry(period_of(run.tick)).or_default() += 1;
    }
    starts
}

fn each_once(log: &Log) {
    let starts = starts(log);
    let (first, last) = (*starts.keys().next().unwrap(), *starts.keys().last().unwrap());
    for tick in first..=last {
        assert_eq!(starts.get(&tick), Some(&1), "tick {tick} of {first}..={last}: {starts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_claims_and_every_tick_runs_once() {
    let (world, log) = (World::new(), Log::default());
    let names = [("a", 0), ("b", 1_900), ("c", -1_900)];
    let members = names.map(|(name, skew)| {
        Member::start(world.skewed(name, skew), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(1)))
        })
    });
    tokio::time::sleep(S(300)).await;
    let leaders: Vec<_> = log.lines().into_iter().filter(|line| line.is_elected()).collect();
    let [leader] = &leaders[..] else { panic!("not one leader: {leaders:?}") };
    each_once(&log);
    assert!(log.begun().len() >= 29);
    assert!(log.begun().iter().all(|(node, run)| *node == leader.node && run.number == 1));
    let fences: Vec<_> = log.begun().iter().map(|(_, run)| run.fence).collect();
    assert!(fences.is_sorted_by(|a, b| a < b), "each claim has a fence of its own");
    for ((name, _), member) in names.iter().zip(&members) {
        assert_eq!(member.node.link.claims() == 0, *name != leader.node, "{name}");
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_followed_within_a_ttl_and_no_tick_is_lost_or_doubled() {
    let (world, log) = (World::new(), Log::default());
    let all = Misfire::all(S(60));
    let start = |name: &'static str, skew| {
        let node = world.skewed(name, skew);
        Member::start(node, name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(1)).misfire(all))
        })
    };
    let a = start("a", 500);
    log.elected("a").await;
    let _others = (start("b", -500), start("c", 1_500));
    tokio::time::sleep(S(95)).await;
    a.node.kill();
    let killed = Instant::now();
    let next = log.until("a new leader", |line| line.is_elected() && line.node != "a").await;
    assert!(next.at - killed <= TTL + Duration::from_millis(50), "{:?}", next.at - killed);
    tokio::time::sleep(S(60)).await;
    each_once(&log);
    assert!(starts(&log).len() >= 15);
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_hands_over_at_once_and_its_runs_end_in_peace() {
    let (world, log) = (World::new(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            let said = log.clone();
            let brief = Job::new("brief", Every::new(S(1)).unwrap(), move |ctx: Context| {
                said.say(name, Said::Told(run_of(&ctx), Cancelled::Shutdown));
                async {}
            });
            scheduler.job(job(name, &log, S(10), S(9))).job(brief)
        })
    };
    let a = start("a");
    log.elected("a").await;
    let b = start("b");
    log.until("b to follow", |line| {
        line.node == "b"
            && matches!(line.what(), Some(What::Follows { leader }) if leader.as_str() == "a")
    })
    .await;
    log.until("a run", |line| matches!(line.said, Said::Begin(_))).await;
    let asked = Instant::now();
    a.stop().await;
    let ended = log.until("its end", |line| matches!(line.said, Said::End(_))).await;
    assert!(ended.at - asked > S(8), "it was drained, and not told that its node has resigned");
    let resigned =
        log.until("a to resign", |line| matches!(line.what(), Some(What::Resigned { .. }))).await;
    let elected = log.elected("b").await;
    assert!(
        resigned.at - asked < MS(50) && elected.at - asked < MS(50),
        "{:?}",
        elected.at - asked
    );
    let meanwhile = log.lines().into_iter().filter(|line| {
        line.node == "b" && line.at < ended.at && matches!(line.said, Said::Told(..))
    });
    assert!(meanwhile.count() >= 8, "every second has its run while the old leader drains");
    assert!(!log.lines().iter().any(|line| matches!(line.what(), Some(What::Deposed { .. }))));
    tokio::time::sleep(S(30)).await;
    each_once(&log);
    b.stop().await;
}

fn run_of(ctx: &Context) -> Run {
    Run { tick: ctx.tick(), fence: ctx.fence(), number: ctx.run_number() }
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leaders_run_is_told_and_its_tick_is_not_run_again() {
    let (world, log) = (World::new(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(8)))
        })
    };
    let a = start("a");
    log.elected("a").await;
    let b = start("b");
    log.until("a run", |line| matches!(line.said, Said::Begin(_))).await;
    tokio::time::sleep(S(1)).await;
    world.memory.expire(&group());
    let told = log.until("the run to be told", |line| matches!(line.said, Said::Told(..))).await;
    let Said::Told(run, why) = told.said else { unreachable!() };
    assert_eq!(why, Cancelled::LeadershipLost(Lost::TakenOver));
    log.until("a to be deposed", |line| {
        matches!(line.what(), Some(What::Deposed { why: Lost::TakenOver, .. }))
    })
    .await;
    tokio::time::sleep(S(60)).await;
    assert_eq!(log.begun().iter().filter(|(_, other)| other.tick == run.tick).count(), 1);
    let finished = log.lines().into_iter().find_map(|line| match line.what() {
        Some(What::Finished { fence, outcome, .. }) if *fence == run.fence => Some(outcome.clone()),
        _ => None,
    });
    assert_eq!(finished, Some(Outcome::Cancelled(why)));
    let abandoned = log.lines().iter().any(
        |line| matches!(line.what(), Some(What::Abandoned { tick, .. }) if tick.timestamp() == run.tick),
    );
    assert!(abandoned, "the next leader tells of it");
    for member in [a, b] {
        member.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_waits_for_a_run_of_the_old_one() {
    // A run that does not listen, and a leader that is deposed while the job's own lease goes on.
    let (world, log) = (World::new(), Log::default());
    let start = |name: &'static str| {
        let said = log.clone();
        let work = move |ctx: Context| {
            let said = said.clone();
            async move {
                let run = Run { tick: ctx.tick(), fence: ctx.fence(), number: ctx.run_number() };
                said.say(name, Said::Begin(run));
                tokio::time::sleep(Duration::from_millis(900)).await; // within its notice
                said.say(name, Said::End(run));
            }
        };
        let every = Every::new(S(1)).unwrap();
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(Job::new("job", every, work))
        })
    };
    let members = [start("a"), start("b"), start("c")];
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(1_234)).await;
        world.memory.expire(&group());
    }
    tokio::time::sleep(S(5)).await;
    let mut inside = None;
    for line in log.lines() {
        match line.said {
            Said::Begin(run) => {
                assert_eq!(inside.replace(run), None, "two runs at a time: {:#?}", log.lines())
            }
            Said::End(run) => assert_eq!(inside.take(), Some(run)),
            _ => {}
        }
    }
    let elections = log.lines().iter().filter(|line| line.is_elected()).count();
    assert!(elections > 30, "{elections}");
    assert!(starts(&log).len() > 3 && log.begun().len() > 20, "{}", log.begun().len());
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_take_over_tells_what_was_missed_and_why() {
    let (world, log) = (World::new(), Log::default());
    let brief = Misfire::latest().grace(S(2));
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), Duration::ZERO).misfire(brief))
        })
    };
    let a = start("a");
    log.until("a run", |line| matches!(line.said, Said::Begin(_))).await;
    // Due ten seconds after the run: dead then, and its lease ends four seconds later, when the grace is over.
    tokio::time::sleep(S(9)).await;
    a.node.kill();
    let _b = start("b");
    log.elected("b").await;
    let missed =
        log.until("the report", |line| matches!(line.what(), Some(What::Missed { .. }))).await;
    assert!(matches!(missed.what(), Some(What::Missed { why: MissedWhy::NobodyThere, .. })));
    assert_eq!(missed.node, "b");
    log.until("its next run", |line| line.node == "b" && matches!(line.said, Said::Begin(_))).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_starts_nothing_and_the_next_one_does() {
    let (world, log) = (World::new(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(1)).misfire(Misfire::all(S(60))))
        })
    };
    let a = start("a");
    log.elected("a").await;
    let _b = start("b");
    tokio::time::sleep(S(40)).await;
    a.node.link.set_cut(true);
    let cut = Instant::now();
    let elected = log.elected("b").await;
    assert!(elected.at - cut <= TTL + Duration::from_millis(50));
    tokio::time::sleep(S(60)).await;
    let deposed = |line: &Line| {
        line.node == "a" && matches!(line.what(), Some(What::Deposed { why: Lost::Expired, .. }))
    };
    let deposed = log.until("a to know", deposed).await;
    assert!(deposed.at < elected.at, "before anybody else leads");
    let late = log.lines().into_iter().any(|line| {
        line.node == "a" && line.at > deposed.at && matches!(line.said, Said::Begin(_))
    });
    assert!(!late, "a follower starts nothing");
    let trouble = |line: &&Line| {
        line.node == "a"
            && line.at >= deposed.at
            && matches!(&line.said, Said::Event(Event { job, what: What::BackendFailed { .. } }) if *job == group())
    };
    assert_eq!(log.lines().iter().filter(trouble).count(), 1, "it is told once");
    each_once(&log);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_runtime_is_blocked_hands_over_and_comes_back_when_it_moves() {
    let (world, log) = (World::new(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(1)))
        })
    };
    let terms = |name| log.lines().iter().filter(|l| l.node == name && l.is_elected()).count();
    let a = start("a");
    log.elected("a").await;
    let b = start("b");
    tokio::time::sleep(S(45)).await;
    // The loop and the runs stand still; what renews leases does not.
    a.node.runs.freeze();
    let blocked = Instant::now();
    let elected = log.elected("b").await;
    let (limit, waited) = (S(10).max(TTL), elected.at - blocked);
    assert!(waited >= limit - S(1) && waited <= limit * 5 / 4 + limit / 4, "{waited:?}");
    tokio::time::sleep(S(60)).await;
    b.stop().await;
    tokio::time::sleep(S(60)).await;
    let held = |now| world.memory.record(&group()).unwrap().holder(now, true).is_some();
    assert!(!held(jiff::Timestamp::MIN), "it does not campaign while it stands still");
    a.node.runs.thaw();
    let again = Instant::now();
    in_time("a to lead again", async {
        while terms("a") < 2 {
            tokio::time::sleep(MS(1)).await;
        }
    })
    .await;
    assert!(again.elapsed() < S(3), "{:?}", again.elapsed());
    let resigned = |line: &Line| {
        line.node == "a" && line.at >= again && matches!(line.what(), Some(What::Resigned { .. }))
    };
    assert!(log.lines().iter().any(resigned), "it is told what happened meanwhile");
    tokio::time::sleep(S(30)).await;
    let twice = starts(&log).into_values().filter(|starts| *starts != 1).count();
    assert_eq!(twice, 0, "{:#?}", log.begun());
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_whole_process_is_no_blocked_runtime() {
    let (world, log) = (World::new().process_bound(), Log::default());
    let a = Member::start(world.node("a"), "a", &log, |scheduler| {
        scheduler.job(job("a", &log, S(10), S(1)))
    });
    log.elected("a").await;
    for seconds in [11, 60, 3_600] {
        tokio::time::sleep(S(25)).await;
        a.node.tasks.freeze();
        a.node.runs.freeze();
        tokio::time::sleep(S(seconds)).await;
        // What renews and campaigns goes first.
        a.node.tasks.thaw();
        tokio::time::sleep(MS(100)).await;
        a.node.runs.thaw();
    }
    tokio::time::sleep(S(25)).await;
    let over =
        |line: &Line| matches!(line.what(), Some(What::Resigned { .. } | What::Deposed { .. }));
    assert!(!log.lines().iter().any(over), "{:#?}", log.lines());
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_is_dropped_gives_the_leadership_back() {
    let (world, log) = (World::new(), Log::default());
    let node = world.node("a");
    let scheduler = Scheduler::builder(node.locks.clone())
        .coordination(Coordination::leader(GROUP))
        .spawner(node.tasks.keeper())
        .job(job("a", &log, S(10), S(5)))
        .build()
        .unwrap();
    let begun = log.until("a run", |line| matches!(line.said, Said::Begin(_)));
    tokio::select! {
        _ = scheduler.run_until(std::future::pending::<()>()) => unreachable!("nothing stops it"),
        _ = begun => {}
    }
    let dropped = Instant::now();
    let _b = Member::start(world.node("b"), "b", &log, |scheduler| {
        scheduler.job(job("b", &log, S(10), S(1)))
    });
    let elected = log.elected("b").await;
    assert!(elected.at - dropped < Duration::from_millis(50), "{:?}", elected.at - dropped);
    in_time("the rest", node.locks.settled()).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_stops_at_once_and_campaigns_no_more() {
    let (world, log) = (World::new(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(1)))
        })
    };
    let a = start("a");
    log.elected("a").await;
    let b = start("b");
    tokio::time::sleep(S(5)).await;
    let asked = Instant::now();
    b.stop().await;
    assert!(asked.elapsed() < Duration::from_millis(50), "{:?}", asked.elapsed());
    a.stop().await;
    assert!(!log.lines().iter().any(|line| line.node == "b" && line.is_elected()));
    assert!(world.memory.record(&group()).unwrap().holder(jiff::Timestamp::MIN, true).is_none());
}

#[tokio::test]
async fn a_group_needs_a_name() {
    let locks = solocron::Locks::new(solocron::lock::MemoryBackend::new()).unwrap();
    let scheduler = Scheduler::builder(locks).coordination(Coordination::leader(""));
    let error = scheduler.build().unwrap_err().to_string();
    assert!(error.contains("leader group"), "{error}");
}
