//! Who does the harm.

use std::sync::Arc;
use std::time::Duration;

use solocron::lock::MemoryBackend;

use super::Profile;
use super::node::{Fleet, TTL};
use super::rng::Rng;
use crate::history::{EVERYBODY, What};

/// Harms a fleet, from a seed.
pub(super) struct Nemesis {
    rng: Rng,
    profile: Profile,
    fleet: Arc<Fleet>,
    store: MemoryBackend,
}

impl Nemesis {
    pub(super) fn new(
        seed: u64,
        profile: Profile,
        fleet: Arc<Fleet>,
        store: MemoryBackend,
    ) -> Self {
        Self { rng: Rng::new(seed, 3), profile, fleet, store }
    }

    pub(super) async fn run(mut self) {
        if self.profile == Profile::Calm {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(self.rng.millis(1_000..25_000)).await;
            self.harm();
        }
    }

    fn harm(&mut self) {
        let (rng, fleet) = (&mut self.rng, Arc::clone(&self.fleet));
        let node = rng.below(fleet.nodes() as u64) as usize;
        let kinds = if self.profile == Profile::Wipes { 8 } else { 7 };
        match rng.below(kinds) {
            0 | 1 => {
                fleet.kill(node);
                after(rng.millis(100..30_000), move || fleet.boot(node));
            }
            2 => {
                fleet.pause(node);
                after(rng.millis(200..5_000), move || fleet.resume(node));
            }
            3 => {
                fleet.pause(node);
                after(rng.millis(5_000..40_000), move || fleet.resume(node));
            }
            4 => {
                fleet.cut(node);
                after(rng.millis(500..30_000), move || fleet.connect(node));
            }
            5 => {
                fleet.stop(node);
                after(rng.millis(25_000..60_000), move || fleet.boot(node));
            }
            6 => {
                fleet.noise(20 + rng.below(180));
                after(rng.millis(5_000..60_000), move || fleet.noise(0));
            }
            _ => {
                let fault = |heal| {
                    let (kind, node) = ("wipe".to_owned(), EVERYBODY.to_owned());
                    let what =
                        if heal { What::Heal { kind, node } } else { What::Fault { kind, node } };
                    fleet.record.write("harness", 0, what);
                };
                fault(false);
                self.store.forget();
                let healed = Arc::clone(&fleet);
                // It is over when the first grant may come.
                after(TTL + Duration::from_secs(2), move || {
                    let (kind, node) = ("wipe".to_owned(), EVERYBODY.to_owned());
                    healed.record.write("harness", 0, What::Heal { kind, node });
                });
            }
        }
    }
}

fn after(time: Duration, then: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        then();
    });
}
