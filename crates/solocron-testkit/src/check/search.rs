//! The search: breadth first, every state once.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::config::Config;
use super::monitor::Broken;
use super::world::{Step, World};

/// What a [`search`] found.
#[derive(Debug, Clone)]
pub struct Searched {
    /// Different states.
    pub states: usize,
    /// Steps from one to another.
    pub steps: usize,
    /// Ends of paths.
    pub ends: usize,
    /// The first broken promise, on a shortest path to one.
    pub found: Option<Found>,
}

/// A broken promise and how to get there.
#[derive(Debug, Clone)]
pub struct Found {
    /// What is broken.
    pub broken: Broken,
    /// How many steps lead there.
    pub length: usize,
    /// What happened, a line each; the time in steps comes first.
    pub trace: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "     ==> {}", self.broken)
    }
}

/// A quick hash of states: each word is mixed in by a multiplication, the end by two more.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 56));
        }
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn write_u64(&mut self, word: u64) {
        let mixed = u128::from(self.0.rotate_left(23) ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = (mixed as u64) ^ ((mixed >> 64) as u64) ^ 0x2545_f491_4f6c_dd1d;
    }
}

/// The hash of a hash is that hash.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are kept")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Visits every state of this configuration, until a promise is broken. States are told apart by a hash of 64 bits: among ten
/// million states two are taken for one with a chance of 1 in 400,000.
#[must_use]
pub fn search(cfg: &Config) -> Searched {
    let plans = cfg.plans();
    let mut seen: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    // Where each state came from, to tell the story of one.
    let mut origins: Vec<(u32, Step)> = vec![(0, Step::Pass)];
    let mut layer = vec![(0u32, World::new(cfg, &plans, false))];
    let mut searched = Searched { states: 1, steps: 0, ends: 0, found: None };
    while !layer.is_empty() {
        let mut next = Vec::new();
        for (at, mut world) in layer {
            let steps = world.steps();
            if steps.is_empty() || world.is_over() {
                searched.ends += 1;
                world.finish();
                if world.monitor.broken.is_some() {
                    searched.found = Some(story(cfg, &origins, at));
                    return searched;
                }
                continue;
            }
            for step in steps {
                searched.steps += 1;
                let mut then = world.clone();
                then.apply(step);
                let mut hasher = Quick::default();
                then.hash(&mut hasher);
                if !seen.insert(hasher.finish()) {
                    continue;
                }
                origins.push((at, step));
                let id = u32::try_from(origins.len() - 1).expect("fewer states than that fit");
                searched.states += 1;
                if then.monitor.broken.is_some() {
                    searched.found = Some(story(cfg, &origins, id));
                    return searched;
                }
                next.push((id, then));
            }
        }
        layer = next;
    }
    searched
}

/// Walks the path once more, and listens.
fn story(cfg: &Config, origins: &[(u32, Step)], end: u32) -> Found {
    let mut steps = Vec::new();
    let mut at = end;
    while at != 0 {
        let (from, step) = origins[at as usize];
        steps.push(step);
        at = from;
    }
    let plans = cfg.plans();
    let mut world = World::new(cfg, &plans, true);
    world.log = Some(Vec::new());
    for step in steps.iter().rev() {
        world.apply(*step);
    }
    if world.is_over() {
        world.finish();
    }
    let broken = world.monitor.broken.clone().expect("the same steps lead to the same end");
    Found { broken, length: steps.len(), trace: world.log.unwrap_or_default() }
}
