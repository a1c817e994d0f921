//! One job on every replica of this host; each tick runs on exactly one of them. Start it in two terminals.
//!
//! [dependencies]
//! solocron = "0.1"
//! solocron-flock = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread", "signal"] }

use solocron::{Context, Job, Locks, Scheduler};
use solocron_flock::FlockBackend;

async fn report(ctx: Context) {
    println!("{}: process {} runs it, fence {}", ctx.tick(), std::process::id(), ctx.fence());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let locks = Locks::new(FlockBackend::open(FlockBackend::default_dir("quickstart")?)?)?;
    let scheduler = Scheduler::builder(locks)
        .job(Job::new("report", "*/2 * * * * *", report)) // every other second; "30 2 * * *" is half past two
        .build()?;
    scheduler.run_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}
