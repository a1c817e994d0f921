//! Locks in etcd, and writes that etcd itself refuses to a former holder.
//!
//! ```text
//! cargo run -p solocron-examples --features etcd --example pick_etcd -- --lock etcd://127.0.0.1:2379/app
//! ```
//!
//! Without an argument it starts an etcd of its own. Needs `protoc` to build.

use solocron::{Context, Job, Locks, Scheduler};
use solocron_etcd::EtcdBackend;
use solocron_examples::{Result, argument, shown};
use solocron_testkit::server::EtcdServer;

async fn report(ctx: Context) {
    // The fence is the revision at which the lock was won: a transaction that compares the lock's create revision with it is
    // refused by etcd once somebody else holds the lock (`EtcdBackend::fence_compare`).
    println!("{}: process {} runs it, fence {}", ctx.tick(), std::process::id(), ctx.fence());
}

#[tokio::main]
async fn main() -> Result<()> {
    let given = argument("--lock")?;
    let own = if given.is_none() { Some(EtcdServer::start()) } else { None };
    let url = match (given, &own) {
        (Some(url), _) => url,
        (None, Some(server)) => {
            format!("etcd://{}/app", server.endpoint().trim_start_matches("http://"))
        }
        (None, None) => unreachable!("one of both"),
    };

    let locks = Locks::new(EtcdBackend::from_url(&url)?)?;
    let scheduler =
        Scheduler::builder(locks).job(Job::new("report", "* * * * * *", report)).build()?;
    println!("every second, over {}; Ctrl-C ends it", shown(&url));
    scheduler.run_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}
