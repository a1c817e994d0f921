//! A lock cannot stop a paused process from writing late; the resource can. Shown live, with a process that is really stopped.
//!
//! ```text
//! cargo run --example fenced_write --features redis
//! ```
//!
//! The program starts its own redis-server and two copies of itself. The first takes the lock, looks that it still holds it, and is
//! stopped (SIGSTOP) before it writes. Its lease runs out, the second takes the lock and writes. Then the first goes on, and its
//! write arrives: an account that compares the fence refuses it, one that does not is overwritten.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use solocron::lock::LockOptions;
use solocron_examples::{Result, open};
use solocron_testkit::fleet::{Fleet, Parent, parent, reply, role, this_program};
use solocron_testkit::server::RedisServer;

/// A lease must be able to run out under a stopped process, so this needs a server. A file lock would block everybody instead.
const TTL: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);
const LOCK: &str = "FENCED_WRITE_LOCK";

fn main() -> Result<ExitCode> {
    match role() {
        Some(name) => be_writer(&name, parent()).map(|()| ExitCode::SUCCESS),
        None => direct(),
    }
}

// -------------------------------------------------------------------------------------------------------------- one writer

fn be_writer(name: &str, mut parent: Parent) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = LockOptions::default().ttl(TTL);
    let locks = runtime.block_on(open(&std::env::var(LOCK)?, options))?;
    let guard = runtime.block_on(locks.lock("account", PATIENCE))?;
    // Checked, and true. What follows may come at any time later: a page fault, a full queue, a virtual machine that is moved.
    let fence = guard.check()?;
    reply(format_args!("holds {fence}"))?;
    parent.next();
    reply(format_args!("writes {fence} the balance as {name} knows it"))?;
    let answer = parent.next().unwrap_or_default();
    let still = match guard.check() {
        Ok(_) => "still holds the lock".to_owned(),
        Err(error) => error.to_string(),
    };
    reply(format_args!("heard {answer:?}; {still}"))?;
    runtime.block_on(guard.release())?;
    Ok(())
}

// ------------------------------------------------------------------------------------------------------------ the resource

/// Something that is written to. It remembers the highest fence that it has seen, and takes no write with a lower one.
#[derive(Debug, Default)]
struct Account {
    text: String,
    fence: u64,
}

#[derive(Debug)]
struct Refused {
    fence: u64,
    seen: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: fence {} is older than {}", self.fence, self.seen)
    }
}

impl Account {
    fn write(&mut self, fence: u64, text: &str) -> Result<(), Refused> {
        if fence < self.fence {
            return Err(Refused { fence, seen: self.fence });
        }
        (self.fence, self.text) = (fence, text.to_owned());
        Ok(())
    }
}

// ------------------------------------------------------------------------------------------------------------ the director

fn direct() -> Result<ExitCode> {
    let server = RedisServer::start();
    let (mut fleet, begun) = (Fleet::new(), Instant::now());
    let (mut careful, mut careless) = (Account::default(), String::new());
    let say = |who: &str, what: &str| {
        println!("{:>6.2} s  {who:<6}  {what}", begun.elapsed().as_secs_f64());
    };
    println!("a redis-server at {}, leases of {TTL:?}\n", server.url());
    let start = |fleet: &mut Fleet, name: &str| -> Result<()> {
        let mut command = this_program(name)?;
        command.env(LOCK, server.url());
        fleet.start(name, command)?;
        Ok(())
    };

    start(&mut fleet, "first")?;
    let fence = fleet["first"].expect("holds", PATIENCE)?;
    say(
        "first",
        &format!("holds the lock with fence {fence}, has checked it, and is about to write"),
    );
    fleet["first"].stop()?;
    say("first", "is stopped (SIGSTOP)");

    start(&mut fleet, "second")?;
    let fence = fleet["second"].expect("holds", PATIENCE)?;
    say(
        "second",
        &format!("holds the lock with fence {fence}: the lease of the first has run out"),
    );
    let mut write = |fleet: &mut Fleet, name: &str| -> Result<bool> {
        fleet[name].send("go on")?;
        let line = fleet[name].expect("writes", PATIENCE)?;
        let (fence, text) = line.split_once(' ').ok_or("a fence and a text")?;
        let written = careful.write(fence.parse()?, text);
        careless = text.to_owned();
        let answer = written.as_ref().map_or_else(Refused::to_string, |()| "written".to_owned());
        say(name, &format!("writes with fence {fence}: {answer}"));
        fleet[name].send(&answer)?;
        let heard = fleet[name].expect("heard", PATIENCE)?;
        say(name, &format!("heard {heard}"));
        Ok(written.is_ok())
    };
    let second = write(&mut fleet, "second")?;

    fleet["first"].cont()?;
    say("first", "continues (SIGCONT)");
    let first = write(&mut fleet, "first")?;
    for name in ["first", "second"] {
        let status = fleet[name].wait(PATIENCE)?;
        if !status.success() {
            return Err(format!("the {name} writer ended with {status}").into());
        }
    }

    println!("\nthe account that compares fences   {:?}", careful.text);
    println!("the one that does not              {careless:?}");
    if first || !second || !careful.text.contains("second") {
        println!("\nthe late write was not refused");
        return Ok(ExitCode::FAILURE);
    }
    println!("\nthe late write was refused where the fence is compared, and only there");
    Ok(ExitCode::SUCCESS)
}
