//! Three processes, one leader: it is killed, the next one follows; that one is asked to end, and hands over at once.
//!
//! ```text
//! cargo run --example leader
//! cargo run --example leader --features redis -- --lock redis://127.0.0.1:6379
//! ```
//!
//! Only the leader works, here: a heartbeat that says its fence. The program starts three copies of itself over a temporary
//! directory, or whatever `--lock` says, and exits with an error if two lead at a time, a fence does not grow, or nobody follows.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use solocron::leader::{Elector, Leadership, Transition};
use solocron::lock::LockOptions;
use solocron_examples::{Result, open};
use solocron_testkit::fleet::{Fleet, exit_when_parent_dies, reply, role, this_program};
use tokio::signal::unix::{SignalKind, signal};

const NODES: [&str; 3] = ["a", "b", "c"];
const LOCK: &str = "LEADER_LOCK";
const PATIENCE: Duration = Duration::from_secs(60);
/// Where leases expire, a dead leader is followed after this.
const TTL: Duration = Duration::from_secs(3);

fn main() -> Result<ExitCode> {
    let Some(_node) = role() else { return direct() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(be_candidate())?;
    Ok(ExitCode::SUCCESS)
}

// ---------------------------------------------------------------------------------------------------------------- one node

/// What every replica of a service would do.
async fn be_candidate() -> Result<()> {
    exit_when_parent_dies();
    let locks = open(&std::env::var(LOCK)?, LockOptions::default().ttl(TTL)).await?;
    let mut elector = Elector::campaign(&locks, "billing")?;
    let mut asked_to_end = signal(SignalKind::terminate())?;
    loop {
        let transition = tokio::select! {
            transition = elector.next() => transition,
            _ = asked_to_end.recv() => break,
        };
        match transition {
            Some(Transition::Elected(leadership)) => {
                reply(format_args!("elected {}", leadership.fence()))?;
                tokio::spawn(lead(leadership));
            }
            Some(Transition::Follows { leader }) => reply(format_args!("follows {leader}"))?,
            // The work of that term has been dropped already: it runs under its leadership.
            Some(Transition::Lost { fence, why }) => reply(format_args!("lost {fence}: {why}"))?,
            Some(other) => reply(format_args!("{other:?}"))?,
            None => break,
        }
    }
    // Stops the work first, then gives the lock back, and returns when it is free.
    if elector.resign().await? {
        reply("resigned")?;
    }
    locks.settled().await;
    Ok(())
}

async fn lead(leadership: Leadership) {
    let work = async {
        loop {
            // Whatever this writes to should compare the fence: see the example `fenced_write`.
            drop(reply(format_args!("works {}", leadership.fence())));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    if let Err(how) = leadership.run::<()>(work).await {
        drop(reply(format_args!("stops working: {how}")));
    }
}

// ------------------------------------------------------------------------------------------------------------ the director

struct Director {
    fleet: Fleet,
    begun: Instant,
    /// Who leads, as far as it was said, and the highest fence so far.
    leader: Option<&'static str>,
    fence: u64,
}

fn direct() -> Result<ExitCode> {
    let temporary = tempfile::tempdir()?;
    let lock = match std::env::args().skip_while(|arg| arg != "--lock").nth(1) {
        Some(lock) => lock,
        None => format!("flock:{}", temporary.path().join("locks").display()),
    };
    println!("three processes over {lock}, one of them leads\n");
    let mut director =
        Director { fleet: Fleet::new(), begun: Instant::now(), leader: None, fence: 0 };
    for node in NODES {
        let mut command = this_program(node)?;
        command.env(LOCK, &lock);
        director.fleet.start(node, command)?;
    }
    let first = director.until_elected()?;
    director.listen(Duration::from_secs(1))?;

    director.say(first, "kill -9");
    director.fleet[first].kill()?;
    director.leader = None;
    let killed = Instant::now();
    let second = director.until_elected()?;
    let after_kill = killed.elapsed();
    director.listen(Duration::from_secs(1))?;

    director.say(second, "SIGTERM");
    director.fleet[second].terminate()?;
    let asked = Instant::now();
    let third = director.until_elected()?;
    let after_end = asked.elapsed();
    director.listen(Duration::from_secs(1))?;

    director.say(third, "SIGTERM");
    director.fleet[third].terminate()?;
    director.listen(Duration::from_millis(200))?;
    for node in [second, third] {
        let status = director.fleet[node].wait(PATIENCE)?;
        if !status.success() {
            return Err(format!("{node} ended with {status}").into());
        }
    }
    println!("\nfrom the kill to the next leader      {after_kill:>8.1?}");
    println!("from SIGTERM to the next leader       {after_end:>8.1?}");
    println!("never two leaders, and every fence is higher than the one before");
    Ok(ExitCode::SUCCESS)
}

impl Director {
    fn say(&self, node: &str, what: &str) {
        println!("{:>6.2} s  {node}  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Waits until somebody says that it was elected.
    fn until_elected(&mut self) -> Result<&'static str> {
        let before = self.fence;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.listen(Duration::from_millis(10))?;
            if let (Some(leader), true) = (self.leader, self.fence > before) {
                return Ok(leader);
            }
        }
        Err("nobody was elected".into())
    }

    /// Hears what the nodes say for a while.
    fn listen(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for node in NODES {
                while let Ok(line) = self.fleet[node].recv(Duration::from_millis(1)) {
                    self.hear(node, &line)?;
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, node: &'static str, line: &str) -> Result<()> {
        match line.split_once(' ') {
            Some(("elected", fence)) => {
                // What the one before said last may still be on its way: the lock was given back after that.
                if let Some(other) = self.leader.replace(node) {
                    while let Ok(line) = self.fleet[other].recv(Duration::from_millis(200)) {
                        self.say(other, &line);
                        if line.starts_with("stops working") {
                            self.leader = None;
                        }
                    }
                    if self.leader.replace(node).is_some() {
                        return Err(format!("{node} was elected while {other} leads").into());
                    }
                }
                let fence = fence.parse()?;
                if fence <= self.fence {
                    return Err(format!("fence {fence} after {}", self.fence).into());
                }
                self.fence = fence;
            }
            Some(("stops", _)) if self.leader == Some(node) => self.leader = None,
            _ => {}
        }
        self.say(node, line);
        Ok(())
    }
}
