//! The laws over the backend that the core brings along, and what only a kit can be tested for.

mod conformance;
mod elections;
mod faults;
#[cfg(target_os = "linux")]
mod remote;
