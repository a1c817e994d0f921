//! What the plan must know of a job, and its trigger held to its laws.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::caught::message;
use crate::error::Invalid;
use crate::lock::{Delivery, Mark};
use crate::policy::Misfire;
use crate::trigger::Trigger;

/// What the plan must know of a job.
///
/// The trigger is held to its laws: a panic, a tick that does not lead on, or one finer than a millisecond ends the job's schedule
/// and nothing else.
#[derive(Debug, Clone)]
pub struct JobPlan {
    trigger: Arc<dyn Trigger>,
    options: Arc<Options>,
}

/// What most jobs of a node have in common, and share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Options {
    pub(crate) misfire: Misfire,
    pub(crate) delivery: Delivery,
    pub(crate) max_runtime: Option<Duration>,
}

impl Options {
    /// Those of a job that says nothing.
    pub(crate) fn usual() -> Arc<Self> {
        static USUAL: OnceLock<Arc<Options>> = OnceLock::new();
        Arc::clone(USUAL.get_or_init(Arc::default))
    }

    /// Whether a job can be run like this.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        self.misfire.check()?;
        if let Delivery::AtLeastOnce { max_attempts: 0 } = self.delivery {
            let why = "a run needs at least one attempt: choose 2 or more";
            return Err(Invalid::new("max_attempts", 0, why));
        }
        if self.max_runtime.is_some_and(|limit| limit.is_zero()) {
            let why = "no run ends in no time: leave it out for no limit";
            return Err(Invalid::new("max_runtime", "0s", why));
        }
        Ok(())
    }
}

impl JobPlan {
    /// When a job is due, what happens to its unclaimed ticks, and what to its unfinished runs.
    #[must_use]
    pub fn new(trigger: Arc<dyn Trigger>, misfire: Misfire, delivery: Delivery) -> Self {
        let options = Options { misfire, delivery, max_runtime: None };
        Self::with_options(trigger, Arc::new(options))
    }

    pub(crate) fn with_options(trigger: Arc<dyn Trigger>, options: Arc<Options>) -> Self {
        Self { trigger, options }
    }

    /// As [`Trigger::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.trigger.fingerprint()
    }

    pub(crate) fn misfire(&self) -> Misfire {
        self.options.misfire
    }

    pub(crate) fn delivery(&self) -> Delivery {
        self.options.delivery
    }

    pub(crate) fn max_runtime(&self) -> Option<Duration> {
        self.options.max_runtime
    }

    pub(crate) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.lawful(|trigger| trigger.next_after(after), |tick| tick > after)
    }

    pub(crate) fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.lawful(|trigger| trigger.last_at_or_before(at), |tick| tick <= at)
    }

    fn lawful(
        &self,
        asked: impl FnOnce(&dyn Trigger) -> Option<Timestamp>,
        lawful: impl FnOnce(Timestamp) -> bool,
    ) -> Option<Timestamp> {
        let trigger = &*self.trigger;
        match catch_unwind(AssertUnwindSafe(|| asked(trigger))) {
            Ok(None) => None,
            Ok(Some(tick)) if lawful(tick) && Mark::of(tick).is_ok() => Some(tick),
            Ok(Some(tick)) => {
                tracing::error!(?trigger, %tick, "a trigger broke its laws; its job is due no more");
                None
            }
            Err(panic) => {
                tracing::error!(
                    ?trigger,
                    panic = message(&*panic),
                    "a trigger panicked; its job is due no more"
                );
                None
            }
        }
    }
}
