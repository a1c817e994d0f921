//! Every order of events in a small fleet, with the real plan and the real store.
//!
//! ```text
//!   Plan (real) ──► actions ──► calls ──► wire ──► MemoryBackend, KeyRecord (real)
//!      ▲                                   │  lost, late, slow, cut
//!      └── answers, ends of runs, losses ◄─┘  crash, pause, stop, wipe, skew ──► Monitor: S1 to S6, L
//! ```
//!
//! The core's scheduler and its attempts are asynchronous and cannot be copied; they are modelled here (a world carries out
//! actions, an attempt is a small state machine). Everything that decides is the real code.
//!
//! A [`Config`] bounds the search: a few nodes, ticks and faults, in steps of a second. Within these bounds [`search`] visits every
//! state, breadth first, so that the trace it shows is a shortest one.

//!
//! What was found, and what each rule is there for, stands in `docs/design/0004-model-check.md`.

mod attempt;
mod config;
mod monitor;
mod search;
mod store;
mod world;

pub use self::config::{Config, Fault, JobSpec};
pub use self::monitor::{Broken, Property};
pub use self::search::{Found, Searched, search};
