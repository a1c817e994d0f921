//! A scheduler on sockets: refused without a memory, and each tick once with one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use solocron::trigger::Every;
use solocron::{Context, Error, Job, Locks, Scheduler};

use crate::Place;

fn every(runs: &Arc<AtomicU32>) -> Job {
    let every = Every::new(Duration::from_millis(100)).unwrap();
    Job::with_state("job", every, Arc::clone(runs), |_: Context, runs: Arc<AtomicU32>| {
        runs.fetch_add(1, Ordering::SeqCst);
        std::future::ready(())
    })
}

#[test]
fn without_a_memory_ticks_are_refused_when_the_scheduler_is_built() {
    for place in [Place::new(), Place::new().on_ports()] {
        let locks = Locks::new(place.open()).unwrap();
        let runs = Arc::default();
        match Scheduler::builder(locks).job(every(&runs)).build() {
            Err(error @ Error::Lacks { need: "marks", .. }) => {
                let text = error.to_string();
                for instead in ["state_dir", "leader", "flock", "redis", "etcd"] {
                    assert!(text.contains(instead), "{text}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_memory_three_replicas_run_each_tick_once() {
    let place = Place::new().with_state();
    let runs = Arc::default();
    let replica = || {
        let locks = Locks::new(place.open()).unwrap();
        Scheduler::builder(locks).job(every(&runs)).build().unwrap()
    };
    let (a, b, c) = (replica(), replica(), replica());
    let begun = solocron::jiff::Timestamp::now().as_millisecond();
    let stop = || tokio::time::sleep(Duration::from_secs(2));
    let (a, b, c) = tokio::join!(a.run_until(stop()), b.run_until(stop()), c.run_until(stop()));
    for ended in [a, b, c] {
        ended.unwrap();
    }
    let due = (solocron::jiff::Timestamp::now().as_millisecond() / 100 - begun / 100) as u32;
    let runs = runs.load(Ordering::SeqCst);
    assert!(runs > 0 && runs <= due, "{runs} runs of {due} ticks");
}
