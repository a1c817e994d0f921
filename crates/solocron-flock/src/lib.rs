//! Locks with a memory for the processes of one host: a directory, nothing to install.
//!
//! ```
//! use std::time::Duration;
//! use solocron::lock::Locks;
//! use solocron_flock::FlockBackend;
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! # let tmp = tempfile::tempdir().unwrap();
//! # let dir = tmp.path().join("locks");
//! let locks = Locks::new(FlockBackend::open(dir)?)?;
//! let guard = locks.lock("report", Duration::from_secs(5)).await?;
//! guard.run(async { /* nobody else on this host is here */ }).await?;
//! guard.release().await?;
//! # Ok::<(), solocron::Error>(()) }).unwrap();
//! ```
//!
//! Not promised: anything beyond one host and one file system instance. Two containers see the same lock only where they share the
//! directory itself (a volume, a bind mount); a network file system is refused.
//!
//! Promised: the kernel frees a lock when its holder dies, however it dies, and nobody else does; a waiter is woken within
//! milliseconds; a claimed tick is remembered across every restart, and across a power loss ticks are skipped rather than repeated
//! (see [`Durability`]).
//!
//! # Forked children
//!
//! A kernel lock belongs to the open file, which a forked child shares: the lock is free when *both* have closed it. A child neither
//! unlocks nor writes what is its parent's. Programs started with `exec` do not inherit it.

#![cfg(unix)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod bell;
mod config;
mod file;
mod guests;
mod home;
mod lease;
mod watch;

pub use self::backend::FlockBackend;
pub use self::config::{Durability, FlockBuilder};
pub use self::lease::FlockLease;
