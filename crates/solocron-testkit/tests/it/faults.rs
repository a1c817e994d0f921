//! Random fleets over a lying store, in virtual time: whatever is lost, late, cut off or forgotten on the way, no tick is run
//! twice, nobody is inside together, and no mark goes back.
//!
//! A failure prints its seed. `SOLOCRON_SEED=7` runs that one alone, `SOLOCRON_ROUNDS=1000` runs more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use solocron::lock::{
    Claim, ClaimGuard, ClaimReply, Delivery, Enrolment, Fence, Keeper, LockKey, LockOptions, Locks,
    Mark, MemoryBackend, Released,
};
use solocron::{Clock, Error, Kind, LeaseInstant};
use solocron_testkit::{Call, Dice, Fault, Faulty, Odds};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(2);
const PERIOD: i64 = 100;
const TICKS: i64 = 40;
const ATTEMPTS: u32 = 3;

/// tokio's paused clock, seen by a node whose wall clock is off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Virtual {
    origin: Instant,
    wall: Timestamp,
    skew: SignedDuration,
}

impl Virtual {
    /// Starts at `wall`, now.
    pub(crate) fn new(origin: Instant, wall: Timestamp) -> Self {
        Self { origin, wall, skew: SignedDuration::ZERO }
    }

    pub(crate) fn skewed(self, skew: SignedDuration) -> Self {
        Self { skew, ..self }
    }
}

#[async_trait]
impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.origin.elapsed()).expect("a short test");
        self.wall + passed + self.skew
    }

    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_origin(self.origin.elapsed())
    }

    async fn sleep_until(&self, deadline: LeaseInstant) {
        if deadline == LeaseInstant::NEVER {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.origin + deadline.since_origin()).await;
    }
}

/// One kind of world.
#[derive(Debug, Clone, Copy)]
struct World {
    process_bound: bool,
    delivery: Delivery,
    /// Leases end early and the store forgets: two may be inside for a while, which is what fences are for.
    mischief: bool,
}

/// What has really happened so far.
#[derive(Debug, Default)]
struct Truth {
    starts: BTreeMap<Mark, Vec<(Fence, u32)>>,
    finished: BTreeSet<Mark>,
    fences: BTreeSet<Fence>,
    inside: BTreeMap<&'static str, i32>,
}

impl Truth {
    fn enter(&mut self, door: &'static str, world: World) {
        let inside = self.inside.entry(door).or_default();
        *inside += 1;
        assert!(world.mischief || *inside == 1, "two inside of {door}");
    }

    fn leave(&mut self, door: &'static str) {
        *self.inside.entry(door).or_default() -= 1;
    }

    fn start(&mut self, claimed: &ClaimGuard, world: World) {
        let (tick, fence) = (claimed.tick, claimed.lease.fence());
        if !world.mischief {
            assert!(self.fences.last().is_none_or(|last| *last < fence), "fences out of order");
        }
        assert!(self.fences.insert(fence), "fence {fence} was given twice");
        assert!(!self.finished.contains(&tick), "tick {tick} runs again after its end");
        let starts = self.starts.entry(tick).or_default();
        match world.delivery {
            Delivery::AtMostOnce => assert!(starts.is_empty(), "tick {tick} is run twice"),
            _ => assert!(
                starts.last().is_none_or(|(_, attempt)| *attempt < claimed.attempt),
                "attempt {} of tick {tick} after {starts:?}",
                claimed.attempt
            ),
        }
        assert!(claimed.attempt <= ATTEMPTS);
        starts.push((fence, claimed.attempt));
    }
}

#[derive(Clone)]
struct Node {
    locks: Locks,
    clock: Virtual,
    memory: MemoryBackend,
    world: World,
    key: LockKey,
    truth: Arc<Mutex<Truth>>,
}

impl Node {
    fn truth(&self) -> std::sync::MutexGuard<'_, Truth> {
        self.truth.lock().expect("the first failed assertion ends the test")
    }

    /// No mark stands before a tick that was started. A forgotten record has none, and takes no claims.
    fn look(&self) {
        let last = self.memory.record(&self.key).and_then(|record| record.last().cloned());
        let started = self.truth().starts.keys().last().copied();
        if let (Some(last), Some(started)) = (last, started) {
            assert!(last.mark >= started, "the mark {} lies before {started}", last.mark);
        }
    }

    async fn live(self, mut dice: Dice, first: Mark) {
        for n in 0..TICKS {
            let tick = Mark::from_millis(first.as_millis() + n * PERIOD);
            let due = tick.timestamp().duration_since(self.clock.now());
            self.clock.sleep(due.try_into().unwrap_or_default()).await;
            self.handle(tick, &mut dice).await;
            if dice.per_mille(200) {
                self.visit(&mut dice).await;
            }
        }
    }

    async fn handle(&self, mut tick: Mark, dice: &mut Dice) {
        for _ in 0..8 {
            let claim = Claim { tick, after: None, delivery: self.world.delivery };
            // Sometimes the caller is gone before the answer is there.
            let patience =
                Duration::from_millis(if dice.per_mille(150) { dice.below(30) } else { 5_000 });
            let claiming = self.locks.claim(&self.key, claim);
            let Ok(reply) = tokio::time::timeout(patience, claiming).await else { continue };
            self.look();
            match reply {
                Ok(ClaimReply::Won(claimed)) => return self.run(*claimed, dice).await,
                Ok(ClaimReply::Stale { .. }) => return,
                Ok(ClaimReply::Behind { mark, .. }) => tick = mark,
                Ok(ClaimReply::Early { .. }) => self.pause(dice, 10).await,
                Ok(ClaimReply::Busy(_)) => self.pause(dice, 40).await,
                Err(Error::Backend { source, .. }) if source.kind() == Kind::NotEnrolled => {
                    let job = Enrolment { key: self.key.clone(), fingerprint: 1 };
                    // Trouble here is trouble of the next round.
                    drop(self.locks.enroll(&[job]).await);
                }
                Err(_) => self.pause(dice, 40).await,
                Ok(other) => panic!("{other:?}"),
            }
        }
    }

    async fn run(&self, claimed: ClaimGuard, dice: &mut Dice) {
        if dice.per_mille(100) {
            // Never started; an error means that it is undone in the background.
            drop(claimed.undo().await);
            return;
        }
        if claimed.lease.check().is_err() {
            return;
        }
        self.truth().start(&claimed, self.world);
        self.truth().enter("job", self.world);
        self.look();
        let longest = if dice.per_mille(50) { 5_000 } else { 120 };
        let work = Duration::from_millis(dice.below(longest));
        let outcome = claimed.lease.run(self.clock.sleep(work)).await;
        self.truth().leave("job");
        let tick = claimed.tick;
        if outcome.is_ok() && !dice.per_mille(150) {
            if let Ok(Released::Done) = claimed.lease.release().await {
                self.truth().finished.insert(tick);
            }
        } else {
            drop(claimed);
        }
        self.look();
    }

    /// A plain lock in between.
    async fn visit(&self, dice: &mut Dice) {
        let patience = Duration::from_millis(dice.below(300));
        let locking = self.locks.lock("door", Duration::from_millis(200));
        let Ok(Ok(guard)) = tokio::time::timeout(patience, locking).await else { return };
        if guard.check().is_err() {
            return;
        }
        self.truth().enter("door", self.world);
        let work = Duration::from_millis(dice.below(50));
        // Lost or not: it is over.
        drop(guard.run(self.clock.sleep(work)).await);
        self.truth().leave("door");
        if dice.per_mille(500) {
            drop(guard.release().await);
        }
    }

    async fn pause(&self, dice: &mut Dice, longest_ms: u64) {
        self.clock.sleep(Duration::from_millis(1 + dice.below(longest_ms))).await;
    }
}

/// Lives through one seed. Answers with how many ticks were started.
async fn live(world: World, seed: u64) -> usize {
    let origin = Instant::now();
    let wall = Timestamp::from_second(1_800_000_000).expect("a date");
    let clock = Virtual::new(origin, wall);
    let mut memory = MemoryBackend::with_clock(Arc::new(clock));
    if world.process_bound {
        memory = memory.process_bound();
    }
    let key = LockKey::new("job").expect("a good name");
    let truth = Arc::new(Mutex::new(Truth::default()));
    let mut dice = Dice::new(seed);
    let odds = Odds {
        fail: 40,
        lost_reply: 60,
        late: 60,
        hang: 20,
        delay: 100,
        longest_delay: Duration::from_millis(150),
    };
    let first = Mark::from_millis(Mark::floor(wall).as_millis() + PERIOD);
    let (mut nodes, mut liars, mut tasks) = (Vec::new(), Vec::new(), tokio::task::JoinSet::new());
    for _ in 0..3 {
        let mut liar = Faulty::seeded(memory.clone(), dice.roll(), odds);
        if world.mischief {
            let (forgets, expires, victim) = (memory.clone(), memory.clone(), key.clone());
            liar = liar
                .mischief(2, move || forgets.forget())
                .mischief(20, move || expires.expire(&victim));
        }
        let skew = SignedDuration::from_millis(dice.below(61) as i64 - 30);
        let clock = clock.skewed(skew);
        let options = LockOptions::default().ttl(TTL).request_timeout(Duration::from_millis(200));
        let locks = Locks::builder(liar.clone())
            .options(options)
            .clock(Arc::new(clock))
            .keeper(Keeper::current())
            .build()
            .expect("the options fit");
        let (memory, key, truth) = (memory.clone(), key.clone(), Arc::clone(&truth));
        let node = Node { locks, clock, memory, world, key, truth };
        tasks.spawn(node.clone().live(Dice::new(dice.roll()), first));
        nodes.push(node);
        liars.push(liar);
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no node fails an assertion");
    }
    // The trouble is over: what is late arrives, everything is given back, and the next tick is run.
    for liar in &liars {
        liar.calm();
        liar.deliver_late().await;
    }
    for node in &nodes {
        node.locks.settled().await;
        node.look();
    }
    clock.sleep(TTL * 2).await;
    let job = Enrolment { key: key.clone(), fingerprint: 1 };
    nodes[0].locks.enroll(&[job]).await.expect("a calm store answers");
    clock.sleep(TTL * 2).await;
    let mut tick = Mark::floor(clock.now());
    let claimed = loop {
        let claim = Claim { tick, after: None, delivery: world.delivery };
        match nodes[1].locks.claim(&key, claim).await.expect("a calm store answers") {
            ClaimReply::Won(claimed) if claimed.tick == Mark::floor(clock.now()) => break claimed,
            ClaimReply::Won(unfinished) => {
                unfinished.lease.release().await.expect("a calm store answers");
                tick = Mark::floor(clock.now());
            }
            ClaimReply::Behind { mark, .. } => tick = mark,
            other => panic!("a new tick of a calm store was answered with {other:?}"),
        }
    };
    claimed.lease.release().await.expect("a calm store answers");
    let door = nodes[2].locks.try_lock("door").await.expect("a calm store answers");
    assert!(door.won().is_some(), "somebody left the door locked");
    truth.lock().expect("nobody failed").starts.len()
}

fn survive(world: World) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SOLOCRON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SOLOCRON_ROUNDS").unwrap_or(25),
    };
    let mut started = 0;
    for seed in seeds.clone() {
        let told = Told(seed, world);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        started += runtime.expect("a runtime").block_on(live(world, seed));
        drop(told);
    }
    let ticks = (seeds.end - seeds.start) as usize * TICKS as usize;
    assert!(
        started * 3 > ticks,
        "{started} of {ticks} ticks were started: too much trouble to learn from"
    );
}

/// Prints its seed if the test fails.
struct Told(u64, World);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SOLOCRON_SEED={} in {:?}", self.0, self.1);
        }
    }
}

const AGAIN: Delivery = Delivery::AtLeastOnce { max_attempts: ATTEMPTS };

#[test]
fn no_tick_is_run_twice_over_a_lying_store() {
    survive(World { process_bound: false, delivery: Delivery::AtMostOnce, mischief: false });
}

#[test]
fn no_tick_is_run_twice_over_a_lying_local_store() {
    survive(World { process_bound: true, delivery: Delivery::AtMostOnce, mischief: false });
}

#[test]
fn no_tick_is_run_twice_over_a_store_that_forgets() {
    survive(World { process_bound: false, delivery: Delivery::AtMostOnce, mischief: true });
}

#[test]
fn attempts_are_bounded_and_ordered_over_a_lying_store() {
    survive(World { process_bound: false, delivery: AGAIN, mischief: false });
}

#[test]
fn attempts_are_bounded_and_ordered_over_a_lying_local_store() {
    survive(World { process_bound: true, delivery: AGAIN, mischief: false });
}

/// What a seeded liar did to a hundred calls.
async fn lies(seed: u64) -> String {
    let odds = Odds { fail: 200, lost_reply: 200, late: 200, ..Odds::default() };
    let liar = Faulty::seeded(MemoryBackend::new(), seed, odds);
    let mut lies = String::new();
    for _ in 0..100 {
        lies.push(match solocron::lock::LockBackend::epoch(&liar).await {
            Ok(_) => '.',
            Err(error) if error.effect() == solocron::Effect::Unknown => '?',
            Err(_) => 'x',
        });
    }
    lies
}

#[tokio::test]
async fn the_same_seed_tells_the_same_lies() {
    let first = lies(7).await;
    assert_eq!(lies(7).await, first);
    assert_ne!(lies(8).await, first);
    assert!(['.', '?', 'x'].iter().all(|lie| first.contains(*lie)), "{first}");
}

#[tokio::test]
async fn a_script_is_followed_call_by_call() {
    let script = [(Call::Epoch, Fault::Fail), (Call::Holders, Fault::LostReply)];
    let liar = Faulty::script(MemoryBackend::new(), script);
    let locks = Locks::new(liar.clone()).expect("the options fit");
    assert!(locks.holders("").await.is_err());
    assert!(locks.holders("").await.is_ok());
    assert!(solocron::lock::LockBackend::epoch(&liar).await.is_err());
    assert!(solocron::lock::LockBackend::epoch(&liar).await.is_ok());
    assert_eq!((liar.calls(Call::Epoch), liar.calls(Call::Holders)), (2, 2));
}
