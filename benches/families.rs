//! Families of the `costs` runner as groups of criterion.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use solocron_benches::costs::groups;

pub(crate) fn bench(c: &mut Criterion, families: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for family in families {
        let groups = match runtime.block_on(groups(family)) {
            Ok(groups) => groups,
            Err(missing) => {
                eprintln!("left out {family}: {missing}");
                continue;
            }
        };
        for group in &groups {
            let mut shown = c.benchmark_group(group.name);
            shown.sample_size(20).measurement_time(Duration::from_secs(3));
            for subject in &group.subjects {
                shown.throughput(Throughput::Elements(subject.units));
                shown.bench_function(subject.name, |b| {
                    b.iter_custom(|times| {
                        let took = runtime.block_on(subject.run(times));
                        took.elapsed.mul_f64(times as f64 / took.done as f64)
                    })
                });
            }
            shown.finish();
        }
        runtime.block_on(async { drop(groups) });
    }
}
