//! Building a scheduler: everything that can be wrong is found here, before anything has changed.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Coordination, Planned, Scheduler, Shared, Stopper};
use crate::error::{Error, Invalid, Result};
use crate::event::{Event, Observer};
use crate::job::{Checked, Job};
use crate::lock::{Delivery, Keeper, LockKey, Locks, Scope};
use crate::plan::Plan;

/// Settings of a [`Scheduler`].
pub struct SchedulerBuilder {
    locks: Locks,
    jobs: Vec<Job>,
    shared: Shared,
    coordination: Coordination,
    observer: Option<Observer>,
    drain: Duration,
    scope: Scope,
    spawner: Option<Keeper>,
}

impl SchedulerBuilder {
    pub(super) fn new(locks: Locks) -> Self {
        Self {
            locks,
            jobs: Vec::new(),
            shared: Shared::default(),
            coordination: Coordination::default(),
            observer: None,
            drain: Duration::from_secs(30),
            scope: Scope::Process,
            spawner: None,
        }
    }

    /// Adds a job.
    #[must_use]
    pub fn job(self, job: Job) -> Self {
        self.jobs([job])
    }

    /// Adds jobs. Those with equal triggers share one: a million of them take some 170 bytes each beside their closures.
    #[must_use]
    pub fn jobs(mut self, jobs: impl IntoIterator<Item = Job>) -> Self {
        let shared = &mut self.shared;
        self.jobs.extend(jobs.into_iter().map(|mut job| {
            job.share(shared);
            job
        }));
        self
    }

    /// Which node tries to run what is due. Default [`Coordination::PerTick`]: every one.
    #[must_use]
    pub fn coordination(mut self, coordination: Coordination) -> Self {
        self.coordination = coordination;
        self
    }

    /// Refuses to build on a backend that reaches less far. Default: any.
    #[must_use]
    pub fn require_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// How long runs may go on after a shutdown was asked for. Default 30 s. Then they are told to stop, and a moment later
    /// stopped.
    #[must_use]
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Hears of every event, inline: it should count or send, not work. A panic in it is caught.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Where runs are spawned. Default: the tokio runtime that the scheduler runs on.
    #[must_use]
    pub fn spawner(mut self, spawner: Keeper) -> Self {
        self.spawner = Some(spawner);
        self
    }

    /// The scheduler.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] or [`Error::Trigger`] for the first job that is wrong: its id empty, too long or taken, its trigger not
    /// understood, its options contradictory; or for the leader's group. [`Error::Lacks`] where the backend cannot do what this
    /// scheduler needs: [`Coordination::PerTick`] and [`Delivery::AtLeastOnce`] need marks.
    pub fn build(self) -> Result<Scheduler> {
        let Self { locks, jobs, shared, coordination, observer, drain, scope, spawner } = self;
        drop(shared);
        let capabilities = locks.capabilities();
        if capabilities.scope < scope {
            let reach = capabilities.scope;
            let instead = format!(
                "it reaches {reach:?} and this scheduler needs {scope:?}: pick a backend that reaches further"
            );
            return Err(Error::Lacks { need: "scope", instead: instead.into() });
        }
        let group = match coordination {
            Coordination::PerTick if !capabilities.marks => {
                let instead = "claiming each tick needs them: pick a backend that keeps marks (flock, redis, etcd, a socket \
                     with a state_dir), or let a leader run the jobs (Coordination::leader)";
                return Err(Error::Lacks { need: "marks", instead: instead.into() });
            }
            Coordination::PerTick => None,
            Coordination::Leader(group) => Some(LockKey::of_leader(&group)?),
        };
        let count = jobs.len();
        if count > Plan::MOST_JOBS {
            let why = format!("a scheduler takes at most {}: use several", Plan::MOST_JOBS);
            return Err(Invalid::new("number of jobs", count, why).into());
        }
        let now = Timestamp::now();
        let (mut planned, mut plans) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut wrong = None;
        for job in jobs {
            let Checked { key, work, plan } = match job.checked(now) {
                Ok(checked) => checked,
                Err(error) => {
                    wrong = Some(error);
                    break;
                }
            };
            if !capabilities.marks && plan.delivery() != Delivery::AtMostOnce {
                let instead = format!(
                    "a run of job {key} that never ended is unknown to the next leader: leave it at most once, \
                     or pick a backend that keeps marks, such as flock"
                );
                wrong = Some(Error::Lacks { need: "marks", instead: instead.into() });
                break;
            }
            planned.push(Planned { key, work });
            plans.push(plan);
        }
        // An id that is taken comes before what is wrong further on.
        if let Some(key) = first_taken(&planned) {
            let why = "two jobs have it, and would claim each other's ticks: give each its own";
            return Err(Invalid::new("job id", key.as_str(), why).into());
        }
        if let Some(error) = wrong {
            return Err(error);
        }
        let (jobs, plans, stopper) = (planned, plans.into(), Stopper::default());
        Ok(Scheduler { locks, jobs, plans, group, observer, drain, spawner, stopper })
    }
}

/// The first key that an earlier job has.
///
/// Hashes are sorted instead of kept in a set: that reads a million keys in the order in which they lie in memory.
fn first_taken(jobs: &[Planned]) -> Option<&LockKey> {
    let hasher = RandomState::new();
    let hashed = jobs.iter().enumerate().map(|(at, job)| (hasher.hash_one(&job.key), at as u32));
    let mut hashed: Vec<_> = hashed.collect();
    hashed.sort_unstable();
    let alike = hashed.chunk_by(|one, next| one.0 == next.0).filter(|alike| alike.len() > 1);
    let taken = alike.flat_map(|alike| {
        let mut seen = HashSet::new();
        let keys = alike.iter().map(|(_, at)| (*at, &jobs[*at as usize].key));
        keys.filter(|(_, key)| !seen.insert(*key)).min_by_key(|(at, _)| *at)
    });
    taken.min_by_key(|(at, _)| *at).map(|(_, key)| key)
}

impl std::fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerBuilder")
            .field("locks", &self.locks)
            .field("jobs", &self.jobs)
            .field("coordination", &self.coordination)
            .finish_non_exhaustive()
    }
}
