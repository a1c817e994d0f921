//! Cron for fleets: every replica schedules, exactly one runs.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod caught;
mod clock;
mod error;
mod event;
mod job;
pub mod lock;
pub mod plan;
mod policy;
mod scheduler;
pub mod trigger;

pub use self::clock::{Clock, LeaseInstant, SystemClock};
pub use self::error::{BackendError, Effect, Error, Invalid, Kind, Result};
pub use self::event::{Cancelled, Event, MissedWhy, Outcome, What};
pub use self::job::{Context, IntoOutcome, IntoTrigger, Job};
pub use self::lock::Locks;
pub use self::policy::{CatchUp, Misfire};
pub use self::scheduler::{Scheduler, SchedulerBuilder, Stopper};
pub use jiff;
