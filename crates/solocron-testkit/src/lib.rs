//! The laws every lock backend must keep.

#[cfg(target_os = "linux")]
pub mod fleet;
pub mod history;
