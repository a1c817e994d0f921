//! How a scheduler bears load: jobs from one to a million; how late, how heavy, how fast.
//!
//! `cargo run --release -p solocron-benches --bin load` measures, side by side and in turns, solocron (over the memory backend), a
//! **floor** (a binary heap, a tokio timer, a spawn per fire; no locks, no triggers) and **rivals**. Every measurement is a process of
//! its own. A fire that did not happen is counted, never left out.

#![expect(clippy::print_stdout, reason = "a report is what it is for")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use solocron::lock::MemoryBackend;
use solocron::trigger::{Cron, Every};
use solocron::{Context, Job, Locks, Scheduler};
use solocron_benches::{Samples, Table, machine, measure, round};

const SUBJECTS: [&str; 3] = ["floor", "solocron", "tokio-cron-scheduler"];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["one", what, subject, jobs] => {
            let jobs = jobs.parse().expect("a number of jobs");
            println!("{}", one(what, subject, jobs));
        }
        ["--quick"] => report(1, &[1, 1_000], &[1_000]),
        [] => report(5, &[1, 1_000, 100_000, 1_000_000], &[1_000, 10_000, 100_000]),
        _ => {
            eprintln!("usage: load [--quick]");
            std::process::exit(2);
        }
    }
}

/// One measurement, in this process.
fn one(what: &str, subject: &str, jobs: usize) -> Value {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        match (what, subject) {
            ("add", "floor") => add_floor(jobs).await,
            ("add", "solocron") => add_solocron(jobs).await,
            ("add", "tokio-cron-scheduler") => add_tcs(jobs).await,
            ("late", "floor") => late_floor().await,
            ("late", "solocron") => late_solocron().await,
            ("late", "tokio-cron-scheduler") => late_tcs().await,
            ("burst", "floor") => burst_floor(jobs).await,
            ("burst", "solocron") => burst_solocron(jobs).await,
            ("burst", "tokio-cron-scheduler") => burst_tcs(jobs).await,
            _ => panic!("no measurement {what} of {subject}"),
        }
    })
}

// ---- what is measured ------------------------------------------------------------------------------------------------------------

/// Processor time of this process, user and system.
fn cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let usage = usage.expect("getrusage(2) knows this process");
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(
            u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0),
        )
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Bytes of memory in use by this process.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(f64::NAN);
    pages * 4096.0
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Fires as they start: how late each was against the last whole `period`.
#[derive(Clone)]
struct Fires {
    period: Duration,
    late: Arc<Mutex<Vec<u32>>>,
    count: Arc<AtomicU64>,
}

impl Fires {
    fn new(period: Duration, room: usize) -> Self {
        let late = Arc::new(Mutex::new(Vec::with_capacity(room)));
        Self { period, late, count: Arc::default() }
    }

    fn fired(&self) {
        let late = since_epoch().as_micros() % self.period.as_micros();
        self.count.fetch_add(1, Ordering::Relaxed);
        self.late.lock().expect("no poison").push(u32::try_from(late).unwrap_or(u32::MAX));
    }

    fn report(&self, due: u64, cpu: Duration) -> Value {
        let late = self.late.lock().expect("no poison");
        let late: Samples = late.iter().map(|late| f64::from(*late) / 1000.0).collect();
        let ran = self.count.load(Ordering::Relaxed);
        json!({
            "due": due, "ran": ran,
            "p50_ms": late.quantile(0.5), "p99_ms": late.quantile(0.99), "max_ms": late.quantile(1.0),
            "cpu_us_per_fire": cpu.as_secs_f64() * 1e6 / ran.max(1) as f64,
        })
    }
}

/// Half a second into the next whole second: far from a tick.
async fn between_ticks() {
    let into = since_epoch().subsec_nanos();
    let wait = 1_500_000_000_u64.saturating_sub(u64::from(into));
    tokio::time::sleep(Duration::from_nanos(wait)).await;
}

const SECONDS: u64 = 3;
const LATE_PERIOD: Duration = Duration::from_millis(50);
const LATE_TICKS: u64 = 60;

/// Idle processor time over this long, in percent of one processor.
async fn idle() -> f64 {
    const WATCHED: Duration = Duration::from_secs(5);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cpu();
    tokio::time::sleep(WATCHED).await;
    (cpu() - before).as_secs_f64() / WATCHED.as_secs_f64() * 100.0
}

// ---- the floor -------------------------------------------------------------------------------------------------------------------

type Heap = BinaryHeap<Reverse<(Duration, u32)>>;

async fn run_heap(mut heap: Heap, period: Duration, until: Duration, fires: Fires) {
    while let Some(&Reverse((at, _))) = heap.peek()
        && at < until
    {
        let now = since_epoch();
        if at > now {
            tokio::time::sleep(at - now).await;
            continue;
        }
        let Some(Reverse((at, job))) = heap.pop() else { return };
        heap.push(Reverse((at + period, job)));
        let fires = fires.clone();
        tokio::spawn(async move { fires.fired() });
    }
}

fn heap(jobs: usize, first: Duration) -> Heap {
    (0..u32::try_from(jobs).expect("fewer than four billion"))
        .map(|job| Reverse((first, job)))
        .collect()
}

async fn add_floor(jobs: usize) -> Value {
    let (before, begun) = (resident(), Instant::now());
    let heap = heap(jobs, since_epoch() + Duration::from_secs(86_400 * 300));
    let (took, bytes) = (begun.elapsed(), resident() - before);
    let running = tokio::spawn(run_heap(
        heap,
        Duration::from_secs(1),
        Duration::MAX,
        Fires::new(Duration::from_secs(1), 0),
    ));
    let idle = idle().await;
    running.abort();
    added(jobs, took, bytes, idle)
}

fn added(jobs: usize, took: Duration, bytes: f64, idle: f64) -> Value {
    json!({ "add_ms": took.as_secs_f64() * 1e3, "bytes_per_job": bytes / jobs as f64, "idle_percent": idle })
}

async fn late_floor() -> Value {
    let fires = Fires::new(LATE_PERIOD, 100);
    between_ticks().await;
    let before = cpu();
    for _ in 0..LATE_TICKS {
        let now = since_epoch().as_nanos();
        let next = (now / LATE_PERIOD.as_nanos() + 1) * LATE_PERIOD.as_nanos();
        let wait = Duration::from_nanos(u64::try_from(next - now).expect("short"));
        tokio::time::sleep_until(tokio::time::Instant::now() + wait).await;
        fires.fired();
    }
    fires.report(LATE_TICKS, cpu() - before)
}

async fn burst_floor(jobs: usize) -> Value {
    let fires = Fires::new(Duration::from_secs(1), jobs * 4);
    between_ticks().await;
    let first = Duration::from_secs(since_epoch().as_secs() + 1);
    let heap = heap(jobs, first);
    let before = cpu();
    let until = first + Duration::from_secs(SECONDS);
    run_heap(heap, Duration::from_secs(1), until, fires.clone()).await;
    tokio::time::sleep(
        (first + Duration::from_millis(SECONDS * 1000 - 500)).saturating_sub(since_epoch()),
    )
    .await;
    fires.report(jobs as u64 * SECONDS, cpu() - before)
}

// ---- solocron --------------------------------------------------------------------------------------------------------------------

fn locks() -> Locks {
    Locks::new(MemoryBackend::new()).expect("the defaults fit")
}

async fn add_solocron(jobs: usize) -> Value {
    let (before, begun) = (resident(), Instant::now());
    let yearly = "0 0 1 1 *";
    let jobs_added = (0..jobs).map(|job| Job::new(job.to_string(), yearly, async |_: Context| {}));
    let scheduler = Scheduler::builder(locks()).jobs(jobs_added).build().expect("a scheduler");
    let (took, bytes) = (begun.elapsed(), resident() - before);
    let stopper = scheduler.stopper();
    let running = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
    // Enrolling is work of the beginning: until a second passes with next to none.
    let mut used = cpu();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = cpu();
        if now - used < Duration::from_millis(50) {
            break;
        }
        used = now;
    }
    let with_records = (resident() - before) / jobs as f64;
    let idle = idle().await;
    stopper.stop();
    drop(running.await);
    let mut figures = added(jobs, took, bytes, idle);
    figures["bytes_per_job_running"] = json!(with_records);
    figures
}

async fn run_for(scheduler: Scheduler, until: Duration) {
    let wait = until.saturating_sub(since_epoch());
    scheduler.run_until(tokio::time::sleep(wait)).await.expect("it runs");
}

async fn late_solocron() -> Value {
    let fires = Fires::new(LATE_PERIOD, 100);
    let told = fires.clone();
    let job = Job::new("one", Every::new(LATE_PERIOD).expect("a period"), move |_: Context| {
        told.fired();
        async {}
    });
    let scheduler = Scheduler::builder(locks()).job(job).build().expect("a scheduler");
    between_ticks().await;
    let before = cpu();
    let ticks = u32::try_from(LATE_TICKS).expect("few");
    run_for(scheduler, since_epoch() + LATE_PERIOD * ticks + LATE_PERIOD / 2).await;
    fires.report(LATE_TICKS, cpu() - before)
}

async fn burst_solocron(jobs: usize) -> Value {
    let fires = Fires::new(Duration::from_secs(1), jobs * 4);
    let every_second = Cron::parse("* * * * * *").expect("a pattern");
    let added = (0..jobs).map(|job| {
        let told = fires.clone();
        Job::new(job.to_string(), every_second.clone(), move |_: Context| {
            let told = told.clone();
            async move { told.fired() }
        })
    });
    let scheduler = Scheduler::builder(locks()).jobs(added).build().expect("a scheduler");
    let running_since = since_epoch();
    let first = Duration::from_secs(since_epoch().as_secs() + 3); // enrolled by then, also a hundred thousand
    let stopper = scheduler.stopper();
    let running = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
    tokio::time::sleep((first - Duration::from_millis(300)).saturating_sub(since_epoch())).await;
    // Ticks of the beginning are not measured.
    let early = fires.count.swap(0, Ordering::Relaxed);
    fires.late.lock().expect("no poison").clear();
    let before = cpu();
    let over = first + Duration::from_millis(SECONDS * 1000 - 300);
    tokio::time::sleep(over.saturating_sub(since_epoch())).await;
    let mut figures = fires.report(jobs as u64 * SECONDS, cpu() - before);
    stopper.stop();
    drop(running.await);
    figures["early"] = json!(early);
    figures["warm_up_s"] = json!((first - running_since).as_secs_f64());
    figures
}

// ---- tokio-cron-scheduler --------------------------------------------------------------------------------------------------------

mod tcs {
    pub(super) use tokio_cron_scheduler::{Job, JobScheduler};
}

async fn add_tcs(jobs: usize) -> Value {
    let (before, begun) = (resident(), Instant::now());
    let mut scheduler = tcs::JobScheduler::new().await.expect("a scheduler");
    for _ in 0..jobs {
        let job = tcs::Job::new_async("0 0 0 1 1 *", |_, _| Box::pin(async {})).expect("a job");
        scheduler.add(job).await.expect("added");
    }
    let (took, bytes) = (begun.elapsed(), resident() - before);
    scheduler.start().await.expect("it starts");
    let idle = idle().await;
    drop(scheduler.shutdown().await);
    added(jobs, took, bytes, idle)
}

/// Its smallest period is a second.
async fn late_tcs() -> Value {
    let fires = Fires::new(Duration::from_secs(1), 100);
    let mut scheduler = tcs::JobScheduler::new().await.expect("a scheduler");
    let told = fires.clone();
    let job = tcs::Job::new_async("* * * * * *", move |_, _| {
        told.fired();
        Box::pin(async {})
    });
    scheduler.add(job.expect("a job")).await.expect("added");
    between_ticks().await;
    let before = cpu();
    scheduler.start().await.expect("it starts");
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let figures = fires.report(SECONDS, cpu() - before);
    drop(scheduler.shutdown().await);
    figures
}

async fn burst_tcs(jobs: usize) -> Value {
    let fires = Fires::new(Duration::from_secs(1), jobs * 4);
    let mut scheduler = tcs::JobScheduler::new().await.expect("a scheduler");
    for _ in 0..jobs {
        let told = fires.clone();
        let job = tcs::Job::new_async("* * * * * *", move |_, _| {
            let told = told.clone();
            Box::pin(async move { told.fired() })
        });
        scheduler.add(job.expect("a job")).await.expect("added");
    }
    between_ticks().await;
    let before = cpu();
    scheduler.start().await.expect("it starts");
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let figures = fires.report(jobs as u64 * SECONDS, cpu() - before);
    drop(scheduler.shutdown().await);
    figures
}

// ---- the report ------------------------------------------------------------------------------------------------------------------

/// Each subject in turn, `rounds` times; what one could not do is said.
fn rounds(rounds: usize, what: &str, jobs: usize) -> Vec<(&'static str, Vec<Value>)> {
    let mut measured: Vec<_> = SUBJECTS.iter().map(|subject| (*subject, Vec::new())).collect();
    for _ in 0..rounds {
        for (subject, figures) in &mut measured {
            if *subject == "tokio-cron-scheduler" && jobs > 10_000 {
                continue; // it takes minutes
            }
            let arguments = ["one", what, subject, &jobs.to_string()].map(String::from);
            match measure(&arguments, Duration::from_secs(120)) {
                Ok(figure) => figures.push(figure),
                Err(why) => eprintln!("{why}"),
            }
        }
    }
    measured
}

fn samples(figures: &[Value], name: &str) -> Samples {
    figures.iter().filter_map(|figure| figure[name].as_f64()).collect()
}

fn ratio(figures: &Samples, floor: &Samples) -> String {
    match (figures.median(), floor.median()) {
        (Some(figure), Some(floor)) if floor > 0.0 => round(figure / floor),
        _ => "–".into(),
    }
}

fn report(times: usize, adds: &[usize], bursts: &[usize]) {
    println!("{}; {times} rounds, in turns; medians [middle half]\n", machine());
    let mut table =
        Table::new(&["added, yearly", "jobs", "ms", "bytes a job", "with records", "idle CPU %"]);
    for &jobs in adds {
        for (subject, figures) in rounds(times, "add", jobs) {
            let show = |name| samples(&figures, name).show();
            let cells =
                ["add_ms", "bytes_per_job", "bytes_per_job_running", "idle_percent"].map(show);
            table.row([subject.into(), jobs.to_string()].into_iter().chain(cells));
        }
    }
    println!("{table}");

    let headings = [
        "due",
        "jobs",
        "ran of due",
        "late p50 ms",
        "x floor",
        "p99 ms",
        "max ms",
        "CPU µs a fire",
        "x floor",
    ];
    let mut table = Table::new(&headings);
    let mut fires = |what: &str, jobs: usize| {
        let measured = rounds(times, what, jobs);
        let floor = measured[0].1.clone();
        for (subject, figures) in measured {
            let [p50, p99, max, cpu] = ["p50_ms", "p99_ms", "max_ms", "cpu_us_per_fire"]
                .map(|name| (samples(&figures, name), samples(&floor, name)));
            let (ran, due) = (samples(&figures, "ran"), samples(&figures, "due"));
            table.row([
                format!("{what}, {subject}"),
                jobs.to_string(),
                format!("{} of {}", ran.show(), due.median().map_or("–".into(), round)),
                p50.0.show(),
                ratio(&p50.0, &p50.1),
                p99.0.show(),
                max.0.show(),
                cpu.0.show(),
                ratio(&cpu.0, &cpu.1),
            ]);
        }
    };
    fires("late", 1);
    for &jobs in bursts {
        fires("burst", jobs);
    }
    println!("{table}");
}
