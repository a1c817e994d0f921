//! What things cost in one process: each operation is defined here once, for criterion and for the `costs` runner.
//!
//! ```text
//!   group ── subjects: the floor (the least that does the same work), ours, rivals ── each an operation, run so many times
//!     │                                                                                       │
//!     └── what they need: a server, a directory                      criterion: one subject after the other, with its report
//!                                                                    costs: all of a group in turns, ratios to the floor
//! ```
//!
//! Every operation checks what it did (won, released as ours) and panics otherwise: a failure is never measured as fast.

mod claims;
pub mod etcd;
pub mod fire;
pub mod flock;
pub mod memory;
pub mod redis;
pub mod renew;
pub mod rounds;
pub mod socket;
pub mod trigger;

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// Something that can be done again and again.
pub trait Operation: Send + 'static {
    /// What the next `times` need and what is not measured.
    fn prepare(&mut self, times: u64) -> impl Future<Output = ()> + Send {
        let _ = times;
        async {}
    }

    /// Does it once.
    fn once(&mut self) -> impl Future<Output = ()> + Send;
}

/// An operation that waits for nothing.
struct Plain<F>(F);

impl<F: FnMut() + Send + 'static> Operation for Plain<F> {
    async fn once(&mut self) {
        (self.0)();
    }
}

/// What a subject is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The least that does the same work.
    Floor,
    /// Solocron.
    Ours,
    /// Another crate that does it.
    Rival,
    /// For comparison.
    Other,
}

/// How long it took.
#[derive(Debug, Default)]
pub struct Took {
    /// How often it was done: tasks that share the work do equal parts of it.
    pub done: u64,
    /// All of it, without what was prepared.
    pub elapsed: Duration,
    /// Microseconds of one operation, again and again; the mean of several where one is too short for a clock.
    pub each: Vec<f64>,
}

type Run = Box<dyn Fn(u64) -> Pin<Box<dyn Future<Output = Took> + Send>> + Send + Sync>;

/// One way of doing what a group is about.
pub struct Subject {
    /// What it is.
    pub name: &'static str,
    /// What it is there for.
    pub role: Role,
    /// The ratio to the floor that it shall not exceed.
    pub target: Option<f64>,
    /// How many things one operation does.
    pub units: u64,
    run: Run,
}

impl Subject {
    /// One task that does `operation`, one after the other. `chunk`: how many of them are timed together.
    pub fn new(name: &'static str, role: Role, chunk: u64, operation: impl Operation) -> Self {
        let operation = Arc::new(Mutex::new(operation));
        let run: Run = Box::new(move |times| {
            let operation = Arc::clone(&operation);
            Box::pin(async move { repeat(&mut *operation.lock().await, times, chunk).await })
        });
        Self { name, role, target: None, units: 1, run }
    }

    /// The same for what waits for nothing.
    pub fn plain(
        name: &'static str,
        role: Role,
        chunk: u64,
        operation: impl FnMut() + Send + 'static,
    ) -> Self {
        Self::new(name, role, chunk, Plain(operation))
    }

    /// As many tasks as there are operations, at the same time.
    pub fn many<O: Operation>(name: &'static str, role: Role, operations: Vec<O>) -> Self {
        let operations: Vec<_> =
            operations.into_iter().map(|one| Arc::new(Mutex::new(one))).collect();
        let run: Run = Box::new(move |times| {
            let operations = operations.clone();
            Box::pin(async move {
                let share = times.div_ceil(operations.len() as u64);
                let begun = Instant::now();
                let tasks: Vec<_> = operations
                    .into_iter()
                    .map(|one| {
                        tokio::spawn(async move { repeat(&mut *one.lock().await, share, 1).await })
                    })
                    .collect();
                let mut took = Took::default();
                for task in tasks {
                    let task = task.await.expect("a task panicked");
                    took.done += task.done;
                    took.each.extend(task.each);
                }
                took.elapsed = begun.elapsed();
                took
            })
        });
        Self { name, role, target: None, units: 1, run }
    }

    /// Something that measures itself: how long each of so many took.
    pub fn measured<F>(
        name: &'static str,
        role: Role,
        run: impl Fn(u64) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Took> + Send + 'static,
    {
        let run: Run = Box::new(move |times| Box::pin(run(times)));
        Self { name, role, target: None, units: 1, run }
    }

    /// With a ratio to the floor that it shall not exceed.
    #[must_use]
    pub fn at_most(mut self, ratio: f64) -> Self {
        self.target = Some(ratio);
        self
    }

    /// One operation does `units` things.
    #[must_use]
    pub fn units(mut self, units: u64) -> Self {
        self.units = units;
        self
    }

    /// Does it `times` times or a little more; on a task, as a program would.
    pub async fn run(&self, times: u64) -> Took {
        tokio::spawn((self.run)(times)).await.expect("the operation did what it should")
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).finish_non_exhaustive()
    }
}

async fn repeat(operation: &mut impl Operation, times: u64, chunk: u64) -> Took {
    let mut took = Took::default();
    took.each.reserve(usize::try_from(times.div_ceil(chunk)).expect("few enough"));
    let mut left = times;
    while left > 0 {
        let together = left.min(chunk);
        operation.prepare(together).await;
        let begun = Instant::now();
        for _ in 0..together {
            operation.once().await;
        }
        let elapsed = begun.elapsed();
        took.elapsed += elapsed;
        took.done += together;
        took.each.push(elapsed.as_secs_f64() * 1e6 / together as f64);
        left -= together;
    }
    took
}

type Counters = Box<dyn Fn() -> Vec<(&'static str, f64)> + Send + Sync>;

/// Ways of doing the same thing.
pub struct Group {
    /// In one word or two.
    pub name: &'static str,
    /// The floor first.
    pub subjects: Vec<Subject>,
    counters: Option<Counters>,
    /// A server, a directory; dropped after the subjects.
    _needs: Box<dyn Any + Send + Sync>,
}

impl Group {
    /// A group that needs `needs` for as long as it lives.
    pub fn new(name: &'static str, subjects: Vec<Subject>, needs: impl Any + Send + Sync) -> Self {
        Self { name, subjects, counters: None, _needs: Box::new(needs) }
    }

    /// With what a server has counted so far: reported per operation.
    #[must_use]
    pub fn counting(
        mut self,
        counters: impl Fn() -> Vec<(&'static str, f64)> + Send + Sync + 'static,
    ) -> Self {
        self.counters = Some(Box::new(counters));
        self
    }

    fn counted(&self) -> Vec<(&'static str, f64)> {
        self.counters.as_ref().map_or_else(Vec::new, |counters| counters())
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("subjects", &self.subjects)
            .finish_non_exhaustive()
    }
}

/// Why groups are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `program` is on the path.
///
/// # Errors
///
/// Where it is not, with how to get it.
fn needs(program: &str, package: &str) -> Result<(), Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return Ok(());
    }
    Err(Missing(format!("there is no {program}: run scripts/setup, or apt-get install {package}")))
}

/// Families of groups that share what they need, by name.
pub const FAMILIES: [&str; 8] =
    ["redis", "etcd", "flock", "socket", "memory", "renew", "trigger", "fire"];

/// The groups of a family. To be called on the runtime that they will run on.
///
/// # Errors
///
/// What is missing on this machine.
///
/// # Panics
///
/// Where a server or a directory that is there does not do what it should; for a family that is none of [`FAMILIES`].
pub async fn groups(family: &str) -> Result<Vec<Group>, Missing> {
    match family {
        "redis" => redis::groups().await,
        "etcd" => etcd::groups().await,
        "flock" => Ok(flock::groups().await),
        "socket" => Ok(socket::groups()),
        "memory" => Ok(memory::groups().await),
        "renew" => renew::groups().await,
        "trigger" => Ok(trigger::groups()),
        "fire" => Ok(fire::groups()),
        other => panic!("there is no {other:?} among {FAMILIES:?}"),
    }
}
