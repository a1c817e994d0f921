//! Leaders over the memory backend: most of it on virtual time, with nodes whose clocks are wrong.

mod bare;
mod elector;
mod plan;
mod runs;
mod scheduler;
mod support;
