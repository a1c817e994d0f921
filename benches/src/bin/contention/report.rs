//! Tables, JSON and plots.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use solocron_benches::plot::{Range, ranges};
use solocron_benches::{Samples, Table, round as digits};

use super::families::{Family, Kind, Server};
use super::findings::{Contended, Failed, Findings, Ratio, spread};
use super::round::Round;
use super::stage::Probe;
use super::targets;

/// Where and when, and how to do it again.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) machine: String,
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) rounds: usize,
}

fn samples(figures: &[Option<f64>]) -> Samples {
    figures.iter().flatten().copied().collect()
}

fn ratio(ratio: Option<&Ratio>) -> String {
    ratio.map_or("–".into(), |ratio| spread(&ratio.rounds))
}

/// The report as Markdown.
pub(crate) fn markdown(head: &Head, findings: &Findings) -> String {
    let Head { machine, date, command, rounds } = head;
    let mut text = format!(
        "# Contention and failover\n\n{date}, {machine}\n\n`{command}`\n\n\
         {rounds} rounds, in turns. Figures: median [middle half] over the rounds. Ratios: median [least..most] of the ratios of each \
         round. Hand-over: from the beginning of one holder's release to the return of another one's acquire. Relay P×M: P processes of \
         M tasks, waiters always queued; storm: who gives back asks again at once.\n"
    );
    let mut families: Vec<&Family> = Vec::new();
    for family in findings.contended.iter().map(|row| row.family) {
        if families.iter().all(|known| known.name != family.name) {
            families.push(family);
        }
    }
    for family in families {
        text += &format!("\n## {}\n\n{}", family.name, contention(family, findings));
        let growth = findings.growth(family.name, 2, 64);
        let growth: Vec<_> =
            growth.iter().map(|of| format!("{} {}", of.what, spread(&of.rounds))).collect();
        if !growth.is_empty() {
            text += &format!("\nHand-over p50 of 64 contenders / of 2: {}\n", growth.join("; "));
        }
        let probed = findings.probed.iter().find(|(of, _)| of.name == family.name);
        if let (Some((_, probes)), Some(what)) = (probed, family.server.probe()) {
            let busy: Samples = probes.iter().map(|probe| probe.busy).collect();
            let paced: Samples = probes.iter().map(|probe| probe.paced).collect();
            let (busy, paced) = (busy.show(), paced.show());
            text += &format!("\n{what} p50, ms: {busy} one after the other, {paced} every 5 ms\n");
        }
        text += &format!("\n{}", failover(family, findings));
    }
    if let Some(targets) = targets::table(findings) {
        text += &format!("\n## Targets\n\n{targets}");
    }
    text += "\n## Notes\n\n";
    for note in &findings.notes {
        text += &format!("- {note}\n");
    }
    text
}

fn contention(family: &Family, findings: &Findings) -> Table {
    let probe = family.server.probe();
    let by_probe = probe.map(|probe| [format!("x {probe}"), format!("x {probe} every 5 ms")]);
    // etcd's floor is its probe.
    let floor = family.server != Server::Etcd;
    let mut headings = vec!["contenders", "subject", "hand-over p50 ms"];
    headings.extend(floor.then_some("x floor"));
    headings.extend(by_probe.iter().flatten().map(String::as_str));
    headings.extend(["p99 ms", "max ms"]);
    headings.extend(probe.map(|_| "commands a turn"));
    headings.extend(["turns/s", "most:least", "each round", "worst wait ms", "two at once"]);
    let mut table = Table::new(&headings);
    let rows = findings.contended.iter().filter(|row| row.family.name == family.name);
    let mut rows: Vec<&Contended> = rows.collect();
    let order =
        |row: &&Contended| family.crowds.iter().position(|crowd| crowd.name() == row.crowd.name());
    rows.sort_by_key(order);
    for row in rows {
        let ratios = findings.ratios(row);
        let sum = |of: &dyn Fn(&super::history::Figures) -> usize| -> usize {
            row.rounds.iter().map(|round| of(&round.figures)).sum()
        };
        let mut cells =
            vec![row.crowd.name(), row.subject.name.to_owned(), samples(&row.handover(0.5)).show()];
        cells.extend(floor.then(|| ratio(ratios.floor.as_ref())));
        if probe.is_some() {
            cells.extend([ratio(ratios.probe.as_ref()), ratio(ratios.paced.as_ref())]);
        }
        cells.extend([samples(&row.handover(0.99)).show(), samples(&row.handover(1.0)).show()]);
        cells.extend(probe.map(|_| ratio(ratios.commands.as_ref())));
        let (most, least) = (sum(&|figures| figures.most), sum(&|figures| figures.least));
        let overlaps = sum(&|figures| figures.overlaps);
        let starved = row.starves();
        cells.extend([
            samples(&row.each(|round| Some(round.figures.per_second))).show(),
            format!("{most}:{least}"),
            if starved { "∞".into() } else { ratio(ratios.fairness.as_ref()) },
            samples(&row.each(|round| Some(round.figures.worst_wait))).show(),
            if overlaps == 0 { "no".into() } else { format!("**{overlaps}**") },
        ]);
        table.row(cells);
    }
    table
}

fn failover(family: &Family, findings: &Findings) -> Table {
    let ttl = family.server == Server::Redis; // which says how much of it is left
    let mut headings = vec!["kill -9 of", "kills", "to taken p50 ms", "max ms", "x floor"];
    headings.extend(ttl.then_some("beyond what was left of its ttl, ms"));
    headings.push("taken before the kill");
    let mut table = Table::new(&headings);
    for row in findings.failed.iter().filter(|row| row.family.name == family.name) {
        let (took, early) = (row.took(), row.early());
        let mut cells = vec![
            row.subject.name.to_owned(),
            (took.len() + early as usize).to_string(),
            took.show(),
            took.quantile(1.0).map_or("–".into(), digits),
            ratio(findings.failover_ratio(row).as_ref()),
        ];
        cells.extend(ttl.then(|| row.beyond().show()));
        cells.push(if early == 0 { "no".into() } else { format!("**{early}**") });
        table.row(cells);
    }
    table
}

/// The report as JSON: every figure of every round, and every ratio with its spread.
pub(crate) fn json(head: &Head, findings: &Findings) -> Value {
    let ratios = findings.all_ratios();
    json!({
        "machine": head.machine, "date": head.date, "command": head.command, "rounds": head.rounds,
        "notes": findings.notes,
        "contention": findings.contended.iter().map(contended).collect::<Vec<_>>(),
        "failover": findings.failed.iter().map(failed).collect::<Vec<_>>(),
        "ratios": ratios.iter().map(|ratio| json!({
            "what": ratio.what, "median": ratio.rounds.median(),
            "least": ratio.rounds.quantile(0.0), "most": ratio.rounds.quantile(1.0),
        })).collect::<Vec<_>>(),
    })
}

fn middle_half(figures: &Samples) -> Value {
    json!([figures.quantile(0.25), figures.median(), figures.quantile(0.75)])
}

fn contended(row: &Contended) -> Value {
    let round = |(round, probe): (&Round, &Option<Probe>)| {
        let figures = &round.figures;
        let handover = |share: f64| figures.handover.quantile(share);
        json!({
            "handover_p50_ms": handover(0.5), "handover_p99_ms": handover(0.99), "handover_max_ms": handover(1.0),
            "handovers": figures.handover.len(), "turns": figures.turns, "turns_per_second": figures.per_second,
            "most": figures.most, "least": figures.least, "worst_wait_ms": figures.worst_wait,
            "commands_per_turn": round.commands, "probe_ms": probe.map(|probe| probe.busy), "paced_probe_ms": probe.map(|probe| probe.paced),
            "two_at_once": figures.overlaps,
        })
    };
    json!({
        "family": row.family.name, "subject": row.subject.name, "kind": format!("{:?}", row.subject.kind).to_lowercase(),
        "crowd": {
            "kind": row.crowd.kind, "processes": row.crowd.processes, "tasks": row.crowd.tasks,
            "hold_ms": row.crowd.hold.as_millis() as u64, "away_ms": row.crowd.away.as_millis() as u64,
        },
        "handover_p50_ms": middle_half(&samples(&row.handover(0.5))),
        "handover_p99_ms": middle_half(&samples(&row.handover(0.99))),
        "rounds": row.rounds.iter().zip(&row.probes).map(round).collect::<Vec<_>>(),
    })
}

fn failed(row: &Failed) -> Value {
    json!({
        "family": row.family.name, "subject": row.subject.name, "ttl_ms": row.family.ttl.as_millis() as u64,
        "middle_half_ms": middle_half(&row.took()),
        "rounds": row.rounds.iter().map(|round| json!({
            "took_ms": round.took.figures(), "beyond_ttl_ms": round.beyond.figures(), "taken_before_the_kill": round.early,
        })).collect::<Vec<_>>(),
    })
}

/// Makes this directory, and sees whether something can be written there, before minutes go by.
///
/// # Errors
///
/// That it cannot, and why.
pub(crate) fn prepare(dir: &Path) -> Result<(), String> {
    let made = fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir).map(drop));
    made.map_err(|error| format!("--out {}: nothing can be written there: {error}", dir.display()))
}

/// Writes `contention.json`, `contention.md` and the plots of every family into this directory, which is there.
///
/// # Errors
///
/// Which file could not be written, and why.
pub(crate) fn write(dir: &Path, head: &Head, findings: &Findings) -> Result<(), String> {
    let doing = |path: &Path, error: std::io::Error| format!("write {}: {error}", path.display());
    let put = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| doing(&path, error))
    };
    put("contention.json", format!("{:#}\n", json(head, findings)))?;
    put("contention.md", markdown(head, findings))?;
    plot(dir, findings)
}

fn plot(dir: &Path, findings: &Findings) -> Result<(), String> {
    let of = |row: &Contended, from: Option<f64>, to: Option<f64>| Range {
        label: row.name(),
        from: from.unwrap_or(f64::NAN),
        to: to.unwrap_or(f64::NAN),
        ours: row.subject.kind == Kind::Ours,
    };
    for (family, _) in &findings.probed {
        let rows = || findings.contended.iter().filter(|row| row.family.name == family.name);
        let handover: Vec<_> = rows()
            .map(|row| {
                let median = |share: f64| samples(&row.handover(share)).median();
                of(row, median(0.5), median(0.99))
            })
            .collect();
        let fairness: Vec<_> = rows()
            .map(|row| {
                let fairness = if row.starves() { &[][..] } else { &row.fairness() };
                let fairness = samples(fairness);
                of(row, fairness.median(), fairness.quantile(1.0))
            })
            .collect();
        let failover: Vec<_> = findings
            .failed
            .iter()
            .filter(|row| row.family.name == family.name)
            .map(|row| Range {
                label: row.subject.name.to_owned(),
                from: row.took().median().unwrap_or(f64::NAN),
                to: row.took().quantile(1.0).unwrap_or(f64::NAN),
                ours: row.subject.kind == Kind::Ours,
            })
            .collect();
        let name = family.name;
        for (plot, title, unit, rows) in [
            ("handover", "hand-over, p50 to p99", "ms", handover),
            (
                "fairness",
                "most : least turns, median round to worst, without those that starve somebody",
                "ratio",
                fairness,
            ),
            ("failover", "kill -9 to taken, p50 to max", "ms", failover),
        ] {
            let path = dir.join(format!("contention-{name}-{plot}.svg"));
            ranges(&path, &format!("{name}: {title}"), unit, &rows)?;
        }
    }
    Ok(())
}
