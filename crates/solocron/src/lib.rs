//! Cron for fleets: every replica schedules, exactly one runs.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod error;
pub mod lock;
pub mod trigger;

pub use self::clock::{Clock, LeaseInstant, SystemClock};
pub use self::error::{BackendError, Effect, Error, Invalid, Kind, Result};
pub use jiff;
