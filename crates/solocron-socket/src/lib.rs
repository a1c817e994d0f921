//! The "socket lock" for the processes of one host: whoever listens on a name holds the lock. No file, nothing to install, nothing left
//! behind by a crash.
//!
//! ```
//! use std::time::Duration;
//! use solocron::lock::Locks;
//! use solocron_socket::SocketBackend;
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let locks = Locks::new(SocketBackend::new("billing")?)?;
//! let guard = locks.lock("report", Duration::from_secs(5)).await?;
//! guard.run(async { /* nobody else on this host is here */ }).await?;
//! guard.release().await?;
//! # Ok::<(), solocron::Error>(()) }).unwrap();
//! ```
//!
//! Not promised: anything beyond one network namespace. Two containers both hold "the same" lock, and neither can notice.
//!
//! Promised: the kernel frees a lock when its holder dies, however it dies, and nobody else does; waiters are woken one after the other,
//! by the end of a connection; whoever has the name or the port and is no holder is an error that names it, never "busy".
//!
//! A socket remembers nothing. For jobs that are scheduled tick by tick give it a [`state_dir`](SocketBuilder::state_dir), which keeps
//! marks and fences; without one the scheduler refuses it when it is built.

#![cfg(unix)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod addr;
mod ask;
mod backend;
mod banner;
mod config;
mod door;
mod error;
mod guests;
mod home;
mod lease;
#[cfg(target_os = "linux")]
mod line;
mod peer;
mod ports;
mod state;
mod stream;
mod watch;

pub use self::backend::SocketBackend;
pub use self::config::SocketBuilder;
pub use self::lease::SocketLease;
