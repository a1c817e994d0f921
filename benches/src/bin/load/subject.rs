//! One measurement of one subject, in this process.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::cell::{Cell, Subject, What};
use crate::fires::Fires;
use crate::process::{cpu, idle_percent, resident, settled, whole_second};
use crate::rivals::{apalis, tokio_cron_scheduler};
use crate::{floor, ours, tasks};

/// Between the ticks of [`What::Late`].
const OFTEN: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);

/// The figures of a cell.
pub(crate) fn one(cell: Cell, subject: Subject) -> Result<Value, String> {
    if cell.what == What::Weigh {
        return runtime(Builder::new_current_thread())
            .map(|runtime| weigh(&runtime, cell, subject));
    }
    let runtime = runtime(Builder::new_multi_thread())?;
    let figures = runtime.block_on(async {
        let late = tokio::time::timeout(cell.limit(), measure(cell, subject)).await;
        late.map_err(|_| format!("{} of {} took longer than it may", cell.name(), subject.name()))
    });
    // A rival's task that never yields must not keep this process.
    runtime.shutdown_timeout(SECOND);
    figures
}

fn runtime(mut builder: Builder) -> Result<Runtime, String> {
    builder.enable_all().build().map_err(|error| format!("start a runtime: {error}"))
}

async fn measure(cell: Cell, subject: Subject) -> Value {
    if cell.what == What::Add {
        return match subject {
            Subject::Floor => add(cell, floor::add, floor::start).await,
            Subject::Solocron => add(cell, ours::add_alike, ours::start).await,
            Subject::SolocronDistinct => add(cell, ours::add_distinct, ours::start).await,
            Subject::TaskPerJob => add(cell, tasks::add, async |tasks| tasks).await,
            Subject::Apalis => add(cell, apalis::add, async |workers| workers).await,
            Subject::TokioCronScheduler => {
                add(cell, tokio_cron_scheduler::add, tokio_cron_scheduler::start).await
            }
        };
    }
    let cron_only = matches!(subject, Subject::Apalis | Subject::TokioCronScheduler);
    let (period, ticks) = match cell.what {
        What::Late if !cron_only => (OFTEN, 60),
        What::Burst => (SECOND, 1),
        _ => (SECOND, 3),
    };
    let fires = Fires::new(cell.jobs, whole_second(cell.warm_up()), period, ticks);
    match (subject, cell.what) {
        (Subject::Floor, What::Late) => beside(&fires, floor::sleep_until(&fires)).await,
        (Subject::Floor, _) => beside(&fires, floor::fire(&fires)).await,
        (Subject::Solocron | Subject::SolocronDistinct, _) => {
            beside(&fires, ours::fire(&fires)).await
        }
        (Subject::TaskPerJob, _) => beside(&fires, tasks::fire(&fires)).await,
        (Subject::Apalis, _) => beside(&fires, apalis::fire(&fires)).await,
        (Subject::TokioCronScheduler, _) => {
            let running = tokio_cron_scheduler::fire(&fires).await;
            let figures = fires.watch(false).await;
            drop(running);
            figures
        }
    }
}

/// What `fires` say while `running` makes them happen.
async fn beside(fires: &Fires, running: impl Future<Output: Send + 'static> + Send) -> Value {
    let running = running.await;
    let figures = fires.watch(true).await;
    drop(running);
    figures
}

/// How long adding jobs takes, and what they cost while nothing is due.
async fn add<A, R>(
    cell: Cell,
    add: impl AsyncFnOnce(usize) -> A,
    start: impl AsyncFnOnce(A) -> R,
) -> Value {
    let (bytes, used, begun) = (resident(), cpu(), Instant::now());
    let added = add(cell.jobs).await;
    let (took, used) = (begun.elapsed(), cpu() - used);
    let per_job = |now: f64| (now - bytes) / cell.jobs as f64;
    let resident_added = per_job(resident());
    let running = start(added).await;
    settled().await;
    let mut figures = json!({
        "add_ms": took.as_secs_f64() * 1e3,
        "add_cpu_ms": used.as_secs_f64() * 1e3,
        "resident_added": resident_added,
        "resident_running": per_job(resident()),
    });
    if cell.watches_idle() {
        figures["idle_percent"] = json!(idle_percent().await);
    }
    drop(running);
    figures
}

/// Bytes of the allocator, per job: when added, and when running. All on this thread, where they are counted.
fn weigh(runtime: &Runtime, cell: Cell, subject: Subject) -> Value {
    let jobs = cell.jobs;
    match subject {
        Subject::Floor => weighed(runtime, jobs, floor::add(jobs), floor::start),
        Subject::Solocron => {
            weighed(runtime, jobs, ours::add_known(runtime, jobs, false), ours::start_known)
        }
        Subject::SolocronDistinct => {
            weighed(runtime, jobs, ours::add_known(runtime, jobs, true), ours::start_known)
        }
        Subject::TaskPerJob => weighed(runtime, jobs, tasks::add(jobs), async |tasks| tasks),
        Subject::Apalis => weighed(runtime, jobs, apalis::add(jobs), async |workers| workers),
        Subject::TokioCronScheduler => {
            let add = tokio_cron_scheduler::add(jobs);
            weighed(runtime, jobs, add, tokio_cron_scheduler::start)
        }
    }
}

fn weighed<A, R>(
    runtime: &Runtime,
    jobs: usize,
    add: impl Future<Output = A>,
    start: impl AsyncFnOnce(A) -> R,
) -> Value {
    let mut kept = None;
    let mut added = None;
    let adding = allocation_counter::measure(|| added = Some(runtime.block_on(add)));
    let starting = allocation_counter::measure(|| {
        kept = added.take().map(|added| {
            runtime.block_on(async {
                let running = start(added).await;
                tokio::time::sleep(SECOND).await;
                running
            })
        });
    });
    let per_job = |bytes: i64| bytes as f64 / jobs as f64;
    let figures = json!({
        "bytes_added": per_job(adding.bytes_current),
        "bytes_running": per_job(adding.bytes_current + starting.bytes_current),
        "bytes_peak": per_job((adding.bytes_max as i64)
            .max(adding.bytes_current + starting.bytes_max as i64)),
        "allocations": per_job(adding.count_current + starting.count_current),
    });
    drop(kept);
    figures
}
