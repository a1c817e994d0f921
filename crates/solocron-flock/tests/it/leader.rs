//! Three processes, one directory, one leader: it is killed, stopped, asked to end, and the next one goes on with the ticks.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use solocron::trigger::Every;
use solocron::{Context, Coordination, Job, Locks, Misfire, Scheduler, What};
use solocron_flock::FlockBackend;
use solocron_testkit::fleet::{Fleet, exit_when_parent_dies, reply, role, this_test};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Dir, PATIENCE};

const PERIOD: Duration = Duration::from_millis(50);
const NAMES: [&str; 3] = ["a", "b", "c"];

#[test]
fn is_a_candidate() {
    let Some(role) = role() else { return };
    exit_when_parent_dies();
    let (witness, dir) = role.split_once(' ').unwrap();
    let witness = Arc::new(OpenOptions::new().append(true).create(true).open(witness).unwrap());
    let run = |ctx: Context, witness: Arc<File>| {
        // One write, so that no two lines mix.
        let line = format!("{} {}\n", ctx.tick().as_millisecond(), ctx.fence());
        std::future::ready((&*witness).write_all(line.as_bytes()))
    };
    let job = Job::with_state("job", Every::new(PERIOD).unwrap(), witness, run)
        .misfire(Misfire::all(PATIENCE * 10));
    let scheduler = Scheduler::builder(Locks::new(FlockBackend::open(dir).unwrap()).unwrap())
        .coordination(Coordination::leader("group"))
        .job(job)
        .observe(|event| {
            let said = match &event.what {
                What::Elected { .. } => reply("leads"),
                What::Follows { .. } => reply("follows"),
                What::Deposed { why, .. } => reply(format_args!("deposed {why}")),
                What::Resigned { .. } => reply("resigned"),
                What::Finished { .. } => reply("ran"),
                _ => Ok(()),
            };
            said.expect("the parent listens");
        })
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let mut asked = signal(SignalKind::terminate()).unwrap();
        scheduler.run_until(asked.recv()).await
    });
    ended.unwrap();
    std::process::exit(0); // and not back into the test harness
}

struct Group {
    dir: Dir,
    fleet: Fleet,
}

impl Group {
    /// One leads, the others follow, and something was run.
    fn new() -> (Self, &'static str) {
        let mut group = Self { dir: Dir::new(), fleet: Fleet::new() };
        for name in NAMES {
            group.start(name);
        }
        let leader = group.next_leader(&NAMES, PATIENCE).expect("somebody leads");
        for name in NAMES.into_iter().filter(|name| *name != leader) {
            group.fleet[name].expect("follows", PATIENCE).unwrap();
        }
        group.fleet[leader].expect("ran", PATIENCE).unwrap();
        (group, leader)
    }

    fn witness(&self) -> PathBuf {
        self.dir.path().with_extension("witness")
    }

    fn start(&mut self, name: &str) {
        let role = format!("{} {}", self.witness().display(), self.dir.path().display());
        self.fleet.start(name, this_test("leader::is_a_candidate", &role).unwrap()).unwrap();
    }

    /// Who of them is the next to say that it leads.
    fn next_leader(&mut self, names: &[&'static str], limit: Duration) -> Option<&'static str> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            for name in names {
                while let Ok(line) = self.fleet[name].recv(Duration::from_millis(1)) {
                    if line == "leads" {
                        return Some(*name);
                    }
                }
            }
        }
        None
    }

    fn others(&self, leader: &str) -> Vec<&'static str> {
        NAMES.into_iter().filter(|name| *name != leader).collect()
    }
}

/// The fences of each tick's runs.
fn runs(witness: &Path) -> BTreeMap<i64, Vec<u64>> {
    let mut runs = BTreeMap::<i64, Vec<u64>>::new();
    for line in fs::read_to_string(witness).unwrap().lines() {
        let (tick, fence) = line.split_once(' ').expect("two numbers");
        runs.entry(tick.parse().unwrap()).or_default().push(fence.parse().unwrap());
    }
    runs
}

/// None twice, fences in order, and no more missing between the first and the last than processes were killed.
fn judge(witness: &Path, kills: usize) {
    let runs = runs(witness);
    let twice: Vec<_> = runs.iter().filter(|(_, fences)| fences.len() != 1).collect();
    assert!(twice.is_empty(), "ticks that ran twice: {twice:?}");
    let fences: Vec<_> = runs.values().flatten().collect();
    assert!(fences.is_sorted_by(|a, b| a < b), "a later tick has a higher fence");
    let (first, last) = (*runs.keys().next().unwrap(), *runs.keys().last().unwrap());
    let period = PERIOD.as_millis() as usize;
    let missing: Vec<_> =
        (first..=last).step_by(period).filter(|tick| !runs.contains_key(tick)).collect();
    assert!(missing.len() <= kills, "{} of {} are missing: {missing:?}", missing.len(), runs.len());
    assert!(runs.len() > 10, "hardly anything ran");
}

#[test]
fn a_killed_leader_is_followed_and_the_ticks_go_on() {
    const KILLS: usize = 10;
    let (mut group, mut leader) = Group::new();
    let mut gaps = Vec::new();
    for _ in 0..KILLS {
        group.fleet[leader].kill().unwrap();
        let killed = Instant::now();
        let next = group.next_leader(&group.others(leader), PATIENCE).expect("somebody follows");
        gaps.push(killed.elapsed());
        group.fleet[next].expect("ran", PATIENCE).unwrap();
        group.start(leader);
        group.fleet[leader].expect("follows", PATIENCE).unwrap();
        leader = next;
    }
    gaps.sort();
    eprintln!(
        "kill -9 of the leader to the next: median {:?}, worst {:?}",
        gaps[KILLS / 2],
        gaps[KILLS - 1]
    );
    let witness = group.witness();
    drop(group.fleet);
    judge(&witness, KILLS + NAMES.len());
}

#[test]
fn a_leader_that_is_asked_to_end_hands_over_at_once_and_loses_no_tick() {
    let (mut group, mut leader) = Group::new();
    for _ in 0..5 {
        group.fleet[leader].terminate().unwrap();
        let asked = Instant::now();
        group.fleet[leader].expect("resigned", PATIENCE).unwrap();
        let next = group.next_leader(&group.others(leader), PATIENCE).expect("somebody follows");
        eprintln!("SIGTERM of the leader to the next: {:?}", asked.elapsed());
        assert!(group.fleet[leader].wait(PATIENCE).unwrap().success());
        group.fleet[next].expect("ran", PATIENCE).unwrap();
        group.start(leader);
        group.fleet[leader].expect("follows", PATIENCE).unwrap();
        leader = next;
    }
    for (name, status) in group.fleet.shut_down(PATIENCE).unwrap() {
        assert!(status.success(), "{name}: {status}");
    }
    judge(&group.witness(), 0);
}

#[test]
fn a_stopped_leader_blocks_its_group_and_leads_on_when_it_continues() {
    let (mut group, leader) = Group::new();
    group.fleet[leader].stop().unwrap();
    let others = group.others(leader);
    let elected = group.next_leader(&others, Duration::from_secs(2));
    assert_eq!(elected, None, "the kernel keeps its lock for as long as it lives");
    group.fleet[leader].cont().unwrap();
    while let Ok(line) = group.fleet[leader].recv(Duration::from_millis(200)) {
        assert!(!line.starts_with("deposed"), "{line}");
        if runs(&group.witness()).len() > 60 {
            break;
        }
    }
    for (name, status) in group.fleet.shut_down(PATIENCE).unwrap() {
        assert!(status.success(), "{name}: {status}");
    }
    judge(&group.witness(), 0);
}
