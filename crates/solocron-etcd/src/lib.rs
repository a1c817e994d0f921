//! Locks with a memory for a fleet, on etcd.
//!
//! ```no_run
//! use std::time::Duration;
//! use solocron::lock::Locks;
//! use solocron_etcd::EtcdBackend;
//!
//! # async fn work() -> solocron::Result<()> {
//! let members = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"];
//! let backend = EtcdBackend::builder("billing", members).build()?;
//! let locks = Locks::new(backend.clone())?;
//! let guard = locks.lock("report", Duration::from_secs(5)).await?;
//! guard.run(async { /* nobody else in the fleet is here */ }).await?;
//! guard.release().await?;
//! # Ok(()) }
//! ```
//!
//! Not promised: that a holder which was stopped for longer than its ttl does nothing when it goes on. Let what you write to compare the
//! fence; where that is etcd itself, it does so for you: [`EtcdBackend::fence_compare`].
//!
//! Promised: each tick is claimed once, by a transaction that compares the record in which it was judged; fences are revisions;
//! waiters are woken, losses are told; a member that fails is left for the next one.
//!
//! # How it works
//!
//! ```text
//!   backend ── acquire, release, change ── one transaction each, judged from what was seen last (`seen`)
//!      │             │
//!      │           ledger ── what this process asked for and holds, by nonce
//!      │             │
//!      ├── session, beat ── one lease for all locks of a ttl; gives up what nobody renews, takes back what turns up late
//!      ├── watch ── one watch for all locks: wakes who waits, tells who lost
//!      └── wire ── the only module that knows etcd-client: timeouts, and which member is asked
//! ```
//!
//! Beats and connections are on the [keeper](solocron::lock::Keeper)'s thread.
//!
//! # Forked children
//!
//! A child connects by itself and has a session of its own; it neither renews nor releases what is its parent's.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod acquire;
mod backend;
mod beat;
mod bells;
mod change;
mod compare;
mod config;
mod home;
mod keys;
mod lease;
mod ledger;
mod release;
mod seen;
mod session;
#[cfg(all(test, unix))]
mod tests;
#[cfg(feature = "tls")]
mod tls;
mod watch;
mod wire;

pub use self::backend::EtcdBackend;
pub use self::compare::FenceCompare;
pub use self::config::EtcdBuilder;
pub use self::lease::EtcdLease;
#[cfg(feature = "tls")]
pub use self::tls::Tls;
