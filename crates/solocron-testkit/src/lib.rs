//! The laws every lock backend must keep, and the means to break it: faults, fleets of processes, histories, an exhaustive check of
//! the claim rules, a simulated fleet.
//!
//! Give your backend a [`Harness`], write `solocron_testkit::conformance!(MyHarness);` in its tests, and every law becomes a test of
//! its own. [`Faulty`] makes any backend lie, for laws about what the core does then.

#[cfg(target_os = "linux")]
pub mod chaos;
pub mod check;
mod dice;
mod faulty;
#[cfg(target_os = "linux")]
pub mod fleet;
mod harness;
pub mod history;
pub mod laws;
#[cfg(target_os = "linux")]
mod proxy;
#[cfg(target_os = "linux")]
pub mod server;
pub mod sim;

pub use self::dice::Dice;
pub use self::faulty::{Call, Fault, Faulty, Odds};
pub use self::harness::{Harness, Keeping, Store, keep, keep_alone};
