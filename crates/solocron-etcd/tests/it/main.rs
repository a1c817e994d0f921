//! Every promise of the etcd backend, against real servers.
#![cfg(target_os = "linux")]

mod client;
mod conformance;
mod holder;
mod session;
mod store;
