//! How many connections of others this process keeps, for all of its locks together: descriptors are a shared good of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, getrlimit};

/// The guests of one process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests(Arc<AtomicUsize>);

/// One of them. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Guest(Guests);

impl Guests {
    /// `None`: there are too many.
    pub(crate) fn admit(&self) -> Option<Guest> {
        let guest = Guest(self.clone());
        (self.0.fetch_add(1, Ordering::Relaxed) < most()).then_some(guest)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A quarter of the descriptors that this process may have now, and never more than 4096.
fn most() -> usize {
    const MOST: u64 = 4096;
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST, |(soft, _)| soft as u64);
    (soft / 4).min(MOST) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_makes_room_and_whoever_is_turned_away_takes_none() {
        let guests = Guests::default();
        let kept: Vec<_> = std::iter::from_fn(|| guests.admit()).collect();
        assert_eq!(kept.len(), most());
        assert!(guests.admit().is_none() && guests.admit().is_none());
        drop(kept);
        assert!(guests.admit().is_some());
    }
}
