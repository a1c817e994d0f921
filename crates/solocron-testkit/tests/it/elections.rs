//! Random elections over a lying store, in virtual time: whoever is killed, deposed, expired or forgotten, every reader is told every
//! transition in its order, however slowly it reads, no two believe in their leadership at a time, and in the end somebody leads.
//!
//! A failure prints its seed. `SOLOCRON_SEED=7` runs that one alone, `SOLOCRON_ROUNDS=1000` runs more of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use solocron::leader::{Elector, Leadership, Transition};
use solocron::lock::{
    Fence, Keeper, LockBackend, LockKey, LockOptions, Locks, MarkAfter, MemoryBackend,
};
use solocron_testkit::{Dice, Faulty, Odds};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::faults::Virtual;

const TTL: Duration = Duration::from_secs(2);
const LASTS: Duration = Duration::from_secs(120);
const GROUP: &str = "group";

/// One kind of world.
#[derive(Debug, Clone, Copy)]
struct World {
    process_bound: bool,
    /// Leases end early, operators take them, the store forgets: then two may believe for as long as the news travels.
    mischief: bool,
}

/// All terms of all processes.
#[derive(Debug, Default)]
struct Truth {
    fences: BTreeSet<Fence>,
    ends: usize,
}

/// What one process has read so far.
#[derive(Debug, Default)]
struct Reader {
    leading: Option<Fence>,
    last: Option<Fence>,
}

impl Reader {
    fn read(&mut self, transition: &Transition, truth: &Mutex<Truth>) {
        let mut truth = truth.lock().expect("the first failed assertion ends the test");
        match transition {
            Transition::Elected(leadership) => {
                let fence = leadership.fence();
                assert_eq!(self.leading, None, "elected twice in a row: {transition:?}");
                assert!(self.last.is_none_or(|last| last < fence), "{:?} {fence}", self.last);
                assert!(truth.fences.insert(fence), "fence {fence} was given twice");
                (self.leading, self.last) = (Some(fence), Some(fence));
            }
            Transition::Lost { fence, .. } | Transition::Resigned { fence } => {
                assert_eq!(self.leading.take(), Some(*fence), "{transition:?} ends another term");
                truth.ends += 1;
            }
            _ => assert_eq!(self.leading, None, "{transition:?} in the middle of a term"),
        }
    }
}

/// One process: it ends with everything it has, or in peace.
struct Process {
    liar: Faulty<MemoryBackend>,
    locks: Locks,
    tasks: Arc<Mutex<(bool, Vec<AbortHandle>)>>,
    terms: Arc<Mutex<Option<Leadership>>>,
    orders: tokio::sync::mpsc::UnboundedSender<&'static str>,
    over: Arc<Notify>,
}

impl Process {
    fn start(
        memory: &MemoryBackend,
        clock: Virtual,
        dice: &mut Dice,
        truth: &Arc<Mutex<Truth>>,
    ) -> Self {
        let odds = Odds {
            fail: 40,
            lost_reply: 60,
            late: 60,
            hang: 10,
            delay: 100,
            longest_delay: Duration::from_millis(150),
        };
        let liar = Faulty::seeded(memory.clone(), dice.roll(), odds);
        let tasks = Arc::new(Mutex::new((false, Vec::new())));
        let spawned = Arc::clone(&tasks);
        let keeper = Keeper::with(move |work| {
            let mut tasks = spawned.lock().expect("no task panics");
            if !tasks.0 {
                tasks.1.push(tokio::spawn(work).abort_handle());
            }
        });
        let skew = SignedDuration::from_millis(dice.below(4_001) as i64 - 2_000);
        let locks = Locks::builder(liar.clone())
            .options(LockOptions::default().ttl(TTL).request_timeout(Duration::from_millis(200)))
            .clock(Arc::new(clock.skewed(skew)))
            .keeper(keeper.clone())
            .build()
            .expect("the options fit");
        let elector = Elector::campaign(&locks, GROUP).expect("a good name");
        let terms = Arc::new(Mutex::new(None));
        let (orders, to_do) = tokio::sync::mpsc::unbounded_channel();
        let over = Arc::new(Notify::new());
        let reading =
            read(elector, Dice::new(dice.roll()), Arc::clone(truth), Arc::clone(&terms), to_do);
        let end = Arc::clone(&over);
        keeper.spawn(async move {
            reading.await;
            end.notify_one();
        });
        Self { liar, locks, tasks, terms, orders, over }
    }

    /// As `kill -9`.
    fn kill(&self) {
        let tasks = {
            let mut tasks = self.tasks.lock().expect("no task panics");
            tasks.0 = true;
            std::mem::take(&mut tasks.1)
        };
        tasks.iter().for_each(AbortHandle::abort);
        *self.terms.lock().expect("no reader panics") = None;
    }

    /// Whether it would act as the leader now.
    fn believes(&self) -> Option<Fence> {
        let term = self.terms.lock().expect("no reader panics").clone();
        term.and_then(|term| term.check().ok())
    }
}

/// Reads slowly, and does what it is told.
async fn read(
    mut elector: Elector,
    mut dice: Dice,
    truth: Arc<Mutex<Truth>>,
    terms: Arc<Mutex<Option<Leadership>>>,
    mut orders: tokio::sync::mpsc::UnboundedReceiver<&'static str>,
) {
    let mut reader = Reader::default();
    loop {
        tokio::select! {
            order = orders.recv() => match order.expect("the process lives") {
                // Over a lying store, the answer may be that it goes on in the background.
                "step down" => drop(elector.step_down().await),
                "resign" => drop(elector.resign().await),
                _ => break drop(elector),
            },
            transition = elector.next() => {
                let Some(transition) = transition else { break };
                reader.read(&transition, &truth);
                if let Transition::Elected(leadership) = transition {
                    *terms.lock().expect("no reader panics") = Some(leadership);
                }
                if dice.per_mille(100) {
                    tokio::time::sleep(Duration::from_millis(dice.below(3_000))).await;
                }
            }
        }
    }
}

async fn live(world: World, seed: u64) -> (usize, usize) {
    let wall = Timestamp::from_second(1_800_000_000).expect("a good time");
    let clock = Virtual::new(Instant::now(), wall);
    let mut memory = MemoryBackend::with_clock(Arc::new(clock));
    if world.process_bound {
        memory = memory.process_bound();
    }
    let key = LockKey::of_leader(GROUP).expect("a good name");
    let truth = Arc::new(Mutex::new(Truth::default()));
    let mut dice = Dice::new(seed);
    let mut processes: Vec<_> =
        (0..4).map(|_| Process::start(&memory, clock, &mut dice, &truth)).collect();
    let (end, mut unsettled) = (Instant::now() + LASTS, Instant::now());
    let mut next = Instant::now();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let believers: Vec<_> = processes.iter().filter_map(Process::believes).collect();
        let excused = world.mischief && Instant::now() < unsettled;
        assert!(believers.len() <= 1 || excused, "two lead: {believers:?}");
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + Duration::from_millis(50 + dice.below(2_000));
        let one = dice.below(processes.len() as u64) as usize;
        match dice.below(if world.mischief { 8 } else { 5 }) {
            0 => {
                processes[one].kill();
                processes[one] = Process::start(&memory, clock, &mut dice, &truth);
            }
            1 => {
                let _ = processes[one].orders.send("drop"); // it may have ended by itself
                processes[one].over.notified().await;
                processes[one] = Process::start(&memory, clock, &mut dice, &truth);
            }
            2 => {
                let _ = processes[one].orders.send("resign"); // it may have ended by itself
                processes[one].over.notified().await;
                processes[one] = Process::start(&memory, clock, &mut dice, &truth);
            }
            3 | 4 => {
                for process in &processes {
                    if process.believes().is_some() {
                        let _ = process.orders.send("step down"); // it may have ended by itself
                    }
                }
            }
            // Over in the store; the news comes with the push, or with the next renewal.
            5 => {
                memory.expire(&key);
                unsettled = Instant::now() + TTL;
            }
            6 => {
                memory.forget();
                unsettled = Instant::now() + TTL;
            }
            _ => {
                let holders =
                    memory.holders(key.as_str()).await.expect("it tells").expect("it can");
                if let Some(nonce) = holders.first().and_then(|holder| holder.nonce) {
                    let revoked = memory.revoke(&key, nonce, MarkAfter::Unfinished).await;
                    revoked.expect("the store answers");
                    unsettled = Instant::now() + TTL;
                }
            }
        }
    }
    // The trouble is over: what is late arrives, and one of them leads.
    for process in &processes {
        process.liar.calm();
        process.liar.deliver_late().await;
    }
    tokio::time::sleep(TTL * 8).await;
    let leaders: Vec<_> = processes.iter().filter_map(Process::believes).collect();
    assert_eq!(leaders.len(), 1, "one leads in the end");
    for process in &processes {
        let _ = process.orders.send("resign"); // it may have ended by itself
        process.over.notified().await;
        process.locks.settled().await;
    }
    assert!(memory.holders("").await.expect("it tells").expect("it can").is_empty());
    let truth = truth.lock().expect("nobody failed");
    (truth.fences.len(), truth.ends)
}

fn survive(world: World) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SOLOCRON_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SOLOCRON_ROUNDS").unwrap_or(25),
    };
    let mut terms = 0;
    for seed in seeds.clone() {
        let told = Told(seed, world);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let (elected, ended) = runtime.expect("a runtime").block_on(live(world, seed));
        assert!(ended * 3 > elected, "{ended} ends of {elected} terms were read");
        terms += elected;
        drop(told);
    }
    let seeds = (seeds.end - seeds.start) as usize;
    assert!(terms > seeds * 20, "{terms} terms in {seeds} rounds: too much trouble to learn from");
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

#[test]
fn never_two_lead_over_a_lying_store() {
    survive(World { process_bound: false, mischief: false });
}

#[test]
fn never_two_lead_over_a_lying_local_store() {
    survive(World { process_bound: true, mischief: false });
}

#[test]
fn transitions_are_in_order_over_a_store_that_takes_leases_back_and_forgets() {
    survive(World { process_bound: false, mischief: true });
}

#[test]
fn transitions_are_in_order_over_a_local_store_that_takes_leases_back_and_forgets() {
    survive(World { process_bound: true, mischief: true });
}
