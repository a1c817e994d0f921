//! Real processes: this test binary, started again with a role.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use solocron::lock::{LockBackend, Mark, MarkAfter, Reply};
use solocron_flock::FlockBackend;
use solocron_testkit::fleet::{Member, Parent, as_child, reply, this_test};

use crate::{PATIENCE, attempt, claim, plain, win};

/// Starts a process that plays this role over this directory.
pub(crate) fn start(role: &str, dir: &Path) -> Member {
    let role = format!("{role}\t{}", dir.display());
    Member::start("child", this_test("child::plays_its_role", &role).unwrap()).unwrap()
}

/// What every test wants of a child, within [`PATIENCE`].
pub(crate) trait Child {
    /// The next thing it says.
    fn says(&mut self) -> String;
    /// Is killed, and dead.
    fn dies(&mut self);
    /// Ends in peace.
    fn ends(&mut self);
}

impl Child for Member {
    fn says(&mut self) -> String {
        self.recv(PATIENCE).unwrap()
    }

    fn dies(&mut self) {
        self.kill().unwrap();
        self.wait(PATIENCE).unwrap();
    }

    fn ends(&mut self) {
        assert!(self.wait(PATIENCE).unwrap().success());
    }
}

fn say(what: impl std::fmt::Display) {
    reply(what).expect("the parent listens");
}

/// Does nothing, unless it is started by [`start`].
#[test]
fn plays_its_role() {
    as_child(|role, parent| {
        let (role, dir) = role.split_once('\t').unwrap();
        let backend = FlockBackend::open(dir).unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(play(role, backend, parent));
    });
}

async fn play(role: &str, backend: FlockBackend, mut parent: Parent) {
    let mut words = role.split(' ');
    match words.next().unwrap() {
        // Holds a lock, the shared one where none is named, until it is told anything.
        "hold" => {
            let grant = win(&backend, &plain(words.next().unwrap_or("shared"))).await;
            say(grant.fence);
            tokio::task::spawn_blocking(move || parent.next()).await.unwrap();
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            say("released");
        }
        // Takes the lock when told anything, holds it until told again, and says when it let go.
        "measure" => {
            while parent.next().is_some() {
                let grant = win(&backend, &plain("shared")).await;
                say(grant.fence);
                parent.next();
                let before = solocron::jiff::Timestamp::now();
                backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
                say(before.as_nanosecond());
            }
        }
        // The same, with so many descriptors.
        "hold-with" => {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, words.next().unwrap().parse().unwrap(), hard)
                .unwrap();
            let _grant = win(&backend, &plain("shared")).await;
            say("held");
            tokio::task::spawn_blocking(move || parent.next()).await.unwrap();
        }
        // Claims every tick of a range as soon as it is due, and says which it won.
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
                        Reply::Busy { .. } | Reply::Early { .. } => {
                            tokio::task::yield_now().await;
                        }
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
