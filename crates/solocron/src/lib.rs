//! Cron for fleets: every replica schedules, exactly one runs.
//!
//! The same program runs as N processes, and each builds the same [`Scheduler`]. For every tick of every job, one of them wins a
//! lock that remembers which tick was claimed last; the others see that it is taken. The winner's lease is renewed while the job
//! runs and is taken over when its process dies.
//!
//! ```
//! use solocron::lock::MemoryBackend;
//! use solocron::trigger::Cron;
//! use solocron::{Cancelled, Context, Job, Locks, Scheduler};
//!
//! async fn report(ctx: Context) -> Result<(), Cancelled> {
//!     for part in 0..3 {
//!         ctx.checkpoint()?; // an error once this run must stop: lease lost, shutdown, too long
//!         println!("part {part} of {}, fence {}", ctx.tick(), ctx.fence());
//!     }
//!     Ok(())
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! // In a fleet: the backend of a crate such as solocron-flock.
//! let locks = Locks::new(MemoryBackend::new())?;
//! let scheduler = Scheduler::builder(locks)
//!     .job(Job::new("report", Cron::parse("30 2 * * *")?.time_zone("Europe/Berlin")?, report))
//!     .build()?;
//! let stop = async { /* a signal */ };
//! scheduler.run_until(stop).await?;
//! # Ok::<(), solocron::Error>(()) }).unwrap();
//! ```
//!
//! # What is not promised
//!
//! No lock service can stop a paused process from acting late; only a resource that compares the [fence](lock::Fence) can. A run
//! that is killed halfway is not undone.
//!
//! # Where to begin
//!
//! | to | see |
//! |---|---|
//! | run jobs | [`Job`], [`Scheduler`], [`Context`] |
//! | say when | [`trigger`]: cron patterns, intervals, instants |
//! | say what happens to late ticks and dead runs | [`Misfire`], [`lock::Delivery`] |
//! | only lock something | [`Locks`], [`lock::LockGuard`] |
//! | have one leader | [`leader::Elector`], [`Coordination::leader`] |
//! | write a backend | [`lock::LockBackend`], [`lock::KeyRecord`] |
//!
//! Everything runs on tokio, also on a current-thread runtime; renewals run on a thread of their own.

mod caught;
mod clock;
mod ending;
mod error;
mod event;
mod job;
pub mod leader;
pub mod lock;
pub mod plan;
mod policy;
mod scheduler;
mod timer;
pub mod trigger;

pub use self::clock::{Clock, LeaseInstant, SystemClock};
pub use self::error::{BackendError, Effect, Error, Invalid, Kind, Result};
pub use self::event::{Cancelled, Event, MissedWhy, Outcome, What};
pub use self::job::{Context, IntoOutcome, IntoTrigger, Job};
pub use self::lock::Locks;
pub use self::policy::{CatchUp, Misfire};
pub use self::scheduler::{Coordination, Scheduler, SchedulerBuilder, Stopper};
pub use jiff;
