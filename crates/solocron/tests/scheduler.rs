//! The scheduler on one node, on real time, over the memory backend.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use solocron::lock::{Delivery, Locks, MemoryBackend};
use solocron::trigger::{At, Every};
use solocron::{Cancelled, Context, Error, Event, Job, Misfire, Outcome, Scheduler, What};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const PATIENCE: Duration = Duration::from_secs(20);

fn often() -> Every {
    Every::new(Duration::from_millis(20)).unwrap()
}

fn locks() -> Locks {
    Locks::new(MemoryBackend::new()).unwrap()
}

/// Runs a scheduler with this job until `enough` says so of what it heard.
async fn run(job: Job, mut enough: impl FnMut(&Event) -> bool) -> Vec<Event> {
    let (told, mut heard) = unbounded_channel::<Event>();
    let scheduler = Scheduler::builder(locks())
        .job(job)
        .drain(Duration::from_millis(100))
        .observe(move |event| drop(told.send(event.clone())));
    let (events, all) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let until = {
        let events = Arc::clone(&events);
        async move {
            while let Some(event) = heard.recv().await {
                let stop = enough(&event);
                events.lock().unwrap().push(event);
                if stop {
                    break;
                }
            }
            heard
        }
    };
    let rest = Arc::clone(&all);
    let signal = async move { *rest.lock().unwrap() = Some(until.await).into_iter().collect() };
    tokio::time::timeout(PATIENCE, scheduler.build().unwrap().run_until(signal))
        .await
        .expect("it ends in time")
        .unwrap();
    let mut events = std::mem::take(&mut *events.lock().unwrap());
    for rest in all.lock().unwrap().iter_mut() {
        let rest: &mut UnboundedReceiver<Event> = rest;
        events.extend(std::iter::from_fn(|| rest.try_recv().ok()));
    }
    events
}

fn outcome(event: &Event) -> Option<&Outcome> {
    match &event.what {
        What::Finished { outcome, .. } => Some(outcome),
        _ => None,
    }
}

fn sender() -> (UnboundedSender<Context>, UnboundedReceiver<Context>) {
    unbounded_channel()
}

async fn named(_: Context) {}

#[tokio::test]
async fn any_async_function_closure_or_blocking_function_is_a_job() {
    let state = Arc::new(AtomicUsize::new(0));
    let jobs = [
        Job::new("named", often(), named),
        Job::new("closure", often(), async |ctx: Context| Ok::<_, std::io::Error>(ctx.fence())),
        Job::new("boxed error", often(), async |_| {
            Err::<(), Box<dyn std::error::Error>>("no".into())
        }),
        Job::new("text error", "* * * * * *", async |_| Err::<(), String>("no".into())),
        Job::with_state(
            "state",
            often(),
            Arc::clone(&state),
            async |_, state: Arc<AtomicUsize>| {
                state.fetch_add(1, Ordering::Relaxed);
            },
        ),
        Job::blocking("blocking", often(), |ctx| ctx.checkpoint()),
    ];
    let mut waiting: Vec<_> =
        ["named", "closure", "boxed error", "text error", "state", "blocking"].to_vec();
    let (told, mut heard) = unbounded_channel::<Event>();
    let scheduler = Scheduler::builder(locks())
        .jobs(jobs)
        .observe(move |event| drop(told.send(event.clone())))
        .build()
        .unwrap();
    let signal = async {
        while !waiting.is_empty() {
            let event = heard.recv().await.unwrap();
            if matches!(event.what, What::Finished { .. }) {
                waiting.retain(|job| *job != event.job.as_str());
            }
        }
    };
    tokio::time::timeout(PATIENCE, scheduler.run_until(signal)).await.expect("all ran").unwrap();
    assert!(state.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_panic_is_its_own_runs_outcome_and_the_job_goes_on() {
    let mut panics = 0;
    let events = run(Job::new("bad", often(), panics_later), |event| {
        panics += usize::from(outcome(event) == Some(&Outcome::Panicked("on purpose".into())));
        panics == 3
    })
    .await;
    assert!(events.iter().filter(|event| matches!(event.what, What::Started { .. })).count() >= 3);
}

#[tokio::test]
async fn a_job_that_panics_before_its_future_exists_is_isolated_too() {
    fn bad(_: Context) -> std::future::Ready<()> {
        panic!("at once")
    }
    run(Job::new("bad", often(), bad), |event| {
        outcome(event) == Some(&Outcome::Panicked("at once".into()))
    })
    .await;
}

#[tokio::test]
async fn ticks_that_fall_into_a_run_are_skipped_and_not_run_afterwards() {
    let slow = async |_: Context| tokio::time::sleep(Duration::from_millis(90)).await;
    let events =
        run(Job::new("slow", often(), slow), |event| matches!(event.what, What::Overlapped { .. }))
            .await;
    let What::Overlapped { after, to } =
        events.iter().find(|event| matches!(event.what, What::Overlapped { .. })).unwrap().what
    else {
        unreachable!()
    };
    assert!(to.as_millis() - after.as_millis() >= 60, "{after:?} {to:?}");
    for event in &events {
        if let What::Started { tick, .. } = event.what {
            assert!(tick <= after || tick > to, "{tick} was skipped and ran");
        }
    }
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_told_and_then_stopped() {
    let deaf = Job::new("deaf", often(), async |_| std::future::pending::<()>().await)
        .max_runtime(Duration::from_millis(50));
    run(deaf, |event| outcome(event) == Some(&Outcome::Cancelled(Cancelled::Timeout))).await;
    let polite = async |ctx: Context| Err::<(), _>(ctx.cancelled().await);
    let polite = Job::new("polite", often(), polite).max_runtime(Duration::from_millis(50));
    run(polite, |event| outcome(event) == Some(&Outcome::Cancelled(Cancelled::Timeout))).await;
}

#[tokio::test]
async fn shutdown_is_bounded_although_a_job_never_ends() {
    let events =
        run(Job::new("deaf", often(), async |_| std::future::pending::<()>().await), |event| {
            matches!(event.what, What::Started { .. })
        })
        .await;
    assert!(
        events.iter().any(|event| outcome(event) == Some(&Outcome::Cancelled(Cancelled::Shutdown))),
        "{events:#?}"
    );
}

#[tokio::test]
async fn a_run_that_ends_within_the_drain_time_ends_in_peace_and_its_lock_is_free() {
    let store = MemoryBackend::new();
    let (told, mut heard) = sender();
    let job = Job::new("brief", often(), move |ctx: Context| {
        let told = told.clone();
        async move {
            told.send(ctx.clone()).unwrap();
            while !ctx.is_stopping() {
                tokio::task::yield_now().await;
            }
            assert_eq!(ctx.checkpoint(), Ok(()));
        }
    });
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&outcomes);
    let scheduler = Scheduler::builder(Locks::new(store.clone()).unwrap())
        .job(job)
        .observe(move |event| seen.lock().unwrap().extend(outcome(event).cloned()))
        .build()
        .unwrap();
    scheduler.run_until(heard.recv()).await.unwrap();
    assert_eq!(*outcomes.lock().unwrap(), [Outcome::Ok]);
    let record = store.record(&"brief".try_into().unwrap()).unwrap();
    assert!(record.holder(jiff_now(), true).is_none() && record.last().unwrap().done);
}

fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[tokio::test]
async fn a_second_stop_is_immediate() {
    let (told, mut heard) = sender();
    let job = Job::new("deaf", often(), move |ctx: Context| {
        let told = told.clone();
        async move {
            told.send(ctx).unwrap();
            std::future::pending::<()>().await;
        }
    });
    let scheduler =
        Scheduler::builder(locks()).job(job).drain(Duration::from_secs(3600)).build().unwrap();
    let stopper = scheduler.stopper();
    let running = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
    heard.recv().await.unwrap();
    stopper.stop();
    stopper.stop();
    tokio::time::timeout(PATIENCE, running).await.expect("no hour is waited for").unwrap().unwrap();
}

#[tokio::test]
async fn dropping_the_scheduler_stops_its_runs_and_gives_their_leases_back() {
    let store = MemoryBackend::new();
    let locks = Locks::new(store.clone()).unwrap();
    let (told, mut heard) = sender();
    let job = Job::new("deaf", often(), move |ctx: Context| {
        let told = told.clone();
        async move {
            told.send(ctx).unwrap();
            std::future::pending::<()>().await;
        }
    });
    let scheduler = Scheduler::builder(locks.clone()).job(job).build().unwrap();
    let running = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
    heard.recv().await.unwrap();
    running.abort();
    let _ = running.await;
    while heard.recv().await.is_some() {}
    let guard =
        tokio::time::timeout(PATIENCE, locks.lock("deaf", PATIENCE)).await.unwrap().unwrap();
    guard.release().await.unwrap();
    assert!(
        !store.record(&"deaf".try_into().unwrap()).unwrap().last().unwrap().done,
        "it was cut short"
    );
}

#[test]
fn it_works_on_a_current_thread_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        run(Job::new("often", often(), named), |event| outcome(event).is_some()).await;
    });
}

#[tokio::test]
async fn an_observer_that_panics_harms_nobody() {
    let (told, mut heard) = sender();
    let job = Job::new("often", often(), move |ctx: Context| {
        let told = told.clone();
        async move { told.send(ctx) }
    });
    let scheduler =
        Scheduler::builder(locks()).job(job).observe(|_| panic!("on purpose")).build().unwrap();
    let signal = async {
        heard.recv().await;
        heard.recv().await;
    };
    tokio::time::timeout(PATIENCE, scheduler.run_until(signal)).await.unwrap().unwrap();
}

#[test]
fn what_is_wrong_with_a_job_is_said_when_the_scheduler_is_built() {
    let build =
        |jobs: Vec<Job>| Scheduler::builder(locks()).jobs(jobs).build().unwrap_err().to_string();
    let job = |id: &str| Job::new(id, often(), named);
    assert!(build(vec![job("")]).contains("job id"));
    assert!(build(vec![job(&"x".repeat(2000))]).contains("1024 bytes"));
    assert!(build(vec![job("twice"), job("twice")]).contains("\"twice\""));
    assert!(build(vec![Job::new("cron", "61 * * * *", named)]).contains("61"));
    assert!(build(vec![Job::new("cron", "0 0 30 2 *", named)]).contains("30"));
    assert!(build(vec![Job::new("cron", "*".repeat(10_000_000).as_str(), named)]).len() < 1000);
    assert!(
        build(vec![job("grace").misfire(Misfire::latest().grace(Duration::ZERO))])
            .contains("grace")
    );
    assert!(
        build(vec![job("attempts").delivery(Delivery::AtLeastOnce { max_attempts: 0 })])
            .contains("max_attempts")
    );
    assert!(build(vec![job("runtime").max_runtime(Duration::ZERO)]).contains("max_runtime"));
    let scope = Scheduler::builder(locks())
        .require_scope(solocron::lock::Scope::Fleet)
        .build()
        .unwrap_err();
    assert!(matches!(scope, Error::Lacks { need: "scope", .. }), "{scope}");
}

#[tokio::test]
async fn a_job_due_once_runs_once_and_the_scheduler_goes_on() {
    let at = At::new(jiff::Timestamp::from_millisecond(jiff_now().as_millisecond() + 100).unwrap())
        .unwrap();
    let jobs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&jobs);
    let (told, mut heard) = sender();
    let once = Job::new("once", at, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    });
    let often = Job::new("often", often(), move |ctx: Context| {
        let told = told.clone();
        async move { told.send(ctx) }
    });
    let scheduler = Scheduler::builder(locks()).jobs([once, often]).build().unwrap();
    let signal = async {
        for _ in 0..20 {
            heard.recv().await;
        }
    };
    tokio::time::timeout(PATIENCE, scheduler.run_until(signal)).await.unwrap().unwrap();
    assert_eq!(jobs.load(Ordering::Relaxed), 1);
}

async fn panics_later(_: Context) {
    tokio::task::yield_now().await;
    panic!("on purpose");
}

/// Runs many jobs that are all due at each whole second, until each has told an end: how often each tick of each was started, and how
/// often reported as missed.
async fn burst(misfire: Misfire) -> Vec<(usize, usize)> {
    const JOBS: usize = 3_000;
    let (told, mut heard) = unbounded_channel::<Event>();
    let secondly = Every::new(Duration::from_secs(1)).unwrap();
    let jobs = (0..JOBS)
        .map(|job| Job::new(job.to_string(), secondly, async |_: Context| {}).misfire(misfire));
    let scheduler = Scheduler::builder(locks()).jobs(jobs);
    let scheduler = scheduler.observe(move |event| drop(told.send(event.clone()))).build().unwrap();
    let (mut ticks, mut over) = (HashMap::<_, (usize, usize)>::new(), HashSet::new());
    let signal = async {
        while over.len() < JOBS {
            let Event { job, what } = heard.recv().await.expect("the scheduler lives");
            match what {
                What::Started { tick, .. } => ticks.entry((job, tick)).or_default().0 += 1,
                What::Missed { tick, .. } => {
                    ticks.entry((job.clone(), tick)).or_default().1 += 1;
                    over.insert(job);
                }
                What::Finished { outcome, .. } => {
                    assert_eq!(outcome, Outcome::Ok);
                    over.insert(job);
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, scheduler.run_until(signal)).await.expect("in time").unwrap();
    ticks.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_due_at_one_instant_all_run_once() {
    assert!(burst(Misfire::latest()).await.iter().all(|told| *told == (1, 0)));
}

#[tokio::test]
async fn many_jobs_due_at_one_instant_are_run_in_time_or_reported() {
    let told = burst(Misfire::latest().grace(Duration::from_millis(5))).await;
    assert!(told.iter().all(|told| matches!(told, (1, 0) | (0, 1))));
}
