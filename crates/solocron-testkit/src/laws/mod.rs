//! The laws, by subject. Each is a sentence about every backend; [`conformance!`](crate::conformance) makes a test of each.
//!
//! A law speaks to the store on two levels: through the driver itself, where the protocol is the point, and through
//! [`Locks`](solocron::lock::Locks), where what a user sees is. How long it waits follows from the shortest ttl that the backend
//! grants; it waits for events, and lets time pass only where time is the point.

pub mod admin;
pub mod capabilities;
mod client;
pub mod enrolling;
pub mod exclusion;
pub mod failure;
pub mod fencing;
pub mod idempotence;
pub mod leading;
pub mod lease;
pub mod lost;
pub mod marks;
pub mod names;
#[cfg(target_os = "linux")]
pub mod network;
pub mod release;
pub mod waiting;

#[doc(inline)]
pub use self::list::ALL;

mod list;
