//! What this process remembers of the store's memory, so that a store which lost it cannot pass for a new one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use solocron::lock::{Epoch, Nonce};

/// The epoch that this process was told last.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Option<String>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // One assignment cannot be left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is, for the store to compare; empty where nothing is known yet.
    pub(crate) fn known(&self) -> String {
        self.lock().clone().unwrap_or_default()
    }

    /// The name of the next epoch, should the store need one.
    pub(crate) fn candidate() -> String {
        format!("{:032x}", Nonce::random().as_u128())
    }

    /// The store's epoch is this one. Says whether it was another one before.
    pub(crate) fn learn(&self, epoch: &str) -> bool {
        let mut known = self.lock();
        match &mut *known {
            Some(known) if known == epoch => false,
            known => known.replace(epoch.to_owned()).is_some(),
        }
    }
}

/// An epoch's name as a number.
pub(crate) fn number(epoch: &str) -> Option<Epoch> {
    u128::from_str_radix(epoch, 16).ok().map(Epoch)
}
