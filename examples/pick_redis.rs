//! Locks in Redis: one line in the manifest, one line here.
//!
//! ```text
//! cargo run -p solocron-examples --features redis --example pick_redis -- --lock redis://127.0.0.1:6379
//! ```
//!
//! Without an argument it starts a redis-server of its own. Start it twice with the same URL: each tick runs in one of them.

use solocron::{Context, Job, Locks, Scheduler};
use solocron_examples::{Result, argument, shown};
use solocron_redis::RedisBackend;
use solocron_testkit::server::RedisServer;

async fn report(ctx: Context) {
    println!("{}: process {} runs it, fence {}", ctx.tick(), std::process::id(), ctx.fence());
}

#[tokio::main]
async fn main() -> Result<()> {
    let given = argument("--lock")?;
    let own = if given.is_none() { Some(RedisServer::start()) } else { None };
    let url = given.or(own.as_ref().map(RedisServer::url)).expect("one of both");

    let locks = Locks::new(RedisBackend::connect(&url).await?)?;
    let scheduler =
        Scheduler::builder(locks).job(Job::new("report", "* * * * * *", report)).build()?;
    println!("every second, over {}; Ctrl-C ends it", shown(&url));
    scheduler.run_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}
