//! What is measured, of whom, and what is left out and why.

use std::time::Duration;

/// One measurement, of several subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) what: What,
    pub(crate) jobs: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// Jobs that are due once a year: how long adding them takes, and what they cost while nothing is due.
    Add,
    /// The same, in bytes of the allocator.
    Weigh,
    /// One job, due often, on an idle machine: how late it starts.
    Late,
    /// Jobs that are due each second, for three seconds.
    EachSecond,
    /// Jobs that are due once, all at the same instant, after nothing was due.
    Burst,
}

impl What {
    pub(crate) const ALL: [Self; 5] =
        [Self::Add, Self::Weigh, Self::Late, Self::EachSecond, Self::Burst];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Weigh => "weigh",
            Self::Late => "late",
            Self::EachSecond => "each-second",
            Self::Burst => "burst",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Floor,
    Solocron,
    /// Solocron, where each job has another pattern than the others.
    SolocronDistinct,
    TaskPerJob,
    Apalis,
    TokioCronScheduler,
}

impl Subject {
    pub(crate) const ALL: [Self; 6] = [
        Self::Floor,
        Self::Solocron,
        Self::SolocronDistinct,
        Self::TaskPerJob,
        Self::Apalis,
        Self::TokioCronScheduler,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Solocron => "solocron",
            Self::SolocronDistinct => "solocron-distinct",
            Self::TaskPerJob => "task-per-job",
            Self::Apalis => "apalis-cron",
            Self::TokioCronScheduler => "tokio-cron-scheduler",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subject| subject.name() == name)
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Solocron | Self::SolocronDistinct)
    }
}

/// Whether a subject is measured.
pub(crate) enum Measured {
    Yes,
    /// It says something about other cells only.
    NotMeant,
    /// It cannot, or takes too long: this is said in the report.
    No(&'static str),
}

impl Cell {
    pub(crate) fn parse(what: &str, jobs: &str) -> Option<Self> {
        let what = What::ALL.into_iter().find(|known| known.name() == what)?;
        Some(Self { what, jobs: jobs.parse().ok()? })
    }

    pub(crate) fn name(self) -> String {
        format!("{} {}", self.what.name(), self.jobs)
    }

    /// The cells of a report.
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let sizes: [(What, &[usize]); 5] = if quick {
            [
                (What::Add, &[1_000]),
                (What::Weigh, &[1_000]),
                (What::Late, &[1]),
                (What::EachSecond, &[]),
                (What::Burst, &[1_000]),
            ]
        } else {
            [
                (What::Add, &[1, 1_000, 10_000, 100_000, 1_000_000]),
                (What::Weigh, &[1_000, 100_000, 1_000_000]),
                (What::Late, &[1]),
                (What::EachSecond, &[1_000, 10_000, 100_000]),
                (What::Burst, &[10_000, 100_000, 1_000_000]),
            ]
        };
        let cells = sizes.into_iter();
        cells.flat_map(|(what, sizes)| sizes.iter().map(move |&jobs| Self { what, jobs })).collect()
    }

    /// Whether one round says all, because every round says the same or takes a minute.
    pub(crate) fn once_is_enough(self) -> bool {
        self.what == What::Weigh || (self.what == What::Burst && self.jobs >= 1_000_000)
    }

    pub(crate) fn measures(self, subject: Subject) -> Measured {
        let weighs = matches!(self.what, What::Add | What::Weigh);
        match subject {
            Subject::SolocronDistinct if !weighs => Measured::NotMeant,
            // One task that sleeps is the floor.
            Subject::TaskPerJob if self.what == What::Late => Measured::NotMeant,
            Subject::TokioCronScheduler if self.jobs > 10_000 => Measured::No(
                "adding more than 10,000 jobs takes it minutes, and it loses most fires",
            ),
            Subject::Apalis if self.jobs > 100_000 => {
                Measured::No("a million workers take it 3 GB and many seconds")
            }
            _ => Measured::Yes,
        }
    }

    /// Whether idle processor time is watched: it takes seconds, and few jobs say nothing about it.
    pub(crate) fn watches_idle(self) -> bool {
        self.jobs == 1 || self.jobs >= 100_000
    }

    /// How long one process of this cell may take.
    pub(crate) fn limit(self) -> Duration {
        Duration::from_secs(if self.jobs > 100_000 { 90 } else { 45 })
    }

    /// How long before the first tick building and starting begins.
    pub(crate) fn warm_up(self) -> Duration {
        Duration::from_millis(match self.jobs {
            ..=10_000 => 2_000,
            10_001..=100_000 => 3_500,
            _ => 20_000,
        })
    }
}
