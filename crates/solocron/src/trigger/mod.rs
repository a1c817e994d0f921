//! Triggers: when a job is due, as a pure function of time.
//!
//! Every replica of a fleet computes the same instants from the same trigger, without talking to
//! the others; which of them runs a tick is decided elsewhere. A trigger therefore never reads a
//! clock, never draws a random number and keeps no state.
//!
//! | trigger | due |
//! |---|---|
//! | [`Every`] | each time an interval has passed since the Unix epoch |
//! | [`At`] | at one instant, or at a list of them |
//! | [`Cron`] | when the wall clock of a time zone matches a cron pattern |
//!
//! # What a trigger does not promise
//!
//! That a tick is run: a replica may be down, and a misfire policy may drop the tick. That two
//! replicas with different time zone databases agree: after a country changes its rules, the
//! instants of a [`Cron`] in that country agree once all hosts have the new rules. And that a tick
//! is *reached* at its instant: clocks differ; a scheduler may be late, never early.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use solocron::trigger::{Cron, Every, Trigger};
//!
//! let backup = Cron::parse("30 2 * * *")?.time_zone("Europe/Berlin")?;
//! let noon = "2026-07-01T12:00:00Z".parse()?;
//! assert_eq!(backup.next_after(noon), Some("2026-07-02T00:30:00Z".parse()?));
//! assert_eq!(backup.last_at_or_before(noon), Some("2026-07-01T00:30:00Z".parse()?));
//!
//! let poll = Every::new(Duration::from_secs(90))?;
//! assert_eq!(poll.next_after(noon), Some("2026-07-01T12:01:30Z".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;

mod at;
mod cron;
mod error;
mod every;
mod fingerprint;

pub use at::At;
pub use cron::{Cron, DstFold, DstGap};
pub use error::TriggerError;
pub use every::Every;

/// A set of instants, the ticks, at which a job is due.
///
/// The set is a pure function of the trigger's own value (and of the time zone database, where it
/// names a zone). An implementation must keep these laws for all `t` and `u`; a scheduler relies
/// on them and need not check them:
///
/// - `next_after(t)` is the least tick greater than `t`, `last_at_or_before(t)` the greatest tick
///   not greater than `t`. Both describe one set: with `n = next_after(t)`, the last tick at or
///   before `n` is `n`, and the last one at or before any `u` with `t <= u < n` is the same as the
///   one for `t`.
/// - A tick is a whole millisecond: that is what claims are keyed by.
/// - No call blocks, panics, reads a clock or takes long, however far apart the ticks are.
///
/// # Examples
///
/// Ticks between two instants, the newest first, without walking what lies before:
///
/// ```
/// use jiff::{SignedDuration, Timestamp};
/// use solocron::trigger::{Cron, Trigger};
///
/// let trigger = Cron::parse("0 * * * *")?;
/// let (from, mut to): (Timestamp, Timestamp) =
///     ("2026-01-01T00:30:00Z".parse()?, "2026-01-01T03:10:00Z".parse()?);
/// let mut ticks = Vec::new();
/// while let Some(tick) = trigger.last_at_or_before(to).filter(|tick| *tick > from) {
///     ticks.push(tick.to_string());
///     to = tick - SignedDuration::from_millis(1);
/// }
/// assert_eq!(ticks, ["2026-01-01T03:00:00Z", "2026-01-01T02:00:00Z", "2026-01-01T01:00:00Z"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Trigger: Any + Send + Sync + Debug {
    /// Returns the first tick strictly after `after`.
    ///
    /// `None` means that there is none: none ever, none within the range of [`Timestamp`], or none
    /// within the horizon that the trigger documents. It stays `None` for every later instant
    /// unless the trigger documents a horizon.
    fn next_after(&self, after: Timestamp) -> Option<Timestamp>;

    /// Returns the last tick at or before `at`.
    ///
    /// This is what a scheduler coalesces missed ticks with: one call, however many were missed.
    /// `None` as in [`next_after`](Self::next_after), looking back.
    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp>;

    /// Returns a number that tells schedules apart.
    ///
    /// Equal schedules of one type have equal fingerprints in every process, on every platform
    /// and in every run; different schedules have different ones, but for a chance of 2^-64 per
    /// pair. The version of the time zone database is not part of it, so that hosts may be
    /// updated one after the other. A fleet compares it to notice that two replicas were
    /// configured differently.
    fn fingerprint(&self) -> u64;
}

impl<T: Trigger + ?Sized> Trigger for Arc<T> {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        (**self).next_after(after)
    }

    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        (**self).last_at_or_before(at)
    }

    fn fingerprint(&self) -> u64 {
        (**self).fingerprint()
    }
}

impl<T: Trigger + ?Sized> Trigger for Box<T> {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        (**self).next_after(after)
    }

    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        (**self).last_at_or_before(at)
    }

    fn fingerprint(&self) -> u64 {
        (**self).fingerprint()
    }
}
