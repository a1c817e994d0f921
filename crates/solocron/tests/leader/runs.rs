//! Runs that are told to stop: how long they may go on.

use std::time::Duration;

use solocron::trigger::Every;
use solocron::{Cancelled, Context, Job, Outcome, Scheduler, SchedulerBuilder, What};

use super::support::{Line, Log, Member, Node, Run, Said, TTL, World, in_time};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A run that does not look at its cancellation, every ten seconds.
fn deaf(name: &'static str, log: &Log) -> Job {
    struct Gone(Log, &'static str, Run);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.say(self.1, Said::End(self.2));
        }
    }
    let log = log.clone();
    Job::new("job", Every::new(Duration::from_secs(10)).unwrap(), move |ctx: Context| {
        let log = log.clone();
        async move {
            let run = Run { tick: ctx.tick(), fence: ctx.fence(), number: ctx.run_number() };
            log.say(name, Said::Begin(run));
            let _gone = Gone(log, name, run);
            std::future::pending::<()>().await;
        }
    })
}

fn begins(line: &Line) -> bool {
    matches!(line.said, Said::Begin(_))
}

fn ends(line: &Line) -> bool {
    matches!(line.said, Said::End(_))
}

fn was_told(log: &Log, why: Cancelled) -> bool {
    let outcome = Outcome::Cancelled(why);
    log.lines().iter().any(
        |line| matches!(line.what(), Some(What::Finished { outcome: how, .. }) if *how == outcome),
    )
}

/// A scheduler whose every node tries.
fn alone(node: &Node, log: &Log) -> SchedulerBuilder {
    let heard = log.clone();
    Scheduler::builder(node.locks.clone())
        .spawner(node.runs.keeper())
        .observe(move |event| heard.say("a", Said::Event(event.clone())))
}

#[tokio::test(start_paused = true)]
async fn a_run_that_took_too_long_is_gone_before_its_lease_is() {
    let (world, log) = (World::new(), Log::default());
    let node = world.node("a");
    // The lease is told to be over after 5.3 of its 6 s.
    let job = deaf("a", &log).max_runtime(MS(5_200));
    let scheduler = alone(&node, &log).job(job).build().unwrap();
    node.runs.keeper().spawn(async move {
        scheduler.run_until(std::future::pending::<()>()).await.unwrap();
    });
    let begun = log.until("a run", begins).await;
    node.link.set_cut(true);
    let gone = log.until("its end", ends).await;
    assert!(gone.at - begun.at > MS(5_200) && gone.at - begun.at < TTL, "{:?}", gone.at - begun.at);
    tokio::time::sleep(MS(10)).await;
    assert!(was_told(&log, Cancelled::Timeout), "the first reason stands: {:#?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_told_of_the_shutdown_is_gone_before_its_lease_is() {
    let (world, log) = (World::new(), Log::default());
    let node = world.node("a");
    let scheduler = alone(&node, &log).job(deaf("a", &log)).drain(MS(200)).build().unwrap();
    let stopper = scheduler.stopper();
    let (over, ended) = tokio::sync::oneshot::channel();
    node.runs.keeper().spawn(async move {
        scheduler.run_until(std::future::pending::<()>()).await.unwrap();
        let _ = over.send(()); // nobody may wait for it
    });
    let begun = log.until("a run", begins).await;
    node.link.set_cut(true);
    tokio::time::sleep(MS(5_000)).await;
    stopper.stop();
    let gone = log.until("its end", ends).await;
    assert!(gone.at - begun.at > MS(5_200) && gone.at - begun.at < TTL, "{:?}", gone.at - begun.at);
    in_time("the scheduler to end", ended).await.unwrap();
    assert!(was_told(&log, Cancelled::Shutdown), "the first reason stands: {:#?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_took_too_long_is_gone_before_another_leads() {
    let (world, log) = (World::without_marks(), Log::default());
    let start = |name: &'static str| {
        let job = deaf(name, &log).max_runtime(MS(9_200));
        Member::start(world.node(name), name, &log, |scheduler| scheduler.job(job))
    };
    let a = start("a");
    log.elected("a").await;
    let _b = start("b");
    log.until("a run", begins).await;
    // Five seconds into it; the leadership, renewed every two, is announced to be over after 9.3 and over after 10.
    tokio::time::sleep(MS(4_900)).await;
    a.node.link.set_cut(true);
    let gone = log.until("its end", ends).await;
    let elected = log.elected("b").await;
    assert!(gone.at < elected.at, "{:?} after it", gone.at - elected.at);
    assert!(was_told(&log, Cancelled::Timeout), "the first reason stands: {:#?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_deaf_is_gone_before_another_leads_where_only_renewals_fail() {
    let (world, log) = (World::without_marks(), Log::default());
    let start = |name: &'static str| {
        let job = deaf(name, &log);
        Member::start(world.node(name), name, &log, |scheduler| scheduler.job(job))
    };
    let a = start("a");
    log.elected("a").await;
    let _b = start("b");
    log.until("a run", begins).await;
    a.node.link.refuses_renewals.store(true, std::sync::atomic::Ordering::SeqCst);
    let gone = log.until("its end", ends).await;
    let elected = log.elected("b").await;
    assert!(gone.at <= elected.at, "{:?} after it", gone.at - elected.at);
    let ended = log.lines().iter().position(ends).unwrap();
    let began = log.lines().iter().position(|line| line.node == "b" && line.is_elected()).unwrap();
    assert!(ended < began, "in this order");
}
