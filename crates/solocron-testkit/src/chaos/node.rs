//! One node: what every replica of a service would do, and telling the witness of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use solocron::lock::{LockOptions, Locks, NodeId, TryLock};
use solocron::trigger::Every;
use solocron::{Cancelled, Context, Event, Job, Misfire, Scheduler, What};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;

use super::clock::Wrong;
use super::jobs::{self, JobSpec};
use super::pen::Pen;
use super::store::Store;
use super::waiter;
use super::witnessed::Witnessed;
use crate::fleet;
use crate::history::{self, Claim, Outcome};

/// How long runs may go on after a node was told to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Between two effects of a run.
const PACE: Duration = Duration::from_millis(20);

/// What a child is told when it is started, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) part: Part,
    pub(super) node: String,
    pub(super) ttl: Duration,
    pub(super) skew_ms: i64,
    pub(super) witness: PathBuf,
    pub(super) address: String,
}

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Schedules.
    Node,
    /// Takes a lock when told to.
    Waiter,
}

impl Role {
    pub(super) fn to_line(&self) -> String {
        let Self { part, node, ttl, skew_ms, witness, address } = self;
        let part = if *part == Part::Node { "node" } else { "waiter" };
        let (ttl, witness) = (ttl.as_millis(), witness.display());
        format!("{part}\t{node}\t{ttl}\t{skew_ms}\t{witness}\t{address}")
    }

    fn of_line(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, '\t');
        let part = match words.next()? {
            "node" => Part::Node,
            "waiter" => Part::Waiter,
            _ => return None,
        };
        Some(Self {
            part,
            node: words.next()?.to_owned(),
            ttl: Duration::from_millis(words.next()?.parse().ok()?),
            skew_ms: words.next()?.parse().ok()?,
            witness: words.next()?.into(),
            address: words.next()?.to_owned(),
        })
    }
}

/// Plays a node in a child of [`Chaos::run`](super::Chaos::run) or [`Failover`](super::Failover), and exits the process; returns
/// at once anywhere else. The one line of the test that these are told as their entry.
///
/// # Panics
///
/// In a child, where the store cannot be opened or a job cannot be built.
pub fn as_node<S: Store>() {
    fleet::as_child(|role, parent| {
        let role = Role::of_line(role).unwrap_or_else(|| panic!("no role: {role}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the operating system gives a runtime");
        match role.part {
            Part::Node => runtime.block_on(schedule::<S>(role, parent)),
            Part::Waiter => runtime.block_on(waiter::wait_when_told::<S>(role, parent)),
        }
    });
}

async fn schedule<S: Store>(role: Role, parent: fleet::Parent) {
    let pen = Pen::new(&role.node, &role.witness);
    let clock = Arc::new(Wrong::by_millis(role.skew_ms));
    let mut asked_to_end = signal(SignalKind::terminate()).expect("SIGTERM can be heard");
    let backend = Witnessed::new(S::open(role.address).await, pen.clone());
    let locks = Locks::builder(backend)
        .options(LockOptions::default().ttl(role.ttl))
        .clock(Arc::clone(&clock) as Arc<dyn solocron::Clock>)
        .node(NodeId::named(&format!("{}/{}", role.node, std::process::id())))
        .build()
        .expect("the options suit this backend");
    let jobs = jobs::jobs(role.ttl);
    let (observer, specs) = (pen.clone(), jobs.clone());
    let scheduler = Scheduler::builder(locks.clone())
        .jobs(jobs.iter().map(|spec| job(spec, jobs::grace(role.ttl), &pen)))
        .drain(DRAIN)
        .observe(move |event| observe(&observer, &specs, event))
        .build()
        .expect("this backend can schedule");
    let (to_reach, mut asked_to_reach) = unbounded_channel();
    std::thread::spawn(move || {
        for command in parent {
            match command.split_once(' ') {
                Some(("clock", skew)) => clock.set(skew.parse().expect("milliseconds")),
                _ if command == "reach" => drop(to_reach.send(())),
                _ => panic!("no command: {command}"),
            }
        }
    });
    let (reaching, key) = (locks.clone(), format!("reach-{}", role.node));
    tokio::spawn(async move {
        while let Some(()) = asked_to_reach.recv().await {
            // Over the connections that the scheduler has.
            if let Ok(TryLock::Won(guard)) = reaching.try_lock(&*key).await {
                drop(guard.release().await);
                tell("reached");
            }
        }
    });
    pen.write(history::What::Boot);
    tell("up");
    let stop = pen.clone();
    let signal = async move {
        asked_to_end.recv().await;
        stop.write(history::What::Stop);
    };
    scheduler.run_until(signal).await.expect("a scheduler outlives the faults of its store");
    locks.settled().await;
    pen.write(history::What::Bye);
}

fn job(spec: &JobSpec, grace: Duration, pen: &Pen) -> Job {
    let every = Every::new(Duration::from_millis(spec.period_ms.unsigned_abs()))
        .expect("a period of whole milliseconds");
    let misfire = if spec.all { Misfire::all(grace) } else { Misfire::latest().grace(grace) };
    let state = (spec.clone(), pen.clone());
    Job::with_state(spec.name, every, state, |ctx, (spec, pen)| work(ctx, spec, pen))
        .misfire(misfire)
        .delivery(spec.delivery)
}

/// Something that others can see, now and then, until it is done or told to stop.
async fn work(ctx: Context, spec: JobSpec, pen: Pen) -> Result<(), Cancelled> {
    let claim = Claim::new(spec.name, ctx.tick().as_millisecond(), ctx.fence().as_u64());
    for missed in ctx.missed() {
        let (job, tick) = (spec.name.to_owned(), missed.as_millisecond());
        pen.write(history::What::Missed { job, tick });
    }
    pen.write(history::What::Start { claim: claim.clone(), attempt: ctx.attempt() });
    tell(format_args!("begins {}", spec.name));
    let mut cut_short = CutShort { claim: Some(claim.clone()), pen: pen.clone() };
    let mut left = spec.length(ctx.tick());
    for n in 1.. {
        pen.write(history::What::Effect { claim: claim.clone(), n });
        if left.is_zero() {
            break;
        }
        tokio::time::sleep(left.min(PACE)).await;
        left = left.saturating_sub(PACE);
        ctx.checkpoint()?;
    }
    cut_short.claim = None;
    pen.write(history::What::Over { claim, outcome: Outcome::End });
    Ok(())
}

/// Writes that a run was cut short, where its code is left before its end.
struct CutShort {
    claim: Option<Claim>,
    pen: Pen,
}

impl Drop for CutShort {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.pen.write(history::What::Over { claim, outcome: Outcome::Lost });
        }
    }
}

/// Writes down what the library says of ticks.
fn observe(pen: &Pen, jobs: &[JobSpec], event: &Event) {
    let Some(spec) = jobs.iter().find(|spec| spec.name == event.job.as_str()) else { return };
    let job = || spec.name.to_owned();
    let skipped = |after: i64, to: i64, why: &str| {
        for tick in spec.ticks(after, to) {
            pen.write(history::What::Skipped { job: job(), tick, why: why.to_owned() });
        }
    };
    match &event.what {
        What::Missed { tick, .. } => {
            pen.write(history::What::Missed { job: job(), tick: tick.as_millis() });
        }
        What::Abandoned { tick, .. } => {
            pen.write(history::What::Abandoned { job: job(), tick: tick.as_millis() });
        }
        What::Overlapped { after, to } => skipped(after.as_millis(), to.as_millis(), "overlap"),
        What::Forgot { mark } => {
            /// As far back as anybody still waits for a tick.
            const FAR_MS: i64 = 20_000;
            skipped(mark.as_millis() - FAR_MS, mark.as_millis(), "forgot");
        }
        _ => {}
    }
}

/// To the parent, which may be gone: then this process is about to end.
pub(super) fn tell(what: impl std::fmt::Display) {
    let _ = fleet::reply(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_survives_its_line() {
        let role = Role {
            part: Part::Waiter,
            node: "a".to_owned(),
            ttl: Duration::from_millis(1_200),
            skew_ms: -40,
            witness: "/tmp/a witness".into(),
            address: "redis://127.0.0.1:1/0?x=\ty".to_owned(),
        };
        assert_eq!(Role::of_line(&role.to_line()), Some(role));
    }
}
