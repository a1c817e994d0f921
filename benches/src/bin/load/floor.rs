//! The floor: a binary heap, a tokio timer, a spawn per fire. No triggers, no locks, no memory of what ran.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::fires::Fires;
use crate::process::since_epoch;

type Heap = BinaryHeap<Reverse<(Duration, u32)>>;

fn heap(jobs: usize, first: Duration) -> Heap {
    let jobs = u32::try_from(jobs).expect("fewer than four billion");
    (0..jobs).map(|job| Reverse((first, job))).collect()
}

pub(crate) async fn add(jobs: usize) -> Heap {
    heap(jobs, since_epoch() + Duration::from_secs(300 * 86_400))
}

pub(crate) async fn start(heap: Heap) -> JoinHandle<()> {
    tokio::spawn(run(heap, Duration::from_secs(86_400), Duration::MAX, |_, _| {}))
}

pub(crate) async fn fire(fires: &Fires) -> JoinHandle<()> {
    let heap = heap(fires.jobs(), fires.first());
    let (period, last, fires) = (fires.period(), fires.last(), fires.clone());
    tokio::spawn(run(heap, period, last, move |job, at| {
        let fires = fires.clone();
        tokio::spawn(async move { fires.fired(job as usize, at) });
    }))
}

async fn run(
    mut heap: Heap,
    period: Duration,
    last: Duration,
    mut fire: impl FnMut(u32, Duration),
) {
    while let Some(&Reverse((at, _))) = heap.peek()
        && at <= last
    {
        let now = since_epoch();
        if at > now {
            tokio::time::sleep(at - now).await;
            continue;
        }
        let Some(Reverse((at, job))) = heap.pop() else { return };
        heap.push(Reverse((at + period, job)));
        fire(job, at);
    }
}

/// The floor of one job's lateness: nothing but tokio's timer.
pub(crate) async fn sleep_until(fires: &Fires) -> JoinHandle<()> {
    let fires = fires.clone();
    tokio::spawn(async move {
        let mut tick = fires.first();
        while tick <= fires.last() {
            let wait = tick.saturating_sub(since_epoch());
            tokio::time::sleep_until(tokio::time::Instant::now() + wait).await;
            fires.fired(0, tick);
            tick += fires.period();
        }
    })
}
