//! The scheduler in leader mode, over a backend that keeps no marks: ticks are started by one leader, and claimed by nobody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use solocron::lock::{Delivery, LockOptions, Locks, Lost};
use solocron::trigger::Every;
use solocron::{Cancelled, Context, Coordination, Error, Job, Outcome, Scheduler, What};
use tokio::time::Instant;

use super::support::{GROUP, Log, Member, Run, Said, TTL, World, group, job};

const S: fn(u64) -> Duration = Duration::from_secs;

#[tokio::test(start_paused = true)]
async fn per_tick_is_refused_and_the_leader_is_named_instead() {
    let node = World::without_marks().node("a");
    let work = || Job::new("job", "@hourly", async |_: Context| ());
    let refused = |error: Error, alternative: &str| {
        let text = error.to_string();
        assert!(matches!(error, Error::Lacks { need: "marks", .. }), "{text}");
        assert!(text.contains(alternative), "{text}");
    };
    refused(
        Scheduler::builder(node.locks.clone()).job(work()).build().unwrap_err(),
        "Coordination::leader",
    );
    let again = work().delivery(Delivery::AtLeastOnce { max_attempts: 2 });
    let led = Scheduler::builder(node.locks.clone()).coordination(Coordination::leader(GROUP));
    refused(led.job(again).build().unwrap_err(), "at most once");
    let led = Scheduler::builder(node.locks.clone()).coordination(Coordination::leader(GROUP));
    led.job(work()).build().unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_leader_starts_every_tick_and_its_runs_are_told_apart_by_number() {
    for world in [World::without_marks(), World::without_marks().process_bound()] {
        let log = Log::default();
        let start = |name: &'static str, skew| {
            Member::start(world.skewed(name, skew), name, &log, |scheduler| {
                scheduler.job(job(name, &log, S(10), S(1)))
            })
        };
        let members = [start("a", 0), start("b", 1_500), start("c", -1_500)];
        tokio::time::sleep(S(200)).await;
        let begun = log.begun();
        assert!(begun.len() >= 19, "{begun:?}");
        for (n, pair) in begun.windows(2).enumerate() {
            let [(before, one), (after, two)] = pair else { unreachable!() };
            assert_eq!(before, after);
            assert_eq!(two.tick.duration_since(one.tick).as_secs(), 10);
            assert_eq!((one.fence, one.number), (two.fence, n as u64 + 1));
        }
        let said = |what: &What| matches!(what, What::Claimed { .. });
        assert!(!log.lines().iter().filter_map(|line| line.what()).any(said), "nothing is claimed");
        for member in members {
            member.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_take_over_starts_after_its_own_beginning_with_a_higher_fence() {
    let (world, log) = (World::without_marks(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(1)))
        })
    };
    let a = start("a");
    log.elected("a").await;
    let b = start("b");
    log.until("two runs", |line| matches!(line.said, Said::End(Run { number: 2, .. }))).await;
    // Nine seconds after the start of a run: the next tick falls into the time without a leader.
    tokio::time::sleep(S(8)).await;
    a.node.kill();
    let elected = log.elected("b").await;
    let first = log
        .until("its first run", |line| line.node == "b" && matches!(line.said, Said::Begin(_)))
        .await;
    let Said::Begin(run) = first.said else { unreachable!() };
    assert_eq!(run.number, 1);
    assert!(
        first.at > elected.at && first.at - elected.at > S(1),
        "not what was due before it led"
    );
    let last = log.begun().into_iter().rfind(|(node, _)| *node == "a").unwrap().1;
    assert!(run.fence > last.fence);
    assert_eq!(run.tick.duration_since(last.tick).as_secs(), 20, "one tick had no leader");
    let forgot = |what: &What| matches!(what, What::Forgot { .. } | What::Missed { .. });
    assert!(!log.lines().iter().filter_map(|line| line.what()).any(forgot));
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_is_gone_before_another_leader_can_start_one() {
    let (world, log) = (World::without_marks(), Log::default());
    let start = |name: &'static str| {
        let (said, heard) = (log.clone(), log.clone());
        // Deaf: it does not look at its cancellation.
        let work = move |ctx: Context| {
            let said = said.clone();
            async move {
                struct Gone(Log, &'static str, Run);
                impl Drop for Gone {
                    fn drop(&mut self) {
                        self.0.say(self.1, Said::End(self.2));
                    }
                }
                let run = Run { tick: ctx.tick(), fence: ctx.fence(), number: ctx.run_number() };
                said.say(name, Said::Begin(run));
                let _gone = Gone(said, name, run);
                std::future::pending::<()>().await;
            }
        };
        Member::start(world.node(name), name, &heard, |scheduler| {
            scheduler.job(Job::new("job", Every::new(S(10)).unwrap(), work))
        })
    };
    let a = start("a");
    log.elected("a").await;
    let _b = start("b");
    log.until("a run", |line| matches!(line.said, Said::Begin(_))).await;
    a.node.link.set_cut(true);
    let gone = log.until("its end", |line| matches!(line.said, Said::End(_))).await;
    let elected = log.elected("b").await;
    assert!(gone.at < elected.at, "{:?} before it ended", gone.at - elected.at);
    let why = Cancelled::LeadershipLost(Lost::Expired);
    log.until("the report", |line| {
        matches!(line.what(), Some(What::Finished { outcome, .. }) if *outcome == Outcome::Cancelled(why))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_runtime_is_blocked_keeps_the_lock_until_its_run_is_gone() {
    let (world, log) = (World::without_marks(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(600)))
        })
    };
    let a = start("a");
    log.elected("a").await;
    let _b = start("b");
    log.until("a run", |line| matches!(line.said, Said::Begin(_))).await;
    a.node.runs.freeze();
    tokio::time::sleep(S(120)).await;
    let others = |line: &super::support::Line| line.node == "b" && line.is_elected();
    assert!(!log.lines().iter().any(others), "its run is half done");
    a.node.runs.thaw();
    let told = log.until("its run to be told", |line| matches!(line.said, Said::Told(..))).await;
    let elected = log.elected("b").await;
    assert!(told.at <= elected.at && elected.at - told.at < S(1), "{:?}", elected.at - told.at);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_told_of_its_end_starts_nothing_after_it() {
    let (world, log) = (World::without_marks(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(1), Duration::ZERO))
        })
    };
    let a = start("a");
    log.elected("a").await;
    let _b = start("b");
    tokio::time::sleep(S(20)).await;
    // Nothing renews, and nothing can tell that nothing does: only the clock knows.
    a.node.tasks.freeze();
    let frozen = Instant::now();
    let elected = log.elected("b").await;
    tokio::time::sleep(S(20)).await;
    let late = |line: &&super::support::Line| {
        line.node == "a" && line.at >= elected.at && matches!(line.said, Said::Begin(_))
    };
    assert_eq!(log.lines().iter().filter(late).count(), 0);
    let last = log.lines().into_iter().rfind(|line| line.node == "a").unwrap().at;
    assert!(last > frozen && last < frozen + TTL, "it led on for as long as it could");
}

#[tokio::test(start_paused = true)]
async fn who_leads_again_does_not_start_what_another_started_meanwhile() {
    let (world, log) = (World::without_marks(), Log::default());
    let start = |name: &'static str| {
        Member::start(world.node(name), name, &log, |scheduler| {
            scheduler.job(job(name, &log, S(10), S(1)))
        })
    };
    let a = start("a");
    log.elected("a").await;
    tokio::time::sleep(S(25)).await;
    for name in ["b", "c"] {
        // Deposed by force while it cannot ask, it follows; the other one leads for a while, and ends in peace.
        let other = start(name);
        a.node.link.set_cut(true);
        log.elected(name).await;
        a.node.link.set_cut(false);
        // In the middle between two ticks, so that the last one is within its grace.
        tokio::time::sleep(S(33)).await;
        let terms = log.lines().iter().filter(|line| line.node == "a" && line.is_elected()).count();
        other.stop().await;
        let back = async {
            let count =
                || log.lines().iter().filter(|line| line.node == "a" && line.is_elected()).count();
            while count() == terms {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        super::support::in_time("a to lead again", back).await;
        tokio::time::sleep(S(25)).await;
    }
    let mut ticks: Vec<_> = log.begun().iter().map(|(_, run)| run.tick).collect();
    let runs = ticks.len();
    ticks.sort();
    ticks.dedup();
    assert_eq!(ticks.len(), runs, "a tick was started twice: {:#?}", log.begun());
    assert!(log.begun().is_sorted_by_key(|(_, run)| (run.fence, run.number)));
    assert!(runs >= 12, "{runs}");
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ticks_that_fall_into_a_run_are_skipped_within_a_term() {
    let (world, log) = (World::without_marks(), Log::default());
    let a = Member::start(world.node("a"), "a", &log, |scheduler| {
        scheduler.job(job("a", &log, S(10), S(25)))
    });
    tokio::time::sleep(S(120)).await;
    for pair in log.begun().windows(2) {
        assert_eq!(pair[1].1.tick.duration_since(pair[0].1.tick).as_secs(), 30);
    }
    assert!(log.lines().iter().any(|line| matches!(line.what(), Some(What::Overlapped { .. }))));
    a.stop().await;
}

/// On real time: what blocks a thread knows no virtual one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_run_of_before_is_not_doubled_by_its_own_process_and_keeps_the_lock_until_it_ends()
 {
    let world = World::without_marks();
    let memory = world.memory.clone();
    let node = world.node("a");
    let options = LockOptions::default().ttl(TTL);
    let locks = Locks::builder(node.link.clone()).options(options).build().unwrap();
    let (begun, starts) = mpsc::channel();
    let (let_go, wait) = mpsc::channel::<()>();
    let (wait, inside) = (Arc::new(Mutex::new(wait)), Arc::new(AtomicUsize::new(0)));
    let work = move |ctx: Context| {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two runs at a time");
        begun.send((ctx.fence(), ctx.run_number())).unwrap();
        wait.lock().unwrap().recv().unwrap(); // and looks at nothing
        inside.fetch_sub(1, Ordering::SeqCst);
        let told = ctx.checkpoint();
        begun.send((ctx.fence(), 0)).unwrap();
        told
    };
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let scheduler = Scheduler::builder(locks)
        .coordination(Coordination::leader(GROUP))
        .drain(Duration::from_millis(50))
        .observe(move |event| drop(told.send(event.what.clone())))
        .job(Job::blocking("job", Every::new(Duration::from_millis(50)).unwrap(), work))
        .build()
        .unwrap();
    let stopper = scheduler.stopper();
    let running = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
    let next = || {
        let starts = &starts;
        tokio::task::block_in_place(|| starts.recv_timeout(S(60)).expect("a run"))
    };
    let elected = async |heard: &mut tokio::sync::mpsc::UnboundedReceiver<What>| loop {
        if let What::Elected { fence } = heard.recv().await.expect("it goes on") {
            return fence;
        }
    };
    let first_term = elected(&mut heard).await;
    assert_eq!(next(), (first_term, 1));
    // Deposed and elected again, while its run blocks.
    memory.expire(&group());
    let second_term = elected(&mut heard).await;
    assert!(second_term > first_term);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(starts.try_recv().is_err(), "six ticks were due, and the run of before goes on");
    let_go.send(()).unwrap();
    assert_eq!(next(), (first_term, 0), "it still has the fence of its own term");
    assert_eq!(next(), (second_term, 1));
    // Stopped while a run blocks: the scheduler ends, the lock does not.
    stopper.stop();
    stopper.stop();
    tokio::time::timeout(S(60), running).await.expect("bounded").unwrap().unwrap();
    let held = || memory.record(&group()).unwrap().holder(jiff::Timestamp::now(), true).is_some();
    tokio::time::sleep(TTL / 10).await;
    assert!(held(), "nothing else keeps others from running the same");
    let_go.send(()).unwrap();
    assert_eq!(next(), (second_term, 0));
    let until = Instant::now() + S(60);
    while held() {
        assert!(Instant::now() < until, "given back when it has ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As the end of a main function: tokio drops the tasks, and waits for the threads then.
#[test]
fn a_blocked_run_keeps_the_lock_while_its_runtime_is_dropped() {
    let world = World::without_marks_on_real_time();
    let node = world.node("a");
    let options = LockOptions::default().ttl(S(1));
    let locks = Locks::builder(node.link.clone()).options(options).build().unwrap();
    let (begun, begins) = mpsc::channel();
    let (let_go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let work = move |_: Context| {
        begun.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
    };
    let scheduler = Scheduler::builder(locks)
        .coordination(Coordination::leader(GROUP))
        .job(Job::blocking("job", Every::new(Duration::from_millis(50)).unwrap(), work))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let stopper = scheduler.stopper();
    let running = runtime.spawn(scheduler.run_until(std::future::pending::<()>()));
    begins.recv_timeout(S(60)).expect("a run");
    stopper.stop();
    stopper.stop();
    runtime.block_on(running).unwrap().unwrap();
    let dropping = std::thread::spawn(move || drop(runtime));
    let memory = world.memory;
    let held = || memory.record(&group()).unwrap().holder(jiff::Timestamp::now(), true).is_some();
    for _ in 0..150 {
        assert!(held(), "another node could run the same");
        std::thread::sleep(Duration::from_millis(10)); // longer than a lease lasts unless it is renewed
    }
    let_go.send(()).unwrap();
    dropping.join().unwrap();
    let until = std::time::Instant::now() + S(60);
    while held() {
        assert!(std::time::Instant::now() < until, "given back when it has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
}
