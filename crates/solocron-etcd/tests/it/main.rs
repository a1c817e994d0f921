//! Every promise of the etcd backend, against real servers.
#![cfg(target_os = "linux")]

mod conformance;
mod holder;
mod store;
