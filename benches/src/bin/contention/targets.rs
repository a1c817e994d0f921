//! What we want to reach, and whether we did.

use solocron_benches::{Samples, Table, round as digits};

use super::families::Kind;
use super::findings::{Contended, Failed, Findings, spread};

/// A figure that shall be no larger than a bound.
struct Target {
    what: String,
    bound: f64,
    /// In every round, or in every take-over.
    measured: Samples,
}

/// Every target of what was measured: bound, figure, spread, and whether the median keeps to it.
pub(crate) fn table(findings: &Findings) -> Option<Table> {
    let targets = targets(findings);
    let mut table = Table::new(&["what", "target: at most", "measured [least..most]", "met"]);
    for Target { what, bound, measured } in &targets {
        let met = measured.median().is_some_and(|median| median <= *bound);
        let met = if met { "yes" } else { "**no**" };
        table.row([what.clone(), digits(*bound), spread(measured), met.to_owned()]);
    }
    (!targets.is_empty()).then_some(table)
}

fn targets(findings: &Findings) -> Vec<Target> {
    let mut targets = Vec::new();
    let ours = findings.contended.iter().filter(|row| row.subject.kind == Kind::Ours);
    for row in ours {
        targets.extend(contended(findings, row));
    }
    for growth in findings.growth("socket", 2, 64) {
        if growth.what.starts_with("solocron") {
            let what = format!("{}: hand-over p50", growth.what);
            targets.push(Target { what, bound: 2.0, measured: growth.rounds });
        }
    }
    let killed = findings.failed.iter().filter(|row| row.subject.kind == Kind::Ours);
    targets.extend(killed.map(|row| failover(findings, row)));
    targets
}

fn contended(findings: &Findings, row: &Contended) -> Vec<Target> {
    let ratios = findings.ratios(row);
    let p99: Samples = row.handover(0.99).into_iter().flatten().collect();
    let figures = match row.family.name {
        "redis" if row.crowd.processes > 2 => vec![
            ("client commands a turn", 2.1, ratios.commands),
            ("hand-over p50 / PING p50", 5.0, ratios.probe.filter(|_| row.crowd.tasks == 1)),
            (
                "hand-over p50 / PING p50 every 5 ms",
                5.0,
                ratios.paced.filter(|_| row.crowd.tasks == 1),
            ),
            ("most : least turns", 1.2, ratios.fairness.filter(|_| row.crowd.tasks == 1)),
        ],
        "flock" => vec![("hand-over p50 / blocked flock", 5.0, ratios.floor)],
        "etcd" => {
            let what = format!("{}: hand-over p99, ms", row.name());
            return vec![Target { what, bound: 20.0, measured: p99 }];
        }
        _ => Vec::new(),
    };
    let target = |(what, bound, ratio): (&str, f64, Option<super::findings::Ratio>)| {
        Some(Target { what: format!("{}: {what}", row.name()), bound, measured: ratio?.rounds })
    };
    figures.into_iter().filter_map(target).collect()
}

fn failover(findings: &Findings, row: &Failed) -> Target {
    let name = row.subject.name;
    let ttl = row.family.ttl.as_secs_f64() * 1e3;
    let took = || row.took();
    match row.family.name {
        "redis" => {
            // The server tells what is left in whole milliseconds, before the kill.
            let handover = findings.contended.iter().filter(|other| other.subject.name == name);
            let handovers = handover.flat_map(|row| row.handover(0.99)).flatten();
            let bound = 1.0 + handovers.fold(0.0, f64::max);
            let what = format!("{name}: kill -9 to taken, beyond what was left of the ttl, ms");
            Target { what, bound, measured: row.beyond() }
        }
        "etcd" => {
            let what = format!("{name}: kill -9 to taken, ms");
            Target { what, bound: ttl + 1000.0, measured: took() }
        }
        _ => Target { what: format!("{name}: kill -9 to taken, ms"), bound: 5.0, measured: took() },
    }
}
