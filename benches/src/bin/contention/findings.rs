//! What was measured, and the ratios that follow from it.

use solocron_benches::{Samples, round as digits};

use super::failover::TakeOvers;
use super::families::{Crowd, Family, Kind, Subject};
use super::round::Round;
use super::stage::Probe;
use super::stop;

/// Everything that one run found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) notes: Vec<String>,
    pub(crate) contended: Vec<Contended>,
    pub(crate) failed: Vec<Failed>,
    /// The probes of each family.
    pub(crate) probed: Vec<(&'static Family, Vec<Probe>)>,
}

impl Findings {
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// A rival that fails is a finding; a floor or ours ends the run, and so does a signal.
    ///
    /// # Errors
    ///
    /// What failed, and why.
    pub(crate) fn failed_to_run(
        &mut self,
        subject: &Subject,
        what: &str,
        why: String,
    ) -> Result<(), String> {
        stop::check()?;
        if subject.kind != Kind::Rival {
            return Err(format!("{what}: {why}"));
        }
        self.note(format!("failed: {what}: {why}"));
        Ok(())
    }
}

/// One subject and one crowd, in every round.
#[derive(Debug)]
pub(crate) struct Contended {
    pub(crate) family: &'static Family,
    pub(crate) subject: &'static Subject,
    pub(crate) crowd: Crowd,
    pub(crate) rounds: Vec<Round>,
    /// The family's probe just before each round.
    pub(crate) probes: Vec<Option<Probe>>,
}

/// One subject, killed again and again.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) family: &'static Family,
    pub(crate) subject: &'static Subject,
    pub(crate) rounds: Vec<TakeOvers>,
}

impl Failed {
    /// From the kill to the return of the next one's `take`, of all rounds, in ms.
    pub(crate) fn took(&self) -> Samples {
        self.rounds.iter().flat_map(|round| round.took.figures()).copied().collect()
    }

    /// How much of that was beyond what was left of the lease.
    pub(crate) fn beyond(&self) -> Samples {
        self.rounds.iter().flat_map(|round| round.beyond.figures()).copied().collect()
    }

    /// How often the next one had it before the kill.
    pub(crate) fn early(&self) -> u32 {
        self.rounds.iter().map(|round| round.early).sum()
    }

    fn medians(&self) -> Vec<Option<f64>> {
        self.rounds.iter().map(|round| round.took.median()).collect()
    }
}

impl Contended {
    /// A figure of every round.
    pub(crate) fn each(&self, figure: impl Fn(&Round) -> Option<f64>) -> Vec<Option<f64>> {
        self.rounds.iter().map(figure).collect()
    }

    /// This quantile of the hand-overs of every round.
    pub(crate) fn handover(&self, share: f64) -> Vec<Option<f64>> {
        self.each(|round| round.figures.handover.quantile(share))
    }

    /// Most turns of anybody to least, of every round. Nothing for a round in which somebody had none.
    pub(crate) fn fairness(&self) -> Vec<Option<f64>> {
        self.each(|round| {
            let (most, least) = (round.figures.most, round.figures.least);
            (least > 0).then(|| most as f64 / least as f64)
        })
    }

    /// Whether somebody had no turn at all in some round.
    pub(crate) fn starves(&self) -> bool {
        self.rounds.iter().any(|round| round.figures.least == 0)
    }

    fn probe(&self, of: impl Fn(&Probe) -> f64) -> Vec<Option<f64>> {
        self.probes.iter().map(|probe| probe.as_ref().map(&of)).collect()
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.subject.name, self.crowd.name())
    }
}

/// A ratio of two medians that were measured in the same round.
#[derive(Debug, Clone)]
pub(crate) struct Ratio {
    pub(crate) what: String,
    pub(crate) rounds: Samples,
}

impl Ratio {
    /// Of each round's `figures` to `base`; nothing where one of them was not measured in every round.
    pub(crate) fn of(what: String, figures: &[Option<f64>], base: &[Option<f64>]) -> Option<Self> {
        let pairs = figures.iter().zip(base);
        let rounds: Option<Samples> = pairs
            .map(|(figure, base)| Some((*figure)? / (*base).filter(|base| *base > 0.0)?))
            .collect();
        rounds.filter(|rounds| !rounds.is_empty()).map(|rounds| Self { what, rounds })
    }

    /// Of figures that are ratios by themselves.
    pub(crate) fn plain(what: String, figures: &[Option<f64>]) -> Option<Self> {
        Self::of(what, figures, &vec![Some(1.0); figures.len()])
    }
}

/// The median, and from the least to the most of all rounds: with five rounds that range holds the true median in 15 of 16 runs.
pub(crate) fn spread(rounds: &Samples) -> String {
    match (rounds.median(), rounds.quantile(0.0), rounds.quantile(1.0)) {
        (Some(median), Some(low), Some(high)) => {
            format!("{} [{}..{}]", digits(median), digits(low), digits(high))
        }
        _ => "–".into(),
    }
}

/// The ratios of one row.
#[derive(Debug, Default)]
pub(crate) struct Ratios {
    /// Hand-over p50 to the floor's.
    pub(crate) floor: Option<Ratio>,
    /// Hand-over p50 to the probe's.
    pub(crate) probe: Option<Ratio>,
    /// In a relay, hand-over p50 to the probe's at the same pace.
    pub(crate) paced: Option<Ratio>,
    pub(crate) commands: Option<Ratio>,
    pub(crate) fairness: Option<Ratio>,
}

impl Findings {
    pub(crate) fn ratios(&self, row: &Contended) -> Ratios {
        let floor = self.contended.iter().find(|other| {
            let same =
                other.family.name == row.family.name && other.crowd.name() == row.crowd.name();
            same && other.subject.kind == Kind::Floor
        });
        let p50 = row.handover(0.5);
        let named = |what: &str| format!("{}: {what}", row.name());
        let probe = |pace: &str, of: fn(&Probe) -> f64| {
            let probe = row.family.server.probe()?;
            Ratio::of(named(&format!("hand-over p50 / {probe}{pace}")), &p50, &row.probe(of))
        };
        let by_floor = |floor: &Contended| {
            let what = named(&format!("hand-over p50 / {}", floor.subject.name));
            Ratio::of(what, &p50, &floor.handover(0.5))
        };
        let relay = row.crowd.kind == "relay";
        Ratios {
            floor: floor.and_then(by_floor),
            probe: probe("", |probe| probe.busy),
            paced: if relay { probe(" every 5 ms", |probe| probe.paced) } else { None },
            commands: Ratio::plain(named("commands a turn"), &row.each(|round| round.commands)),
            fairness: Ratio::plain(named("most : least turns"), &row.fairness()),
        }
    }

    /// How much slower each subject of this family hands over among `many` than among `few`, by their numbers of contenders.
    pub(crate) fn growth(&self, family: &str, few: u32, many: u32) -> Vec<Ratio> {
        let relays = |contenders: u32| {
            self.contended.iter().filter(move |row| {
                let crowd = row.crowd;
                row.family.name == family
                    && crowd.kind == "relay"
                    && crowd.processes * crowd.tasks == contenders
            })
        };
        let growth = |row: &Contended| {
            let base = relays(few).find(|base| base.subject.name == row.subject.name)?;
            let what = format!("{}, {many} / {few}", row.subject.name);
            Ratio::of(what, &row.handover(0.5), &base.handover(0.5))
        };
        relays(many).filter_map(growth).collect()
    }

    /// The median take-over of each round to the floor's.
    pub(crate) fn failover_ratio(&self, row: &Failed) -> Option<Ratio> {
        let same = |other: &&Failed| other.family.name == row.family.name;
        let is_floor = |other: &&Failed| other.subject.kind == Kind::Floor;
        let floor = self.failed.iter().filter(same).find(is_floor)?;
        let what = format!("{}: kill -9 to taken / {}", row.subject.name, floor.subject.name);
        Ratio::of(what, &row.medians(), &floor.medians())
    }

    /// All of them, for a comparison with another run.
    pub(crate) fn all_ratios(&self) -> Vec<Ratio> {
        let rows = self.contended.iter().flat_map(|row| {
            let Ratios { floor, probe, paced, commands, fairness } = self.ratios(row);
            [floor, probe, paced, commands, fairness]
        });
        let failed = self.failed.iter().map(|row| self.failover_ratio(row));
        let growth = self.growth("socket", 2, 64).into_iter().map(Some);
        rows.chain(failed).chain(growth).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let ratio = Ratio::of(
            "a / b".into(),
            &[Some(2.0), Some(30.0), Some(4.0)],
            &[Some(1.0), Some(10.0), Some(1.0)],
        );
        let rounds = ratio.expect("all are there").rounds;
        assert_eq!(spread(&rounds), "3.00 [2.00..4.00]");
    }

    #[test]
    fn what_was_not_measured_in_every_round_has_no_ratio() {
        assert!(Ratio::of("a".into(), &[Some(1.0), None], &[Some(1.0), Some(1.0)]).is_none());
        assert!(Ratio::of("a".into(), &[Some(1.0)], &[Some(0.0)]).is_none(), "no base");
        assert!(Ratio::plain("a".into(), &[]).is_none());
    }
}
