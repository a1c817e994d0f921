//! What locks and fires cost in one process: each group holds its floor and its rivals. The operations are those of the `costs`
//! runner; criterion adds its report.

use criterion::{Criterion, criterion_group, criterion_main};

mod families;

fn acquire(c: &mut Criterion) {
    families::bench(c, &["redis", "etcd", "flock", "socket", "memory", "renew", "fire"]);
}

criterion_group!(benches, acquire);
criterion_main!(benches);
