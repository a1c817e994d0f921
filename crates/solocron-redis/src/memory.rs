//! What this process remembers of the store's memory, so that a store which lost it cannot pass for a new one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use solocron::lock::Epoch;

use crate::reply::{Odd, Result};

/// The record of the epoch, as `lua/epoch.lua` draws it: "SLE1", its name, two times, and the server process that it was seen on.
const NAME: std::ops::Range<usize> = 4..20;
const RUN: usize = 36;

/// The epoch that this process was told last.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Option<Arc<[u8]>>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<[u8]>>> {
        // One assignment cannot be left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its record, as it should stand on this server process; nothing where nothing is known yet.
    pub(crate) fn known(&self, run: &str) -> Arc<[u8]> {
        let Some(known) = self.lock().clone() else { return Arc::default() };
        if run.is_empty() || known[RUN..] == *run.as_bytes() {
            return known;
        }
        [&known[..RUN], run.as_bytes()].concat().into()
    }

    /// The store's epoch is this one. Says whether it was another one before.
    pub(crate) fn learn(&self, epoch: &[u8]) -> Result<bool> {
        // Nothing is told where it is the one that we know.
        if epoch.is_empty() {
            return Ok(false);
        }
        if epoch.len() < RUN {
            return Err(Odd("epoch"));
        }
        let before = self.lock().replace(epoch.into());
        Ok(before.is_some_and(|before| before[NAME] != epoch[NAME]))
    }

    /// Its name, as a number.
    pub(crate) fn number(&self) -> Option<Epoch> {
        let known = self.lock();
        let name = known.as_ref()?[NAME].try_into().ok()?;
        Some(Epoch(u128::from_be_bytes(name)))
    }
}
