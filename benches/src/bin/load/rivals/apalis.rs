//! apalis-cron: a worker for each schedule, each a task with a timer of its own.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use apalis_core::worker::builder::WorkerBuilder;
use apalis_cron::{CronScheduler, Tick};
use cron::Schedule;
use tokio::task::JoinSet;

use super::pattern;
use crate::fires::Fires;

pub(crate) async fn add(jobs: usize) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for job in 0..jobs {
        let yearly = Schedule::from_str("0 0 0 1 1 *").expect("a pattern");
        let worker = WorkerBuilder::new(job.to_string())
            .backend(CronScheduler::new(yearly))
            .build(async |_: Tick| Ok::<_, Infallible>(()));
        workers.spawn(async move { drop(worker.run().await) });
    }
    workers
}

pub(crate) async fn fire(fires: &Fires) -> JoinSet<()> {
    let (mut workers, pattern) = (JoinSet::new(), pattern(fires));
    for job in 0..fires.jobs() {
        let schedule = Schedule::from_str(&pattern).expect("a pattern");
        let told = fires.clone();
        let worker = WorkerBuilder::new(job.to_string())
            .backend(CronScheduler::new(schedule))
            .build(move |tick: Tick| {
                let told = told.clone();
                async move {
                    told.fired(job, Duration::from_secs(tick.get_timestamp()));
                    Ok::<_, Infallible>(())
                }
            });
        workers.spawn(async move { drop(worker.run().await) });
    }
    workers
}
