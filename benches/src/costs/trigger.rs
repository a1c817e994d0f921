//! Parsing and the next tick: a thousand patterns in a zone with summer time, beside the crates that do the same.

use std::hint::black_box;
use std::str::FromStr as _;
use std::sync::Arc;

use jiff::Timestamp;
use solocron::trigger::{Cron, Trigger as _};

use super::{Group, Role, Subject};

const COUNT: u64 = 1_000;
const ZONE: &str = "Europe/Berlin";

/// A thousand patterns that all three crates read alike: no day of the week is a number, since `cron` counts them from another day.
fn patterns() -> Vec<String> {
    let days = ["*", "MON-FRI", "SAT", "MON,WED"];
    (0..1_000)
        .map(|n| match n % 5 {
            0 => format!("*/{} * * * *", 2 + n % 29),
            1 => format!("{} {} * * *", n % 60, n % 24),
            2 => format!("{} */{} * * {}", n % 60, 1 + n % 11, days[n / 5 % days.len()]),
            3 => format!("{},{} {} {} * *", n % 30, 30 + n % 30, n % 24, 1 + n % 28),
            _ => format!("{} {}-{} * {} *", n % 60, n % 12, 12 + n % 12, 1 + n % 12),
        })
        .collect()
}

fn ours(pattern: &str) -> Cron {
    Cron::parse(pattern).and_then(|cron| cron.time_zone(ZONE)).expect("a pattern")
}

pub(super) fn groups() -> Vec<Group> {
    let patterns = Arc::new(patterns());
    vec![parsing(&patterns), searching(&patterns)]
}

/// Does something with each of `patterns`, and checks that all went well.
fn each<T>(
    name: &'static str,
    role: Role,
    patterns: &Arc<Vec<T>>,
    well: impl Fn(&T) -> bool + Send + 'static,
) -> Subject
where
    T: Send + Sync + 'static,
{
    let patterns = Arc::clone(patterns);
    let all = move || {
        let count = black_box(&*patterns).iter().filter(|pattern| well(pattern)).count();
        assert_eq!(count as u64, COUNT);
    };
    Subject::plain(name, role, 1, all).units(COUNT)
}

fn parsing(patterns: &Arc<Vec<String>>) -> Group {
    let with_seconds = Arc::new(patterns.iter().map(|pattern| format!("0 {pattern}")).collect());
    let subjects = vec![
        each("croner", Role::Rival, patterns, |pattern| croner::Cron::from_str(pattern).is_ok()),
        each("solocron", Role::Ours, patterns, |pattern| Cron::parse(pattern).is_ok()).at_most(1.0),
        each("cron", Role::Rival, &with_seconds, |pattern: &String| {
            cron::Schedule::from_str(pattern).is_ok()
        }),
    ];
    Group::new("parsing 1,000 patterns", subjects, ())
}

fn searching(patterns: &Arc<Vec<String>>) -> Group {
    let from: Timestamp = "2026-05-17T09:41:00Z".parse().expect("a time");
    let from_jiff = from.in_tz(ZONE).expect("the host knows the zone");
    let from_chrono = chrono::DateTime::from_timestamp_millis(from.as_millisecond());
    let from_chrono = from_chrono.expect("in range").with_timezone(&chrono_tz::Europe::Berlin);

    let mine: Arc<Vec<_>> = Arc::new(patterns.iter().map(|pattern| ours(pattern)).collect());
    let croners = patterns.iter().map(|pattern| croner::Cron::from_str(pattern));
    let croners: Arc<Vec<_>> = Arc::new(croners.map(|cron| cron.expect("a pattern")).collect());
    let crons = patterns.iter().map(|pattern| cron::Schedule::from_str(&format!("0 {pattern}")));
    let crons: Arc<Vec<_>> = Arc::new(crons.map(|cron| cron.expect("a pattern")).collect());
    // What they are timed at must be the same work: all three find the same instants.
    for (((mine, croner), cron), pattern) in
        mine.iter().zip(&*croners).zip(&*crons).zip(&**patterns)
    {
        let next = mine.next_after(from).expect("there is one").as_second();
        let croner = croner.find_next_occurrence(&from_jiff, false).expect("there is one");
        assert_eq!(croner.timestamp().as_second(), next, "croner, {pattern}");
        let cron = cron.after(&from_chrono).next().expect("there is one");
        assert_eq!(cron.timestamp(), next, "cron, {pattern}");
    }
    let subjects = vec![
        each("croner", Role::Rival, &croners, move |cron| {
            cron.find_next_occurrence(black_box(&from_jiff), false).is_ok()
        }),
        each("solocron", Role::Ours, &mine, move |cron| cron.next_after(black_box(from)).is_some())
            .at_most(1.0),
        each("cron", Role::Rival, &crons, move |cron| {
            cron.after(black_box(&from_chrono)).next().is_some()
        }),
    ];
    Group::new("next tick of 1,000 patterns, zone with summer time", subjects, ())
}
