//! What equal jobs share: their options, and their cron triggers.
//!
//! A fleet has a thousand times more jobs than patterns: each customer's report at half past two in the customer's zone. One trigger
//! for all of those leaves a pointer a job. It is sought while jobs are added, so that the memory of one that is not needed serves
//! the next, and forgotten when the scheduler is built.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::plan::Options;
use crate::trigger::{Cron, Trigger};

/// How many triggers are remembered. A table of that many stays in a processor's cache; seeking in a larger one would take longer
/// than parsing does.
const MOST: usize = 1 << 16;

/// Triggers and options that came already.
#[derive(Default)]
pub(crate) struct Shared {
    options: HashSet<Arc<Options>>,
    /// By a hash of what they say; one whose hash another has is not shared.
    triggers: HashMap<u64, Arc<dyn Trigger>>,
    hasher: RandomState,
}

impl Shared {
    /// Replaces `options` by equal ones that came before.
    pub(crate) fn options(&mut self, options: &mut Arc<Options>) {
        if Arc::ptr_eq(options, &Options::usual()) {
            return;
        }
        match self.options.get(options) {
            Some(equal) => *options = Arc::clone(equal),
            None => drop(self.options.insert(Arc::clone(options))),
        }
    }

    /// Replaces `trigger` by an equal one that came before. Other triggers than cron patterns are either smaller than what looking
    /// for them would take, or somebody else's.
    pub(crate) fn trigger(&mut self, trigger: &mut Arc<dyn Trigger>) {
        let Some(cron) = as_cron(trigger) else { return };
        let hash = self.hasher.hash_one(cron.key());
        match self.triggers.get(&hash) {
            Some(before) if as_cron(before).is_some_and(|before| before.is_like(cron)) => {
                *trigger = Arc::clone(before);
            }
            Some(_) => {}
            None if self.triggers.len() >= MOST => {}
            None => drop(self.triggers.insert(hash, Arc::clone(trigger))),
        }
    }
}

fn as_cron(trigger: &Arc<dyn Trigger>) -> Option<&Cron> {
    let any: &dyn Any = &**trigger;
    any.downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lock::Delivery;
    use crate::trigger::DstGap;

    fn cron(pattern: &str) -> Cron {
        Cron::parse(pattern).unwrap()
    }

    #[test]
    fn equal_patterns_share_one_trigger_and_others_do_not() {
        let mut shared = Shared::default();
        let mut share = |cron: Cron| {
            let mut trigger: Arc<dyn Trigger> = Arc::new(cron);
            shared.trigger(&mut trigger);
            trigger
        };
        let first = share(cron("0 3 * * *"));
        assert!(Arc::ptr_eq(&first, &share(cron(" 0 3 * * *"))));
        for other in [
            cron("0 4 * * *"),
            // The same instants, but another text to show.
            cron("0 03 * * *"),
            cron("0 3 * * *").time_zone("Europe/Berlin").unwrap(),
            cron("0 3 * * *").time_zone("Etc/UTC").unwrap(),
            cron("0 3 * * *").gap(DstGap::Skip),
        ] {
            assert!(!Arc::ptr_eq(&first, &share(other)));
        }
    }

    #[test]
    fn equal_options_are_one() {
        let mut shared = Shared::default();
        let mut share = |max_runtime, delivery| {
            let mut options = Arc::new(Options { max_runtime, delivery, ..Options::default() });
            shared.options(&mut options);
            options
        };
        let minute = Some(Duration::from_secs(60));
        let first = share(minute, Delivery::AtMostOnce);
        assert!(Arc::ptr_eq(&first, &share(minute, Delivery::AtMostOnce)));
        assert!(!Arc::ptr_eq(&first, &share(None, Delivery::AtMostOnce)));
    }
}
