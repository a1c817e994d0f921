//! Real processes: this test binary, started again with a role.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use solocron::lock::{LockBackend, Mark, MarkAfter, Reply};

use crate::{PATIENCE, attempt, claim, plain, win};

const ROLE: &str = "SOLOCRON_FLOCK_ROLE";
const DIR: &str = "SOLOCRON_FLOCK_DIR";

/// A started process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start(role: &str, dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::plays_its_role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, line)) = line.split_once("role: ") {
                    let _ = tell.send(line.to_owned());
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines }
    }

    /// The next thing it says.
    pub(crate) fn says(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the process says something")
    }

    pub(crate) fn hears(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("it still listens"), "{line}").unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn ends(&mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::print_stdout, reason = "this is how it talks to its parent")]
fn say(what: impl std::fmt::Display) {
    println!("role: {what}");
    std::io::stdout().flush().unwrap();
}

/// Does nothing, unless it is started by [`Process::start`].
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plays_its_role() {
    let (Ok(role), Some(dir)) = (std::env::var(ROLE), std::env::var_os(DIR)) else { return };
    let backend = solocron_flock::FlockBackend::open(dir).unwrap();
    let mut words = role.split(' ');
    match words.next().unwrap() {
        // Holds a lock, the shared one where none is named, until its standard input ends.
        "hold" => {
            let grant = win(&backend, &plain(words.next().unwrap_or("shared"))).await;
            say(grant.fence);
            tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await.unwrap();
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            say("released");
        }
        // Takes the lock for every line it is sent, holds it until the next one, and says when it let go.
        "measure" => {
            let mut lines = std::io::stdin().lines();
            while lines.next().is_some_and(|line| line.is_ok()) {
                let grant = win(&backend, &plain("shared")).await;
                say(grant.fence);
                if lines.next().is_none() {
                    break;
                }
                let before = solocron::jiff::Timestamp::now();
                backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
                say(before.as_nanosecond());
            }
        }
        // Claims every tick of a range, and says which it won.
        "claim" => {
            let mut number = || words.next().unwrap().parse::<i64>().unwrap();
            let (first, last) = (number(), number());
            for tick in (first..=last).map(Mark::from_millis) {
                loop {
                    match attempt(&backend, &claim("shared", tick)).await.unwrap() {
                        Reply::Won(grant) => {
                            say(tick.as_millis());
                            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
                        }
                        Reply::Busy { .. } => tokio::task::yield_now().await,
                        _ => break,
                    }
                }
            }
            say("end");
        }
        // Takes and releases for ever, and says each fence while it holds it.
        "spin" => loop {
            if let Reply::Won(grant) = attempt(&backend, &plain("shared")).await.unwrap() {
                say(grant.fence);
                backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            }
        },
        other => panic!("unknown role {other}"),
    }
}
