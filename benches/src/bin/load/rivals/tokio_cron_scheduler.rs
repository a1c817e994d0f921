//! tokio-cron-scheduler: a loop that looks at every job each half second. A run is not told which tick it is for.

use tokio_cron_scheduler::{Job, JobScheduler};

use super::pattern;
use crate::fires::Fires;

pub(crate) async fn add(jobs: usize) -> JobScheduler {
    let scheduler = JobScheduler::new().await.expect("a scheduler");
    for _ in 0..jobs {
        let job = Job::new_async("0 0 0 1 1 *", |_, _| Box::pin(async {})).expect("a job");
        scheduler.add(job).await.expect("added");
    }
    scheduler
}

pub(crate) async fn start(scheduler: JobScheduler) -> JobScheduler {
    scheduler.start().await.expect("it starts");
    scheduler
}

pub(crate) async fn fire(fires: &Fires) -> JobScheduler {
    let (scheduler, pattern) = (JobScheduler::new().await.expect("a scheduler"), pattern(fires));
    for at in 0..fires.jobs() {
        let told = fires.clone();
        let job = Job::new_async(pattern.as_str(), move |_, _| {
            let told = told.clone();
            Box::pin(async move { told.fired_untold(at) })
        });
        scheduler.add(job.expect("a job")).await.expect("added");
    }
    start(scheduler).await
}
