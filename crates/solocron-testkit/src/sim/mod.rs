//! A fleet of real schedulers in one thread, on virtual time, with faults from a seed.
//!
//! ```text
//!   node: Scheduler, Locks ──► Link (delays, loses, cuts) ──► one MemoryBackend
//!     └─ Gate (pauses, kills)                                      └─ the store's own clock
//!   Nemesis ──► gates, links, stores, restarts          everything ──► History ──► check
//! ```
//!
//! [`run`] simulates an hour and judges it. The same seed and [`Profile`] give the same faults at the same times; what the nodes
//! make of them is theirs.

mod clock;
mod gate;
mod judge;
mod link;
mod nemesis;
mod node;
mod record;
mod rng;

pub use self::judge::Judged;

use std::sync::Arc;
use std::time::Duration;

use solocron::lock::MemoryBackend;

use self::clock::SimClock;
use self::nemesis::Nemesis;
use self::node::Fleet;
use self::record::Record;

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Kills, restarts, pauses, partitions, clean stops, lost and late messages, clocks that are wrong by up to two seconds.
    Faults,
    /// The same, and a store that forgets everything.
    Wipes,
    /// The faults of [`Faults`](Self::Faults), and only an elected leader plans and runs.
    Leader,
    /// None.
    Calm,
}

/// For how long one seed is simulated.
pub const LASTS: Duration = Duration::from_secs(3600);

/// Simulates an hour from this seed, and judges what happened.
///
/// # Panics
///
/// Where the simulation itself is broken.
#[must_use]
pub fn run(seed: u64, profile: Profile) -> Judged {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing");
    let record = Record::new();
    runtime.block_on(simulate(seed, profile, &record));
    drop(runtime);
    judge::judge(seed, profile, record.history())
}

async fn simulate(seed: u64, profile: Profile, record: &Arc<Record>) {
    clock::begin();
    record.begin();
    let store_clock = SimClock::new(0, Duration::from_secs(7));
    let store = MemoryBackend::with_clock(Arc::new(store_clock));
    let fleet = Fleet::new(seed, profile, store.clone(), Arc::clone(record));
    let nemesis = Nemesis::new(seed, profile, Arc::clone(&fleet), store.clone());
    fleet.boot_all();
    let faults = LASTS - Duration::from_secs(300);
    let _ = tokio::time::timeout(faults, nemesis.run()).await;
    fleet.heal_all();
    tokio::time::sleep(LASTS - faults).await;
    fleet.shut_down().await;
    // What a dead node left is gone after a ttl; what a living one left never goes.
    tokio::time::sleep(node::TTL * 2).await;
    record.leaks(&store).await;
}
