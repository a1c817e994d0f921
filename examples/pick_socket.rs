//! The "socket lock" for the processes of one host: no server, no file that a crash leaves behind.
//!
//! ```text
//! cargo run --example pick_socket
//! ```
//!
//! Start it twice: each tick runs in one of them. Marks live in a directory, because a socket remembers nothing; without one, only
//! `Coordination::leader` can schedule over sockets.

use solocron::{Context, Job, Locks, Scheduler};
use solocron_examples::Result;
use solocron_socket::SocketBackend;

async fn report(ctx: Context) {
    println!("{}: process {} runs it, fence {}", ctx.tick(), std::process::id(), ctx.fence());
}

#[tokio::main]
async fn main() -> Result<()> {
    let state = std::env::temp_dir().join(format!("solocron-pick-socket-{}", user()));
    let backend = SocketBackend::builder("pick-socket").state_dir(state).build()?;
    let scheduler = Scheduler::builder(Locks::new(backend)?)
        .job(Job::new("report", "* * * * * *", report))
        .build()?;
    println!("every second; Ctrl-C ends it");
    scheduler.run_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}

/// A directory for each user: another user's is refused, as it should be.
fn user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "nobody".into())
}
