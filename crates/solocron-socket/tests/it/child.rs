//! Real processes: this test binary, started again with a role.

use std::fs::File;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use solocron::jiff::Timestamp;
use solocron::lock::{LockBackend, Locks, Mark, MarkAfter, Reply};
use solocron_socket::SocketBackend;
use solocron_testkit::fleet::{Member, parent, reply, role, this_test};

use crate::{PATIENCE, Place, attempt, claim, key, plain, win};

/// Starts a process that plays `part` in `place`: with the port of the lock `name`, if it is one of those that have a port.
pub(crate) fn start(place: &Place, part: &str, name: &str) -> Member {
    Member::start(name, command(place, part, name)).unwrap()
}

/// What [`start`] starts.
pub(crate) fn command(place: &Place, part: &str, name: &str) -> Command {
    let port = place.ports.as_ref().map_or(0, |ports| ports.of(&key(name)));
    let state = place.state_dir().map_or_else(|| "-".to_owned(), |dir| dir.display().to_string());
    let words = format!("{part}\t{}\t{port}\t{state}\t{name}", place.namespace);
    this_test("child::plays_its_part", &words).unwrap()
}

/// The next thing it says.
pub(crate) fn says(member: &mut Member) -> String {
    member.recv(PATIENCE).unwrap()
}

/// Kills it, and returns when it is dead.
pub(crate) fn kill(member: &mut Member) {
    member.kill().unwrap();
    member.wait(PATIENCE).unwrap();
}

fn say(what: impl std::fmt::Display) {
    reply(what).unwrap();
}

fn limit_descriptors(soft: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
}

/// Does nothing, unless it is started by [`start`].
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plays_its_part() {
    let Some(words) = role() else { return };
    let words: Vec<_> = words.splitn(5, '\t').collect();
    let [part, namespace, port, state, name] = words[..] else { panic!("{words:?}") };
    let mut builder = SocketBackend::builder(namespace);
    if port != "0" {
        builder = builder.port(name, port.parse().unwrap());
    }
    if state != "-" {
        builder = builder.state_dir(state);
    }
    let backend = builder.build().unwrap();
    let mut commands = parent();
    let part: Vec<_> = part.split(' ').collect();
    match part[..] {
        // Holds the lock until its parent says so; with so many descriptors, if that is said.
        ["hold", ref few @ ..] => {
            if let [few] = few[..] {
                limit_descriptors(few.parse().unwrap());
            }
            let grant = win(&backend, &plain(name)).await;
            say(grant.fence);
            tokio::task::spawn_blocking(move || commands.next()).await.unwrap();
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            say("released");
        }
        // Tries once, and says what came of it.
        ["try"] => match attempt(&backend, &plain(name)).await {
            Ok(reply) => say(format_args!("{reply:?}")),
            Err(error) => say(format_args!("{:?} {error}", error.kind())),
        },
        // Claims a tick where there are descriptors for the lock and its record, and none for a thread; and again where there are.
        ["claim-without-a-thread", tick] => {
            let tick = Mark::from_millis(tick.parse().unwrap());
            let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            limit_descriptors(64);
            let mut taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            taken.truncate(taken.len() - 2);
            let error = attempt(&backend, &claim(name, tick)).await.unwrap_err();
            say(format_args!("{:?} {error}", error.kind()));
            drop(taken);
            limit_descriptors(soft);
            say(format_args!("{:?}", attempt(&backend, &claim(name, tick)).await));
        }
        // Waits for the lock whenever it is told to, says when it has it, and when it let go.
        ["wait"] => {
            let locks = Locks::new(backend).unwrap();
            say("ready");
            for _ in commands {
                let guard = locks.lock(name, PATIENCE).await.unwrap();
                say(Timestamp::now().as_nanosecond());
                guard.release().await.unwrap();
            }
        }
        // Takes the lock, holds it for so many microseconds, gives it up, so often; says when it took and let go each time.
        ["relay", rounds, hold] => {
            let (rounds, hold): (u32, u64) = (rounds.parse().unwrap(), hold.parse().unwrap());
            let locks = Locks::new(backend).unwrap();
            say("ready");
            commands.next();
            let mut times = Vec::new();
            for _ in 0..rounds {
                let guard = locks.lock(name, PATIENCE).await.unwrap();
                let taken = Timestamp::now().as_nanosecond();
                std::thread::sleep(std::time::Duration::from_micros(hold));
                let released = Timestamp::now().as_nanosecond();
                guard.release().await.unwrap();
                times.push((taken, released));
            }
            for (taken, released) in times {
                say(format_args!("{taken} {released}"));
            }
            say("end");
        }
        // Claims every tick of a range, and says which it won.
        ["claim", first, last] => {
            let (first, last): (i64, i64) = (first.parse().unwrap(), last.parse().unwrap());
            for tick in (first..=last).map(Mark::from_millis) {
                loop {
                    match attempt(&backend, &claim(name, tick)).await.unwrap() {
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
        ["spin"] => loop {
            if let Reply::Won(grant) = attempt(&backend, &plain(name)).await.unwrap() {
                say(grant.fence);
                backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            }
        },
        _ => panic!("unknown part {part:?}"),
    }
}
