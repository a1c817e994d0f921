//! Measures every family in turns: each round runs each subject once, so that what disturbs the machine disturbs all of them.

use std::path::PathBuf;
use std::process::Command;

use super::failover::{TakeOvers, take_overs};
use super::families::{Crowd, FAMILIES, Family, Kind, Part, Subject};
use super::findings::{Contended, Failed, Findings};
use super::options::Options;
use super::round::round;
use super::stage::Stage;
use super::{rivals, stop};

/// Everything that was asked for.
///
/// # Errors
///
/// A server or a contender that fails; two holders of a lock of ours; a signal.
pub(crate) fn direct(options: &Options) -> Result<Findings, String> {
    let mut findings = Findings::default();
    let wanted = |family: &&Family| {
        options.only.is_empty() || options.only.iter().any(|only| only == family.name)
    };
    for family in FAMILIES.iter().filter(wanted) {
        let missing = family.server.program().filter(|(program, _)| !on_path(program));
        if let Some((program, advice)) = missing {
            findings.note(format!("not measured: {}: no {program}: {advice}", family.name));
            continue;
        }
        if let Some((program, _)) = family.server.program() {
            let output = Command::new(program).arg("--version").output();
            let output = output.map_err(|error| format!("{program} --version: {error}"))?;
            let version = String::from_utf8_lossy(&output.stdout);
            findings.note(format!(
                "{}: {}",
                family.name,
                version.lines().next().unwrap_or_default()
            ));
        }
        let subjects = present(family, &mut findings);
        contention(family, &subjects, options, &mut findings)?;
        failover(family, &subjects, options, &mut findings)?;
    }
    findings.note(
        "most : least is counted in whole turns: of k turns each, one more is (k + 1) / k; ∞: somebody had none in some round. No wait can \
         be seen to be longer than a round. etcd's data lies in memory where there is room, so no write waits for a disk. Pollers' \
         hand-overs count only where the lock changed its owner: see turns/s as well"
            .to_owned(),
    );
    findings.note(
        "not measured: APScheduler: it has no lock that could be handed over (one scheduler runs per job store; its load is measured by \
         the load runner)"
            .to_owned(),
    );
    Ok(findings)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir: PathBuf| dir.join(program)).any(|file| file.is_file())
}

/// The subjects that can run here; the others are named.
fn present(family: &Family, findings: &mut Findings) -> Vec<&'static Subject> {
    let mut present = Vec::new();
    for subject in family.subjects {
        if subject.kind != Kind::Rival {
            present.push(subject);
            continue;
        }
        match rivals::version(subject) {
            Ok(version) => {
                findings.note(format!("{}: {version} ({:?})", family.name, subject.by));
                present.push(subject);
            }
            Err(why) => findings.note(format!("not measured: {}: {why}", subject.name)),
        }
    }
    present
}

/// Every crowd of every round has a server of its own: contenders end by being killed, and what that does to a server shall not be
/// measured with the next crowd. (The Lock service of an etcd 3.4 was once seen to grant nothing any more after that.)
fn contention(
    family: &'static Family,
    subjects: &[&'static Subject],
    options: &Options,
    findings: &mut Findings,
) -> Result<(), String> {
    let subjects: Vec<_> =
        subjects.iter().copied().filter(|subject| subject.is_in(Part::Handover)).collect();
    let mut rows: Vec<Contended> = Vec::new();
    // Two processes are the cheapest crowd to leave out: what runs with eight runs with two.
    for &crowd in family.crowds.iter().filter(|crowd| !options.quick || crowd.processes > 2) {
        let row = |subject: &&'static Subject| Contended {
            family,
            subject,
            crowd,
            rounds: Vec::new(),
            probes: Vec::new(),
        };
        rows.extend(subjects.iter().map(row));
    }
    let mut probes = Vec::new();
    let mut broken = Vec::new();
    for number in 0..options.rounds {
        for of_crowd in rows.chunk_by_mut(|one, other| one.crowd.name() == other.crowd.name()) {
            let stage = Stage::set(family)?;
            let probe = stage.probe()?;
            probes.extend(probe);
            for row in of_crowd {
                let (subject, crowd) = (row.subject, row.crowd);
                if broken.contains(&row.name()) {
                    continue;
                }
                progress(options, number, family, subject, crowd);
                let round = match round(&stage, subject, crowd, options.measured()) {
                    Ok(round) => round,
                    Err(why) => {
                        let name = row.name();
                        findings.failed_to_run(subject, &name, why)?;
                        broken.push(name);
                        continue;
                    }
                };
                if let (Kind::Ours, Some(overlap)) = (subject.kind, &round.figures.overlap) {
                    return Err(format!("{}: {overlap}", row.name()));
                }
                row.rounds.push(round);
                row.probes.push(probe);
            }
        }
    }
    rows.retain(|row| !broken.contains(&row.name()));
    findings.contended.extend(rows);
    findings.probed.push((family, probes));
    Ok(())
}

fn progress(options: &Options, number: usize, family: &Family, subject: &Subject, crowd: Crowd) {
    let rounds = options.rounds;
    eprintln!(
        "round {} of {rounds}: {}, {}, {}",
        number + 1,
        family.name,
        subject.name,
        crowd.name()
    );
}

/// Where the kernel frees a lock, subjects take turns; where a ttl must run out, they all wait for theirs at the same time.
fn failover(
    family: &'static Family,
    subjects: &[&'static Subject],
    options: &Options,
    findings: &mut Findings,
) -> Result<(), String> {
    let subjects = subjects.iter().copied().filter(|subject| subject.is_in(Part::Failover));
    let mut rows: Vec<Failed> =
        subjects.map(|subject| Failed { family, subject, rounds: Vec::new() }).collect();
    let (kills, rounds) = options.kills(family.ttl);
    for number in 0..rounds {
        eprintln!("round {} of {rounds}: {}, kill -9", number + 1, family.name);
        let stage = Stage::set(family)?;
        let kill = |subject: &'static Subject| take_overs(&stage, family, subject, kills);
        let each: Vec<Result<TakeOvers, String>> = if family.ttl.is_zero() {
            rows.iter().map(|row| kill(row.subject)).collect()
        } else {
            std::thread::scope(|scope| {
                let threads: Vec<_> =
                    rows.iter().map(|row| scope.spawn(|| kill(row.subject))).collect();
                let panicked = |_| Err("its thread panicked".into());
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
            })
        };
        let mut left = Vec::new();
        for (mut row, result) in rows.into_iter().zip(each) {
            match result {
                Ok(result) if row.subject.kind == Kind::Ours && result.early > 0 => {
                    let (name, early) = (row.subject.name, result.early);
                    return Err(format!(
                        "{name} was taken {early} times before its holder was killed"
                    ));
                }
                Ok(result) => {
                    row.rounds.push(result);
                    left.push(row);
                }
                Err(why) => {
                    let what = format!("{}, killed", row.subject.name);
                    findings.failed_to_run(row.subject, &what, why)?;
                }
            }
        }
        rows = left;
    }
    findings.failed.extend(rows);
    stop::check()
}
