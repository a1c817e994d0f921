//! Cron for fleets: every replica schedules, exactly one runs.
pub mod trigger;
