//! What the contenders did, merged and checked.

use solocron_benches::Samples;

/// One acquisition, in nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) taken: u64,
    pub(crate) giving: u64,
    pub(crate) asked: u64,
    /// Who: process and task.
    pub(crate) who: (u32, u32),
}

/// What one round left behind.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) turns: Vec<Turn>,
    /// Since when somebody waits who had not been served when the round was over.
    pub(crate) waiting: Vec<u64>,
}

impl History {
    /// Reads one line of a contender: `turn asked taken giving task` or `waiting asked`.
    pub(crate) fn hear(&mut self, process: u32, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
        match (kind, numbers.as_deref()) {
            ("turn", Ok(&[asked, taken, giving, task])) if asked <= taken && taken <= giving => {
                let who = (process, u32::try_from(task).unwrap_or(u32::MAX));
                self.turns.push(Turn { taken, giving, asked, who });
            }
            ("waiting", Ok(&[asked])) => self.waiting.push(asked),
            _ => return Err(format!("process {process} said {line:?}")),
        }
        Ok(())
    }
}

/// The figures of one round.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Turns of the round.
    pub(crate) turns: usize,
    pub(crate) per_second: f64,
    /// Between different holders, in ms.
    pub(crate) handover: Samples,
    /// The longest that anybody waited within the round, in ms; also who was still waiting at its end.
    pub(crate) worst_wait: f64,
    /// How often each contender had its turn: the most and the least.
    pub(crate) most: usize,
    pub(crate) least: usize,
    /// How often one took it before another one had begun to give it back.
    pub(crate) overlaps: usize,
    /// The first of those, in words.
    pub(crate) overlap: Option<String>,
}

/// Merges the turns of `contenders` between `begun` and `ended`. Exclusion is judged over all turns, everything else over those that
/// were taken within.
pub(crate) fn figures(
    mut history: History,
    contenders: usize,
    (begun, ended): (u64, u64),
) -> Figures {
    history.turns.sort_unstable();
    let mut figures = Figures::default();
    let mut counts = std::collections::HashMap::<_, usize>::new();
    let mut last: Option<&Turn> = None;
    let waited = |asked: u64, until: u64| ms(until.min(ended).saturating_sub(asked));
    for turn in &history.turns {
        let inside = (begun..ended).contains(&turn.taken);
        if turn.taken >= begun {
            figures.worst_wait = figures.worst_wait.max(waited(turn.asked, turn.taken));
        }
        if inside {
            figures.turns += 1;
            *counts.entry(turn.who).or_default() += 1;
        }
        match last {
            Some(before) if turn.taken < before.giving => {
                figures.overlaps += 1;
                figures.overlap.get_or_insert_with(|| {
                    let early = ms(before.giving - turn.taken);
                    format!("two held at once for {early} ms: {before:?} and {turn:?}")
                });
            }
            Some(before) if inside && before.who != turn.who => {
                figures.handover.push(ms(turn.taken - before.giving));
            }
            _ => {}
        }
        // Who gives back last is the one whose hold the next one must not cut.
        if last.is_none_or(|before| before.giving <= turn.giving) {
            last = Some(turn);
        }
    }
    for asked in history.waiting {
        figures.worst_wait = figures.worst_wait.max(waited(asked, ended));
    }
    figures.per_second = figures.turns as f64 / ((ended - begun) as f64 / 1e9);
    figures.most = counts.values().copied().max().unwrap_or(0);
    figures.least =
        if counts.len() < contenders { 0 } else { counts.values().copied().min().unwrap_or(0) };
    figures
}

fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn turn(who: u32, asked: u64, taken: u64, giving: u64) -> Turn {
        Turn { taken: taken * MS, giving: giving * MS, asked: asked * MS, who: (who, 0) }
    }

    fn judge(turns: Vec<Turn>, contenders: usize, window: (u64, u64)) -> Figures {
        let history = History { turns, waiting: Vec::new() };
        figures(history, contenders, (window.0 * MS, window.1 * MS))
    }

    #[test]
    fn two_holders_at_once_are_found_also_past_a_third_one() {
        assert_eq!(judge(vec![turn(1, 0, 10, 20), turn(2, 0, 19, 30)], 2, (0, 99)).overlaps, 1);
        let nested = vec![turn(1, 0, 10, 50), turn(2, 0, 11, 12), turn(3, 0, 20, 30)];
        let figures = judge(nested, 3, (0, 99));
        assert_eq!(figures.overlaps, 2, "the first one holds until 50");
        assert!(figures.overlap.unwrap().starts_with("two held at once for 39 ms"));
        let before = vec![turn(1, 0, 10, 20), turn(2, 0, 19, 30)];
        assert_eq!(judge(before, 2, (50, 99)).overlaps, 1, "outside of what is measured as well");
        assert_eq!(judge(vec![turn(1, 0, 10, 20), turn(2, 0, 20, 30)], 2, (0, 99)).overlaps, 0);
    }

    #[test]
    fn a_hand_over_is_counted_between_different_holders_only() {
        let turns = vec![turn(1, 0, 0, 1), turn(1, 1, 2, 3), turn(2, 0, 7, 8)];
        let figures = judge(turns, 3, (0, 1000));
        assert_eq!((figures.handover.len(), figures.handover.median()), (1, Some(4.0)));
        assert_eq!((figures.most, figures.least), (2, 0), "the third one had no turn");
        assert!((figures.worst_wait - 7.0).abs() < 1e-9);
        assert!((figures.per_second - 3.0).abs() < 1e-9);
    }

    #[test]
    fn only_what_was_taken_within_is_measured() {
        let turns = vec![turn(1, 0, 1, 9), turn(2, 0, 10, 11), turn(1, 10, 20, 21)];
        let figures = judge(turns, 2, (10, 20));
        assert_eq!((figures.turns, figures.most, figures.least), (1, 1, 0));
        assert_eq!(figures.handover.len(), 1);
    }

    #[test]
    fn who_waits_at_the_end_has_waited() {
        let waiting = vec![10 * MS];
        let waits = figures(History { turns: Vec::new(), waiting }, 1, (0, 60 * MS));
        assert!((waits.worst_wait - 50.0).abs() < 1e-9);
        let late = judge(vec![turn(1, 10, 90, 95)], 1, (0, 60));
        assert!((late.worst_wait - 50.0).abs() < 1e-9, "served after the end");
    }

    #[test]
    fn a_line_that_is_none_is_an_error() {
        let mut history = History::default();
        history.hear(3, "turn 1 2 3 0").unwrap();
        history.hear(3, "waiting 7").unwrap();
        assert_eq!((history.turns[0].who, history.waiting[0]), ((3, 0), 7));
        for line in ["", "turn", "turn 1 2 3", "turn 1 2 x 0", "turn 5 4 6 0", "waiting", "bye"] {
            assert!(history.hear(3, line).unwrap_err().contains("process 3"), "{line}");
        }
    }
}
