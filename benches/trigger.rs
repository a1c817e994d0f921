//! What parsing and the next tick cost, beside the crates that do the same, over the same 1,000 patterns in a zone with summer time.

use std::hint::black_box;
use std::str::FromStr as _;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use solocron::trigger::{Cron, Trigger};

fn cron(c: &mut Criterion) {
    let from: Timestamp = "2026-05-17T09:41:00Z".parse().expect("a time");
    let mut group = c.benchmark_group("cron");
    group.bench_function("parse", |b| b.iter(|| Cron::parse(black_box("*/5 9-17 * * MON-FRI"))));
    for (name, pattern) in
        [("often", "*/5 * * * *"), ("nightly", "30 2 * * *"), ("leap day", "0 0 29 2 *")]
    {
        let trigger = Cron::parse(pattern)
            .and_then(|cron| cron.time_zone("Europe/Berlin"))
            .expect("a pattern");
        group.bench_function(format!("next, {name}"), |b| {
            b.iter(|| trigger.next_after(black_box(from)))
        });
        group.bench_function(format!("last, {name}"), |b| {
            b.iter(|| trigger.last_at_or_before(black_box(from)))
        });
    }
    group.finish();
}

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

fn rivals(c: &mut Criterion) {
    let patterns = patterns();
    let with_seconds: Vec<_> = patterns.iter().map(|pattern| format!("0 {pattern}")).collect();
    let from: Timestamp = "2026-05-17T09:41:00Z".parse().expect("a time");
    let from_jiff = from.in_tz("Europe/Berlin").expect("the host knows the zone");
    let berlin = chrono_tz::Europe::Berlin;
    let from_chrono = chrono::DateTime::from_timestamp_millis(from.as_millisecond());
    let from_chrono = from_chrono.expect("in range").with_timezone(&berlin);

    let mut group = c.benchmark_group("1000 patterns");
    group.throughput(criterion::Throughput::Elements(1_000));
    group.bench_function("parse, solocron", |b| {
        b.iter(|| patterns.iter().filter(|pattern| Cron::parse(pattern).is_ok()).count())
    });
    group.bench_function("parse, croner", |b| {
        b.iter(|| patterns.iter().filter(|pattern| croner::Cron::from_str(pattern).is_ok()).count())
    });
    group.bench_function("parse, cron", |b| {
        b.iter(|| {
            let parsed =
                with_seconds.iter().filter(|pattern| cron::Schedule::from_str(pattern).is_ok());
            parsed.count()
        })
    });

    let ours: Vec<_> = patterns
        .iter()
        .map(|pattern| {
            Cron::parse(pattern)
                .and_then(|cron| cron.time_zone("Europe/Berlin"))
                .expect("a pattern")
        })
        .collect();
    let croners: Vec<_> = patterns
        .iter()
        .map(|pattern| croner::Cron::from_str(pattern).expect("a pattern"))
        .collect();
    let crons: Vec<_> = with_seconds
        .iter()
        .map(|pattern| cron::Schedule::from_str(pattern).expect("a pattern"))
        .collect();
    // What they are timed at must be the same work: all three find the same instants.
    for ((ours, croner), (cron, pattern)) in
        ours.iter().zip(&croners).zip(crons.iter().zip(&patterns))
    {
        let next = ours.next_after(from).expect("there is one").as_second();
        let croner = croner.find_next_occurrence(&from_jiff, false).expect("there is one");
        assert_eq!(croner.timestamp().as_second(), next, "croner, {pattern}");
        let cron = cron.after(&from_chrono).next().expect("there is one");
        assert_eq!(cron.timestamp(), next, "cron, {pattern}");
    }
    group.bench_function("next, solocron", |b| {
        b.iter(|| ours.iter().filter_map(|cron| cron.next_after(black_box(from))).count())
    });
    group.bench_function("next, croner", |b| {
        let next =
            |cron: &croner::Cron| cron.find_next_occurrence(black_box(&from_jiff), false).ok();
        b.iter(|| croners.iter().filter_map(next).count())
    });
    group.bench_function("next, cron", |b| {
        b.iter(|| {
            crons.iter().filter_map(|cron| cron.after(black_box(&from_chrono)).next()).count()
        })
    });
    group.finish();
}

criterion_group!(benches, cron, rivals);
criterion_main!(benches);
