//! Who waits for which lock key.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// A bell for each lock key that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<HashMap<Vec<u8>, watch::Sender<()>>>);

impl Bells {
    fn bells(&self) -> MutexGuard<'_, HashMap<Vec<u8>, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears every ring of this key from now on.
    pub(crate) fn listen(&self, lock_key: &[u8]) -> watch::Receiver<()> {
        let mut bells = self.bells();
        if bells.len().is_power_of_two() {
            bells.retain(|_, bell| bell.receiver_count() > 0);
        }
        bells.entry(lock_key.to_vec()).or_default().subscribe()
    }

    pub(crate) fn ring(&self, lock_key: &[u8]) {
        if let Some(bell) = self.bells().get(lock_key) {
            bell.send_replace(());
        }
    }

    pub(crate) fn ring_all(&self) {
        for bell in self.bells().values() {
            bell.send_replace(());
        }
    }
}
