//! What parsing and the next tick cost, beside the crates that do the same, over the same 1,000 patterns in a zone with summer time.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use solocron::trigger::{Cron, Trigger};

mod families;

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

/// Beside the crates that do the same.
fn rivals(c: &mut Criterion) {
    families::bench(c, &["trigger"]);
}

criterion_group!(benches, cron, rivals);
criterion_main!(benches);
