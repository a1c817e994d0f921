//! Ctrl-C ends the contention runner with everything that it started.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

/// A process: its id, and when it started, since an id may be used again.
type Process = (u32, String);

/// The parent of a process, and when it started.
fn stat(pid: u32) -> Option<(u32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second word is the program's name in parentheses, and may hold anything.
    let words: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((words[1].parse().ok()?, words[19].to_owned()))
}

fn below(ancestor: u32) -> Vec<Process> {
    let pids = fs::read_dir("/proc")
        .expect("this is Linux")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let all: Vec<_> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut found = vec![ancestor];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(all.iter().filter(|(_, (of, _))| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    let started =
        |pid: &u32| all.iter().find(|(of, _)| of == pid).map(|(_, (_, start))| start.clone());
    found[1..].iter().filter_map(|pid| Some((*pid, started(pid)?))).collect()
}

fn lives((pid, start): &Process) -> bool {
    stat(*pid).is_some_and(|(_, since)| since == *start)
}

fn interrupt(family: &str, signal: Signal) {
    let place = tempfile::tempdir().expect("a directory");
    let temporary = place.path().join("tmp");
    fs::create_dir(&temporary).expect("a directory");
    let mut runner = Command::new(env!("CARGO_BIN_EXE_contention"))
        .args(["--rounds", "20", "--only", family, "--out"])
        .arg(place.path().join("out"))
        .env("TMPDIR", &temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was built");
    let mut said = BufReader::new(runner.stderr.take().expect("it is piped")).lines();
    let ours = format!("solocron-{family}");
    assert!(said.any(|line| line.expect("text").contains(&ours)), "it measures {ours}");
    let deadline = Instant::now() + PATIENCE;
    // Contenders, and for a server its shell's watchdog as well.
    let mut started = below(runner.id());
    while started.len() < 2 {
        assert!(Instant::now() < deadline, "nobody contends: {started:?}");
        std::thread::sleep(Duration::from_millis(5));
        started = below(runner.id());
    }
    let directories: Vec<PathBuf> = started
        .iter()
        .filter_map(|(pid, _)| fs::read_link(format!("/proc/{pid}/cwd")).ok())
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("solocron-"))
        })
        .collect();

    kill(Pid::from_raw(runner.id().cast_signed()), signal).expect("it lives");
    let rest: Vec<_> = said.map(|line| line.expect("text")).collect();
    let status = runner.wait().expect("it is a child");
    assert_eq!(status.code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line == "contention: stopped by a signal"), "{rest:?}");

    // A watchdog needs a moment to see that its server is gone.
    let deadline = Instant::now() + PATIENCE;
    while let Some(left) = started.iter().find(|process| lives(process)) {
        assert!(Instant::now() < deadline, "{left:?} is left: {started:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    for directory in &directories {
        assert!(!directory.exists(), "{} is left", directory.display());
    }
    let left: Vec<_> = fs::read_dir(&temporary).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
    let written = fs::read_dir(place.path().join("out")).expect("it is there").count();
    assert_eq!(written, 0, "half a report");
}

#[test]
fn an_interrupted_runner_leaves_no_contender_and_no_file() {
    interrupt("flock", Signal::SIGINT);
}

#[test]
fn a_terminated_runner_leaves_no_server() {
    interrupt("redis", Signal::SIGTERM);
}
