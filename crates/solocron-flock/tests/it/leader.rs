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
    /// Who said what, as it was heard.
    heard: Vec<(&'static str, String)>,
}

impl Group {
    /// One leads, the others follow, and something was run.
    fn new() -> (Self, &'static str) {
        let mut group = Self { dir: Dir::new(), fleet: Fleet::new(), heard: Vec::new() };
        for name in NAMES {
            group.start(name);
        }
        let leader = group.leads_after(0);
        for name in NAMES.into_iter().filter(|name| *name != leader) {
            group.says_after(0, name, "follows");
        }
        group.runs_some(leader);
        (group, leader)
    }

    fn witness(&self) -> PathBuf {
        self.dir.path().with_extension("witness")
    }

    fn start(&mut self, name: &str) {
        let role = format!("{} {}", self.witness().display(), self.dir.path().display());
        self.fleet.start(name, this_test("leader::is_a_candidate", &role).unwrap()).unwrap();
    }

    /// Takes what the processes have said.
    fn hear(&mut self) {
        for name in NAMES {
            while let Ok(line) = self.fleet[name].recv(Duration::from_millis(1)) {
                self.heard.push((name, line));
            }
        }
    }

    /// Waits for something to be said, from the `from`th line on.
    fn until<T>(&mut self, what: &str, look: impl Fn(&[(&'static str, String)]) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(&self.heard) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "waited for {what} in vain: {:?}", self.heard);
            self.hear();
        }
    }

    fn leads_after(&mut self, from: usize) -> &'static str {
        self.until("a leader", |heard| {
            heard[from..].iter().find(|(_, line)| line == "leads").map(|(name, _)| *name)
        })
    }

    fn says_after(&mut self, from: usize, name: &str, line: &str) {
        self.until(&format!("{name}: {line}"), |heard| {
            heard[from..].iter().find(|said| said.0 == name && said.1 == line).map(drop)
        });
    }

    /// Waits for five more runs of this one.
    fn runs_some(&mut self, name: &str) {
        let from = self.heard.len();
        self.until(&format!("runs of {name}"), |heard| {
            let ran = heard[from..].iter().filter(|said| said.0 == name && said.1 == "ran");
            (ran.count() >= 5).then_some(())
        });
    }

    /// Starts one again that has ended, and waits until it follows.
    fn comes_back(&mut self, name: &'static str) {
        let from = self.heard.len();
        self.start(name);
        self.says_after(from, name, "follows");
    }

    fn end(&mut self) {
        for (name, status) in self.fleet.shut_down(PATIENCE).unwrap() {
            assert!(status.success(), "{name}: {status}");
        }
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
        group.hear();
        let from = group.heard.len();
        group.fleet[leader].kill().unwrap();
        let killed = Instant::now();
        let next = group.leads_after(from);
        gaps.push(killed.elapsed());
        assert_ne!(next, leader);
        group.runs_some(next);
        group.comes_back(leader);
        leader = next;
    }
    gaps.sort();
    let (median, worst) = (gaps[KILLS / 2], gaps[KILLS - 1]);
    eprintln!("kill -9 of the leader to the next: median {median:?}, worst {worst:?}");
    let witness = group.witness();
    drop(group.fleet);
    // Whoever is killed between its claim and its effect takes that tick along.
    judge(&witness, KILLS + NAMES.len());
}

#[test]
fn a_leader_that_is_asked_to_end_hands_over_at_once_and_loses_no_tick() {
    let (mut group, mut leader) = Group::new();
    for _ in 0..5 {
        let from = group.heard.len();
        group.fleet[leader].terminate().unwrap();
        let asked = Instant::now();
        let next = group.leads_after(from);
        eprintln!("SIGTERM of the leader to the next: {:?}", asked.elapsed());
        assert_ne!(next, leader);
        group.says_after(from, leader, "resigned");
        assert!(group.fleet[leader].wait(PATIENCE).unwrap().success());
        group.runs_some(next);
        group.comes_back(leader);
        leader = next;
    }
    group.end();
    judge(&group.witness(), 0);
}

#[test]
fn a_stopped_leader_blocks_its_group_and_leads_on_when_it_continues() {
    let (mut group, leader) = Group::new();
    group.fleet[leader].stop().unwrap();
    group.hear();
    let from = group.heard.len();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        group.hear();
    }
    let said = &group.heard[from..];
    assert!(said.is_empty(), "the kernel keeps its lock for as long as it lives: {said:?}");
    group.fleet[leader].cont().unwrap();
    group.runs_some(leader);
    let changed = group.heard[from..].iter().any(|(_, line)| line != "ran");
    assert!(!changed, "{:?}", &group.heard[from..]);
    group.end();
    judge(&group.witness(), 0);
}
