//! Four processes with clocks of their own, one directory, a job that ends at once: every tick runs exactly once.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use solocron::jiff::{SignedDuration, Timestamp};
use solocron::lock::Mark;
use solocron::trigger::Every;
use solocron::{
    Clock, Context, Event, Job, LeaseInstant, Locks, Misfire, Scheduler, SystemClock, What,
};
use solocron_flock::FlockBackend;
use solocron_testkit::fleet::{Fleet, as_child, reply, this_test};

use crate::{Dir, PATIENCE};

const PERIOD_MS: i64 = 10;
const TICKS: i64 = 1_000;
const SKEWS_MS: [i64; 4] = [0, 17, -33, 50];

/// A clock that is wrong.
#[derive(Debug)]
struct Skewed(SignedDuration);

#[async_trait]
impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.0
    }

    fn lease_now(&self) -> LeaseInstant {
        SystemClock.lease_now()
    }

    async fn sleep_until(&self, deadline: LeaseInstant) {
        SystemClock.sleep_until(deadline).await;
    }
}

#[test]
fn is_a_node() {
    as_child(|role, mut parent| {
        let mut words = role.splitn(4, ' ');
        let mut number = || words.next().unwrap().parse::<i64>().unwrap();
        let (skew, end) = (number(), Mark::from_millis(number()));
        let (witness, dir) = (words.next().unwrap(), words.next().unwrap());
        let witness = Arc::new(OpenOptions::new().append(true).create(true).open(witness).unwrap());
        let runs = |ctx: Context, witness: Arc<fs::File>| {
            // One write, so that no two lines mix.
            let line = format!("{} {}\n", ctx.tick().as_millisecond(), ctx.fence());
            std::future::ready((&*witness).write_all(line.as_bytes()))
        };
        let every = Every::new(Duration::from_millis(PERIOD_MS as u64)).unwrap();
        let job = Job::with_state("at once", every, witness, runs).misfire(Misfire::all(PATIENCE));
        let locks = Locks::builder(FlockBackend::open(dir).unwrap())
            .clock(Arc::new(Skewed(SignedDuration::from_millis(skew))))
            .build()
            .unwrap();
        let reached = AtomicBool::new(false);
        let observer = move |event: &Event| {
            if let What::Claimed { tick, .. } | What::Yielded { tick, .. } = event.what
                && tick > end
                && !reached.swap(true, Ordering::Relaxed)
            {
                reply("reached").unwrap();
            }
        };
        let scheduler = Scheduler::builder(locks).job(job).observe(observer).build().unwrap();
        let stopper = scheduler.stopper();
        std::thread::spawn(move || {
            parent.next();
            stopper.stop();
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(scheduler.run_until(std::future::pending::<()>())).unwrap();
    });
}

#[test]
fn a_thousand_ticks_of_a_job_that_ends_at_once_run_a_thousand_times() {
    let dir = Dir::new();
    let witness = dir.path().with_extension("witness");
    // From two seconds from now on: the first process is up by then, and makes the record.
    let first = (Timestamp::now().as_millisecond() / 1_000 + 3) * 1_000;
    let last = first + PERIOD_MS * (TICKS - 1);
    let mut fleet = Fleet::new();
    for skew in SKEWS_MS {
        let role = format!("{skew} {last} {} {}", witness.display(), dir.path().display());
        let command = this_test("fleet::is_a_node", &role).unwrap();
        fleet.start(format!("{skew} ms"), command).unwrap();
    }
    for member in fleet.members() {
        member.expect("reached", PATIENCE * 3).unwrap();
    }
    for member in fleet.members() {
        member.send("stop").unwrap();
        assert!(member.wait(PATIENCE).unwrap().success(), "{}", member.name());
    }
    let mut runs = BTreeMap::<i64, Vec<u64>>::new();
    for line in fs::read_to_string(&witness).unwrap().lines() {
        let (tick, fence) = line.split_once(' ').expect("two numbers");
        runs.entry(tick.parse().unwrap()).or_default().push(fence.parse().unwrap());
    }
    let wrong: Vec<_> = (0..TICKS)
        .map(|n| first + n * PERIOD_MS)
        .filter_map(|tick| {
            runs.get(&tick)
                .map_or(Some((tick, 0)), |runs| (runs.len() != 1).then_some((tick, runs.len())))
        })
        .collect();
    assert!(wrong.is_empty(), "ticks that did not run once: {wrong:?}");
    let fences: Vec<_> = runs.values().flatten().collect();
    assert!(fences.is_sorted_by(|a, b| a < b), "a later tick has a higher fence");
}
