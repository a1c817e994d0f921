//! The commands of clients, counted twice: from the statistics, and line by line as `MONITOR` shows them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use solocron_testkit::fleet::Member;
use solocron_testkit::history::monotonic_ns;
use solocron_testkit::server::RedisServer;

use super::{Place, contenders, token};
use crate::commands::{self, Counts};
use crate::contender::Role;
use crate::families::{By, FAMILIES, Part, Server, Subject};
use crate::{rivals, stop};

const PATIENCE: Duration = Duration::from_secs(30);
const END: &str = "that was all";

/// What `MONITOR` shows, until somebody says `END`: the commands that came from clients, by name.
fn watch(redis: &RedisServer) -> std::thread::JoinHandle<Counts> {
    let mut stream = TcpStream::connect(redis.address()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(b"MONITOR\r\n").expect("it listens");
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().expect("an answer").expect("an answer"), "+OK");
    std::thread::spawn(move || {
        let lines = lines.map(|line| line.expect("it goes on"));
        // +1700000000.123456 [0 127.0.0.1:4711] "SET" …, or [0 lua] where a script called it
        let lines = lines.take_while(|line| !line.contains(END));
        let by_clients = lines.filter(|line| !line.contains(" lua] "));
        let mut counts = by_clients.fold(Counts::new(), |mut counts, line| {
            let name = line.split('"').nth(1).unwrap_or_default().to_lowercase();
            *counts.entry(name).or_default() += 1;
            counts
        });
        counts.remove("info"); // ours
        counts
    })
}

fn counts(redis: &RedisServer) -> Counts {
    commands::of_redis(&redis.command(&["INFO", "commandstats"]).to_string())
}

/// Three contenders in this process, some turns each.
fn in_this_process(subject: &Subject, place: &Place) {
    const TURNS: usize = 7;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for mut contender in contenders(subject.name, place, 3).await.expect("it connects") {
            tasks.spawn(async move {
                for _ in 0..TURNS {
                    contender.take().await.expect("its turn");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    contender.give().await.expect("it was taken");
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no panic");
        }
    });
}

/// Three contenders in a process of their own, for a moment.
fn in_their_own(subject: &Subject, place: &Place) {
    let (hold, away) = (Duration::from_millis(1), Duration::ZERO);
    let role = Role {
        subject: subject.name.into(),
        place: place.clone(),
        process: 0,
        tasks: 3,
        hold,
        away,
    };
    let mut member =
        Member::start("rival", role.command(subject.by).expect("a program")).expect("it starts");
    stop::expect(&mut member, "ready", PATIENCE).expect("it is ready");
    member.send("go").expect("it listens");
    std::thread::sleep(Duration::from_millis(300));
    member.kill().expect("it lives");
    member.wait(PATIENCE).expect("it ends");
}

#[test]
fn statistics_tell_what_monitor_shows() {
    let family = FAMILIES.iter().find(|family| family.name == "redis").expect("a family");
    for subject in family.subjects.iter().filter(|subject| subject.is_in(Part::Handover)) {
        if subject.by != By::Rust && rivals::version(subject).is_err() {
            eprintln!("not there: {}", subject.name);
            continue;
        }
        let redis = RedisServer::start();
        let key = "contended".to_owned();
        let place = Place { address: redis.url(), key, ttl: Duration::from_secs(30) };
        let monitor = watch(&redis);
        let before = counts(&redis);
        redis.command(&["RPUSH", &token(&place.key), "1"]);
        match subject.by {
            By::Rust => in_this_process(subject, &place),
            By::Python | By::Node => in_their_own(subject, &place),
        }
        let after = settled(&redis);
        redis.command(&["ECHO", END]);
        let shown = monitor.join().expect("it was watched");
        let counted = commands::sent(&before, &after, subject.inside);
        assert!(counted > 20, "{}: {counted} is too few to tell", subject.name);
        let shown_in_all: u64 = shown.values().sum();
        assert_eq!(counted, shown_in_all, "{}: {after:?} is not {shown:?}", subject.name);
    }
}

/// What is counted when the connections of before are gone: what they still sent has been read.
fn settled(redis: &RedisServer) -> Counts {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let clients = redis.command(&["INFO", "clients"]).to_string();
        // MONITOR's and the one that asks.
        if clients.contains("connected_clients:2\r\n") {
            return counts(redis);
        }
        assert!(Instant::now() < deadline, "connections stay: {clients}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn rivals_read_the_clock_that_we_read() {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let rivals =
        FAMILIES.iter().flat_map(|family| family.subjects.iter().map(move |of| (family, of)));
    for (family, subject) in rivals.filter(|(_, subject)| subject.by != By::Rust) {
        if rivals::version(subject).is_err() {
            eprintln!("not there: {}", subject.name);
            continue;
        }
        let address = match family.server {
            Server::Redis => redis.url(),
            _ => dir.path().to_str().expect("text").to_owned(),
        };
        let place = Place { address, key: subject.name.into(), ttl: Duration::from_secs(30) };
        let (hold, away) = (Duration::ZERO, Duration::ZERO);
        let role = Role { subject: subject.name.into(), place, process: 0, tasks: 1, hold, away };
        let command = role.command(subject.by).expect("a program");
        let mut member = Member::start(subject.name, command).expect("it starts");
        stop::expect(&mut member, "ready", PATIENCE).expect("it is ready");
        let before = monotonic_ns();
        member.send("hold").expect("it listens");
        let taken = stop::expect(&mut member, "taken", PATIENCE).expect("it is free");
        let taken: u64 = taken.parse().expect("nanoseconds");
        assert!(
            (before..monotonic_ns()).contains(&taken),
            "{}: {taken} after {before}",
            subject.name
        );
    }
}
