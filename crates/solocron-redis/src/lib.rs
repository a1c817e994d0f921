//! Locks with a memory for a fleet of hosts, kept in Redis or Valkey.
//!
//! ```no_run
//! use std::time::Duration;
//! use solocron::lock::Locks;
//! use solocron_redis::RedisBackend;
//! # async fn report() -> solocron::Result<()> {
//! let locks = Locks::new(RedisBackend::connect("redis://127.0.0.1:6379").await?)?;
//! let guard = locks.lock("report", Duration::from_secs(5)).await?;
//! guard.run(async { /* nobody else in the fleet is here */ }).await?;
//! guard.release().await?;
//! # Ok(()) }
//! ```
//!
//! Not promised: that two runs never overlap when a lease runs out under a paused process, or when the server loses data. A later
//! holder then has a higher [fence](solocron::lock::Fence), and only the resource that compares fences can refuse the older one.
//! Replication is asynchronous: a failover may forget the last grants ([`RedisBuilder::replicas`] makes that rarer).
//!
//! Promised: one round trip to take, renew or give back any number of locks; a claimed tick is remembered with the lock; a server
//! that lost its memory (a flush, a restart, a failover) is noticed, skips at-most-once ticks of before instead of repeating them,
//! and grants nothing until leases of before are over; a release wakes one waiter, wherever in the fleet it is.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod config;
mod dial;
mod error;
mod gather;
mod lanes;
mod lease;
mod link;
mod memory;
mod names;
mod record;
mod reply;
mod route;
mod script;
mod session;
mod turns;
mod waiters;
mod wire;

pub use self::backend::RedisBackend;
pub use self::config::RedisBuilder;
#[cfg(feature = "tls")]
pub use self::config::RedisTls;
pub use self::lease::RedisLease;
