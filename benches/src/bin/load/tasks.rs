//! What many write first: a tokio task for each job, which sleeps until it is due.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::fires::Fires;
use crate::process::since_epoch;

pub(crate) async fn add(jobs: usize) -> JoinSet<()> {
    let year = tokio::time::Instant::now() + Duration::from_secs(300 * 86_400);
    (0..jobs).map(|_| tokio::time::sleep_until(year)).fold(JoinSet::new(), |mut tasks, sleep| {
        tasks.spawn(sleep);
        tasks
    })
}

pub(crate) async fn fire(fires: &Fires) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for job in 0..fires.jobs() {
        let fires = fires.clone();
        tasks.spawn(async move {
            let mut tick = fires.first();
            while tick <= fires.last() {
                tokio::time::sleep(tick.saturating_sub(since_epoch())).await;
                fires.fired(job, tick);
                tick += fires.period();
            }
        });
    }
    tasks
}
