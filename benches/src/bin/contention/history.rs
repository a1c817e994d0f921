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

/// The figures of one round.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    /// Between different holders, in ms.
    pub(crate) handover: Samples,
    /// The longest that anybody waited, in ms.
    pub(crate) worst_wait: f64,
    /// How often each contender had its turn: the most and the least.
    pub(crate) most: usize,
    pub(crate) least: usize,
}

/// Merges the turns of all contenders.
///
/// # Errors
///
/// Two held at once.
pub(crate) fn figures(
    mut turns: Vec<Turn>,
    contenders: usize,
    seconds: f64,
) -> Result<Figures, String> {
    turns.sort_unstable();
    let mut figures = Figures { per_second: turns.len() as f64 / seconds, ..Figures::default() };
    let mut counts = std::collections::HashMap::<_, usize>::new();
    for turn in &turns {
        *counts.entry(turn.who).or_default() += 1;
        figures.worst_wait = figures.worst_wait.max(ms(turn.taken - turn.asked));
    }
    figures.most = counts.values().copied().max().unwrap_or(0);
    figures.least =
        if counts.len() < contenders { 0 } else { counts.values().copied().min().unwrap_or(0) };
    for pair in turns.windows(2) {
        let [before, after] = pair else { continue };
        if after.taken < before.giving {
            let early = before.giving - after.taken;
            return Err(format!("two held at once for {early} ns: {before:?} and {after:?}"));
        }
        if before.who != after.who {
            figures.handover.push(ms(after.taken - before.giving));
        }
    }
    Ok(figures)
}

fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(who: u32, asked: u64, taken: u64, giving: u64) -> Turn {
        Turn { taken, giving, asked, who: (who, 0) }
    }

    #[test]
    fn two_holders_at_once_are_found() {
        let turns = vec![turn(1, 0, 10, 20), turn(2, 0, 19, 30)];
        assert!(figures(turns, 2, 1.0).unwrap_err().contains("two held at once"));
    }

    #[test]
    fn a_hand_over_is_counted_between_different_holders_only() {
        let ms = 1_000_000;
        let turns =
            vec![turn(1, 0, 0, ms), turn(1, ms, 2 * ms, 3 * ms), turn(2, 0, 7 * ms, 8 * ms)];
        let figures = figures(turns, 3, 1.0).expect("no overlap");
        assert_eq!(figures.handover.median(), Some(4.0));
        assert_eq!((figures.most, figures.least), (2, 0));
        assert!((figures.worst_wait - 7.0).abs() < 1e-9);
    }
}
