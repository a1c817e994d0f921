//! Four processes, one backend, the same two jobs in each: every tick runs once, also when a process is killed inside a run.
//!
//! ```text
//! cargo run --example fleet
//! cargo run -p solocron-examples --features redis --example fleet -- --lock redis://127.0.0.1:6379
//! ```
//!
//! Without an argument the four share a directory; with one, whatever backend the URL names (see `src/lib.rs`).
//!
//! The program starts four copies of itself, kills one with SIGKILL while it runs a job, stops another with SIGTERM, and after
//! about fifteen seconds reads what an independent witness (a file that every run appends a line to) has seen. It exits with an
//! error if any tick ran twice or was lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use solocron::lock::{LockOptions, TryLock};
use solocron::trigger::{Cron, Every};
use solocron::{Context, Event, Job, Locks, Scheduler};
use solocron_examples::{Result, argument, open, shown};
use solocron_testkit::fleet::{Fleet, hear, reply, role, this_program};
use solocron_testkit::history::{
    self, Claim, History, KILL, Meta, Outcome, Rules, Schedule, What, Witness, check,
};
use tokio::signal::unix::{SignalKind, signal};

/// The every-second job and the cron job, which is due every five seconds.
const JOBS: [&str; 2] = ["every-second", "cron"];
const PERIODS_MS: [i64; 2] = [1_000, 5_000];
const NODES: [&str; 4] = ["a", "b", "c", "d"];

const RUNS_FOR: Duration = Duration::from_secs(15);
const KILL_AFTER: Duration = Duration::from_secs(4);
const TERM_AFTER: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the lease of a killed node goes on, where leases have a time: short, so that the take-over can be watched.
const TTL: Duration = Duration::from_secs(2);

fn main() -> Result<ExitCode> {
    match role() {
        Some(node) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(be_node(node))
            .map(|()| ExitCode::SUCCESS),
        None => direct(),
    }
}

// ---------------------------------------------------------------------------------------------------------------- one node

/// What every replica of a service would do, plus telling the witness.
async fn be_node(node: String) -> Result<()> {
    // Over the pipe and not in the environment, which a job's children inherit. The node ends when its parent dies.
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    hear(move |line| drop(told.send(line)));
    let url = heard.recv().await.ok_or("nobody said which locks to use")?;
    let tell = Tell { node, witness: Witness::open(std::env::var("FLEET_WITNESS")?)?.into() };

    let locks = open_locks(&url).await?;
    let observer = tell.clone();
    let scheduler = Scheduler::builder(locks.clone())
        .job(Job::with_state(JOBS[0], Every::new(Duration::from_secs(1))?, tell.clone(), slow_job))
        .job(Job::with_state(JOBS[1], Cron::parse("*/5 * * * * *")?, tell.clone(), quick_job))
        .observe(move |event| observer.event(event))
        .build()?;
    let mut asked_to_end = signal(SignalKind::terminate())?;
    let stop = tell.clone();
    tell.say(What::Boot);
    scheduler
        .run_until(async move {
            asked_to_end.recv().await;
            stop.say(What::Stop);
        })
        .await?;
    locks.settled().await;
    tell.say(What::Bye);
    Ok(())
}

async fn open_locks(url: &str) -> Result<Locks> {
    open(url, LockOptions::default().ttl(TTL)).await
}

/// Works for a third of a second, so that a kill can hit it.
async fn slow_job(ctx: Context, tell: Tell) {
    let claim = tell.begin(&ctx);
    tokio::time::sleep(Duration::from_millis(150)).await;
    drop(reply(format_args!("halfway {}", ctx.tick())));
    tokio::time::sleep(Duration::from_millis(150)).await;
    tell.say(What::Over { claim, outcome: Outcome::End });
}

async fn quick_job(ctx: Context, tell: Tell) {
    let claim = tell.begin(&ctx);
    tell.say(What::Over { claim, outcome: Outcome::End });
}

/// A node's line to the witness and to the screen.
#[derive(Clone)]
struct Tell {
    node: String,
    witness: std::sync::Arc<Witness>,
}

impl Tell {
    fn say(&self, what: What) {
        if let Err(error) = self.witness.record(&history::Event::now(&*self.node, what)) {
            // Without its witness the node must not go on: nobody would see what it does.
            eprintln!("{}: no witness: {error}", self.node);
            std::process::abort();
        }
    }

    fn begin(&self, ctx: &Context) -> Claim {
        let job = ctx.job().as_str();
        let claim = Claim::new(job, ctx.tick().as_millisecond(), ctx.fence().as_u64());
        for missed in ctx.missed() {
            self.say(What::Missed { job: job.to_owned(), tick: missed.as_millisecond() });
        }
        self.say(What::Start { claim: claim.clone(), attempt: ctx.attempt() });
        self.say(What::Effect { claim: claim.clone(), n: 1 });
        drop(reply(format_args!("ran {job} {}", ctx.tick())));
        claim
    }

    /// What the scheduler says of itself.
    fn event(&self, event: &Event) {
        let job = event.job.as_str().to_owned();
        match &event.what {
            solocron::What::Claimed { tick, fence, .. } => {
                let claim = Claim::new(job, tick.as_millis(), fence.as_u64());
                let now = history::monotonic_ns();
                self.say(What::Grant { claim, asked: now, answered: now });
            }
            solocron::What::Undone { tick, fence } => {
                self.say(What::Undo { claim: Claim::new(job, tick.as_millis(), fence.as_u64()) })
            }
            solocron::What::Missed { tick, .. } => {
                self.say(What::Missed { job, tick: tick.as_millis() })
            }
            solocron::What::Abandoned { tick, .. } => {
                self.say(What::Abandoned { job, tick: tick.as_millis() })
            }
            solocron::What::Overlapped { after, to } => {
                let period = if job == JOBS[0] { PERIODS_MS[0] } else { PERIODS_MS[1] };
                for tick in
                    (after.as_millis() + 1..=to.as_millis()).filter(|tick| tick % period == 0)
                {
                    self.say(What::Skipped { job: job.clone(), tick, why: "overlap".to_owned() });
                }
            }
            _ => {}
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ the director

fn direct() -> Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    let witness_path = dir.path().join("witness");
    let directory = format!("flock:{}", dir.path().join("locks").display());
    let url = argument("--lock")?.unwrap_or(directory);
    let leases_expire = leases_expire(&url)?;
    let witness = Witness::open(&witness_path)?;
    let harness = |what| witness.record(&history::Event::now("director", what));
    let jobs = JOBS
        .iter()
        .zip(PERIODS_MS)
        .map(|(job, period)| ((*job).to_owned(), Schedule::Every { period_ms: period as u64 }));
    harness(What::Meta(Meta {
        wall_ms: Timestamp::now().as_millisecond(),
        grace_ms: 10_000,
        settle_ms: 1_000,
        jobs: jobs.collect(),
    }))?;

    println!("four processes over {}, the same two jobs in each\n", shown(&url));
    let mut fleet = Fleet::new();
    for node in NODES {
        let mut command = this_program(node)?;
        command.env("FLEET_WITNESS", &witness_path);
        fleet.start(node, command)?.send(&url)?;
    }

    let begun = Instant::now();
    let (mut killed, mut stopped) = (None, None);
    while begun.elapsed() < RUNS_FOR {
        for member in fleet.members() {
            let (name, mut kill) = (member.name().to_owned(), false);
            while let Ok(line) = member.recv(Duration::from_millis(1)) {
                match line.split_once(' ') {
                    Some(("ran", what)) => {
                        println!("{:>6.2} s  {name}  {what}", begun.elapsed().as_secs_f64())
                    }
                    Some(("halfway", tick)) if killed.is_none() && begun.elapsed() > KILL_AFTER => {
                        println!(
                            "{:>6.2} s  {name}  kill -9, halfway through {tick}",
                            begun.elapsed().as_secs_f64()
                        );
                        kill = true;
                        break;
                    }
                    _ => {}
                }
            }
            if kill {
                harness(What::Fault { kind: KILL.to_owned(), node: name.clone() })?;
                member.kill()?;
                killed = Some(name);
            } else if killed.as_ref().is_some_and(|killed| *killed != name)
                && stopped.is_none()
                && begun.elapsed() > TERM_AFTER
            {
                println!("{:>6.2} s  {name}  SIGTERM", begun.elapsed().as_secs_f64());
                member.terminate()?;
                stopped = Some(name);
            }
        }
    }
    println!("{:>6.2} s  SIGTERM to the rest\n", begun.elapsed().as_secs_f64());
    let exits = fleet.shut_down(PATIENCE)?;
    for (node, exit) in exits {
        if !exit.success() && killed.as_ref() != Some(&node) {
            return Err(format!("node {node} ended with {exit} instead of 0 on SIGTERM").into());
        }
    }
    probe_leaks(&url, &harness)?;
    judge(&witness_path, leases_expire)
}

/// Whether a killed node's lease goes on for a time, or is free at once. Also finds out whether the backend is there at all.
fn leases_expire(url: &str) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(open_locks(url))?.capabilities().ttl.is_some())
}

/// Nothing may be held when everybody has said goodbye.
fn probe_leaks(url: &str, harness: &impl Fn(What) -> std::io::Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let locks = open_locks(url).await?;
        for job in JOBS {
            if let TryLock::Busy(holder) = locks.try_lock(job).await? {
                harness(What::Leak { what: format!("{job} is still held by {holder:?}") })?;
            }
        }
        locks.settled().await;
        Ok(())
    })
}

fn judge(witness: &Path, leases_expire: bool) -> Result<ExitCode> {
    let history = History::read(witness)?;
    let rules = Rules::of(&history).max_attempts(1).at_least_faults(KILL, 1);
    let (rules, bound) = if leases_expire {
        // Its last renewal may have been under way; a store may sweep dead leases once a second.
        (rules.holder_ttl(TTL + Duration::from_secs(1)), TTL + Duration::from_secs(2))
    } else {
        (rules.process_bound(), Duration::from_secs(1))
    };
    let report = check(&history, &rules);
    let ledger = &report.ledger;
    let excused: usize = ledger.excused.values().sum();
    let nodes_that_ran: BTreeSet<_> = history
        .events()
        .iter()
        .filter(|event| matches!(event.what, What::Start { .. }))
        .map(|event| &event.node)
        .collect();
    println!("ticks due                     {:>4}", ledger.due);
    println!(
        "  ran once                    {:>4}   ({} of them interrupted by the kill)",
        ledger.ran_once, ledger.interrupted
    );
    println!(
        "  claimed and never started   {:>4}   ({} given back)",
        ledger.never_started, ledger.undone
    );
    println!(
        "  late, run by a later tick   {:>4}   (told to that run)",
        ledger.missed + ledger.skipped
    );
    println!("  ran twice                   {:>4}", ledger.ran_again);
    println!(
        "  lost                        {:>4}   ({excused} died with their holder)",
        ledger.lost
    );
    println!("nodes that ran something      {:>4}", nodes_that_ran.len());
    for take_over in &ledger.take_overs {
        println!(
            "take-over of {:<12} {:>8.0?}   from the kill of {} to the next start, by {}",
            take_over.job, take_over.gap, take_over.killed, take_over.by
        );
    }
    println!(
        "fences in order               {:>4}",
        if ledger.fences_in_order { "yes" } else { "NO" }
    );
    println!("worst lateness             {:>7.1?}", ledger.worst_lateness);

    let late = ledger
        .take_overs
        .iter()
        .any(|take_over| take_over.job == JOBS[0] && take_over.gap >= bound);
    if !report.is_clean()
        || ledger.ran_again > 0
        || ledger.lost > 0
        || ledger.take_overs.is_empty()
        || late
    {
        println!("\n{report}");
        if late {
            println!("the take-over took longer than {bound:?}");
        }
        return Ok(ExitCode::FAILURE);
    }
    println!("\nevery tick ran once");
    Ok(ExitCode::SUCCESS)
}
