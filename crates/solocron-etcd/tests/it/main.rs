//! Every promise of the etcd backend, against real servers.
#![cfg(target_os = "linux")]

mod bad;
mod client;
mod cluster;
mod conformance;
mod faults;
mod holder;
mod measure;
mod secrets;
mod session;
mod store;
#[cfg(feature = "tls")]
mod tls;
