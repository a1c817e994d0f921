//! Locks with a memory for a fleet, on etcd.

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
