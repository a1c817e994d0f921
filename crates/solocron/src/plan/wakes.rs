//! When each job wants to be looked at: a heap with four children a node, which knows where each job stands in it.
//!
//! Sixteen bytes an entry put the four children of a node into one cache line or two; a job's own place makes moving it cost a
//! path, not a search. Measured against an ordered set in `docs/design/0009-a-million-jobs.md`.

use jiff::Timestamp;

/// How many children a node of the heap has.
const CHILDREN: usize = 4;

/// The place of a job that stands nowhere.
const NOWHERE: u32 = u32::MAX;

/// Instants to look at jobs, the earliest first; a job stands here at most once. Kept to the microsecond, rounded up: a job is looked
/// at late rather than early.
#[derive(Debug, Clone)]
pub(super) struct Wakes {
    heap: Vec<Wake>,
    /// Where each job stands in the heap.
    places: Vec<u32>,
}

/// Jobs of one instant go in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wake {
    /// Microseconds since the Unix epoch.
    at: i64,
    job: u32,
}

impl Wakes {
    /// The most jobs of one plan.
    pub(super) const MOST: usize = NOWHERE as usize;

    /// For that many jobs, none of which wants to be looked at.
    ///
    /// # Panics
    ///
    /// Where they are more than [`MOST`](Self::MOST).
    pub(super) fn new(jobs: usize) -> Self {
        assert!(jobs <= Self::MOST, "a plan holds at most {} jobs, not {jobs}", Self::MOST);
        Self { heap: Vec::with_capacity(jobs), places: vec![NOWHERE; jobs] }
    }

    /// The earliest instant.
    pub(super) fn first(&self) -> Option<Timestamp> {
        self.heap.first().map(|wake| instant(wake.at))
    }

    /// When that job wants to be looked at.
    pub(super) fn of(&self, job: usize) -> Option<i64> {
        self.heap.get(self.places[job] as usize).map(|wake| wake.at)
    }

    /// Looks at the job at that instant, and at no other.
    pub(super) fn set(&mut self, job: usize, at: Option<Timestamp>) {
        let place = self.places[job];
        match (at.map(micros), place) {
            (None, NOWHERE) => {}
            (None, _) => self.remove(place as usize),
            (Some(at), NOWHERE) => {
                let job = job as u32; // fits, or `new` had panicked
                self.heap.push(Wake { at, job });
                self.rise(self.heap.len() - 1);
            }
            (Some(at), _) => {
                self.heap[place as usize].at = at;
                self.settle(place as usize);
            }
        }
    }

    /// Takes out the first job whose time has come.
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<usize> {
        let first = self.heap.first()?;
        if instant(first.at) > now {
            return None;
        }
        let job = first.job;
        self.remove(0);
        Some(job as usize)
    }

    /// Takes out every job.
    pub(super) fn clear(&mut self) {
        for wake in self.heap.drain(..) {
            self.places[wake.job as usize] = NOWHERE;
        }
    }

    fn remove(&mut self, place: usize) {
        let gone = self.heap.swap_remove(place);
        self.places[gone.job as usize] = NOWHERE;
        if place < self.heap.len() {
            self.settle(place);
        }
    }

    /// Brings what stands at `place` to where it belongs.
    fn settle(&mut self, place: usize) {
        if self.rise(place) == place {
            self.sink(place);
        }
    }

    /// Towards the root, while it is earlier than what it meets. Where it ends.
    fn rise(&mut self, mut place: usize) -> usize {
        let wake = self.heap[place];
        while let Some(below) = place.checked_sub(1) {
            let parent = below / CHILDREN;
            if self.heap[parent] <= wake {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, wake);
        place
    }

    /// Away from the root, while a child is earlier.
    fn sink(&mut self, mut place: usize) {
        let wake = self.heap[place];
        loop {
            let first = place * CHILDREN + 1;
            let end = (first + CHILDREN).min(self.heap.len());
            let Some(child) = (first..end).min_by_key(|child| self.heap[*child]) else { break };
            if wake <= self.heap[child] {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, wake);
    }

    fn put(&mut self, place: usize, wake: Wake) {
        self.heap[place] = wake;
        self.places[wake.job as usize] = place as u32; // fewer than `MOST` stand here
    }
}

/// The first whole microsecond at or after `at`.
fn micros(at: Timestamp) -> i64 {
    let up = i64::from(at.subsec_nanosecond().rem_euclid(1_000) > 0);
    // Rounded down, before the epoch too: both parts are negative there.
    at.as_second() * 1_000_000 + i64::from(at.subsec_nanosecond().div_euclid(1_000)) + up
}

fn instant(micros: i64) -> Timestamp {
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    // Only the last microsecond that a timestamp can hold is rounded to beyond it.
    Timestamp::new(seconds, micros as i32 * 1_000).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const JOBS: usize = 23;

    #[derive(Debug, Clone)]
    enum Step {
        Set(usize, Option<i64>),
        Pop(i64),
        Clear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few instants, so that many jobs share one.
        let step = prop_oneof![
            12 => (0..JOBS, prop::option::weighted(0.8, -20_i64..20)).prop_map(|(job, at)| Step::Set(job, at)),
            6 => (-20_i64..20).prop_map(Step::Pop),
            1 => Just(Step::Clear),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn at(micros: i64) -> Timestamp {
        instant(micros)
    }

    proptest! {
        #[test]
        fn jobs_come_out_as_they_would_from_an_ordered_set(steps in steps()) {
            let (mut wakes, mut model) = (Wakes::new(JOBS), BTreeSet::<(i64, usize)>::new());
            for step in steps {
                match step {
                    Step::Set(job, when) => {
                        model.retain(|(_, other)| *other != job);
                        model.extend(when.map(|when| (when, job)));
                        wakes.set(job, when.map(at));
                    }
                    Step::Pop(now) => loop {
                        let due = model.first().copied().filter(|(when, _)| *when <= now);
                        prop_assert_eq!(wakes.pop(at(now)), due.map(|(_, job)| job));
                        let Some(due) = due else { break };
                        model.remove(&due);
                    },
                    Step::Clear => {
                        wakes.clear();
                        model.clear();
                    }
                }
                prop_assert_eq!(wakes.first(), model.first().map(|(when, _)| at(*when)));
                for job in 0..JOBS {
                    let when = model.iter().find(|(_, other)| *other == job).map(|(when, _)| *when);
                    prop_assert_eq!(wakes.of(job), when);
                }
            }
        }

        #[test]
        fn an_instant_is_never_rounded_down(nanos in -4_000_000_000_000_000_000_i128..4_000_000_000_000_000_000) {
            let asked = Timestamp::from_nanosecond(nanos).unwrap();
            let kept = instant(micros(asked)).as_nanosecond();
            prop_assert!((nanos..nanos + 1_000).contains(&kept), "{} was kept as {}", nanos, kept);
        }
    }

    #[test]
    fn the_ends_of_time_are_kept() {
        for end in [Timestamp::MIN, Timestamp::MAX] {
            let mut wakes = Wakes::new(1);
            wakes.set(0, Some(end));
            assert_eq!(wakes.first(), Some(end));
            assert_eq!(wakes.pop(end), Some(0));
        }
    }

    #[test]
    fn a_wake_takes_twenty_bytes_a_job() {
        // What a million of them cost; see the design page before letting it grow.
        assert_eq!(size_of::<Wake>() + size_of::<u32>(), 20);
    }
}
