//! Who waits for what in this process, and its place in the lines that the store keeps.
//!
//! ```text
//!   watch ──► in line (a sorted set in the store) ──► popped by a release: PUBLISH to this node ──► woken ──► its attempt
//!               ▲                                                                                │
//!               └── at its old place, when it waits again ◄─────────────────────── somebody else was faster
//! ```
//!
//! A wake-up goes to one node. Whoever is woken and takes the lock wakes the next one by releasing it. Whoever is woken and does
//! not take it **passes it on**, when it waits again or stops waiting. What gets lost all the same, with a process that dies in
//! between or a connection that breaks, is found by the round: once a second every node that waits renews its places in one
//! command, and is told which of its locks are free.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::Value;
use solocron::BackendError;
use solocron::lock::{LockKey, Watch};
use tokio::sync::Notify;

use crate::link::{Link, keeper};
use crate::reply::{self, Odd};
use crate::script;
use crate::wire::Call;

/// How often places are renewed, and lost wake-ups are found.
const ROUND: Duration = Duration::from_secs(1);

/// More than this many locks are looked after in several commands.
const BATCH: usize = 500;

/// The locks that somebody in this process waits for.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    lines: Mutex<Lines>,
    places: AtomicU64,
}

#[derive(Debug, Default)]
struct Lines {
    /// The process that stands in them: a forked child starts with none.
    pid: u32,
    by_slug: HashMap<String, Arc<Line>>,
    /// The round is under way.
    rounds: bool,
}

/// One lock that somebody in this process waits for.
#[derive(Debug)]
struct Line {
    slug: String,
    pid: u32,
    /// What stands in the line for this process: never used again, so that a late farewell takes nobody else out.
    place: String,
    state: Mutex<Standing>,
    /// Counts news.
    news: AtomicU64,
    told: Notify,
}

#[derive(Debug, Default)]
struct Standing {
    watches: usize,
    /// This node stands in line, as far as it knows. Set before the command is sent: the wake-up may come before its answer.
    in_line: bool,
    /// The store may have our place.
    in_store: bool,
    /// Where in the line; kept until the lock was had.
    score: String,
    /// When a wake-up came that nobody has used yet.
    baton: Option<Instant>,
}

impl Line {
    fn state(&self) -> MutexGuard<'_, Standing> {
        // Every change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        self.told.notify_waiters();
    }
}

impl Waiters {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        if lines.pid != pid {
            *lines = Lines { pid, ..Lines::default() };
        }
        lines
    }

    /// A release has chosen this node. False: nobody waits here any more.
    pub(crate) fn woken(&self, slug: &str) -> bool {
        let Some(line) = self.lines().by_slug.get(slug).cloned() else { return false };
        {
            let mut state = line.state();
            (state.in_line, state.in_store, state.baton) = (false, false, Some(Instant::now()));
        }
        line.tell();
        true
    }

    /// The connection is a new one: every wake-up may have been missed, every place may be lost.
    pub(crate) fn all_woken(&self) {
        let lines: Vec<_> = self.lines().by_slug.values().cloned().collect();
        for line in lines {
            line.state().in_line = false;
            line.tell();
        }
    }

    /// The lock was won here, or is held by somebody else: either way the next release wakes the next one.
    pub(crate) fn taken(&self, slug: &str, here: bool) {
        let line = self.lines().by_slug.get(slug).cloned();
        if let Some(line) = line {
            let mut state = line.state();
            state.baton = None;
            if here {
                state.score = String::new();
            }
        }
    }

    /// The lines that are waited in; none ends the round.
    fn standing(&self) -> Option<Vec<Arc<Line>>> {
        let mut lines = self.lines();
        lines.rounds = !lines.by_slug.is_empty();
        lines.rounds.then(|| lines.by_slug.values().cloned().collect())
    }
}

/// Waits for one lock. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct RedisWatch {
    link: Arc<Link>,
    line: Arc<Line>,
    seen: u64,
}

impl RedisWatch {
    /// In line when this returns.
    pub(crate) async fn begin(link: &Arc<Link>, key: &LockKey) -> Result<Self, BackendError> {
        let (line, round) = {
            let waiters = link.waiters();
            let mut lines = waiters.lines();
            let line = lines.by_slug.entry(key.slug()).or_insert_with_key(|slug| {
                let place =
                    format!("{}:{}", link.node(), waiters.places.fetch_add(1, Ordering::Relaxed));
                let (slug, pid, state) = (slug.clone(), std::process::id(), Mutex::default());
                Arc::new(Line {
                    slug,
                    pid,
                    place,
                    state,
                    news: AtomicU64::new(0),
                    told: Notify::new(),
                })
            });
            line.state().watches += 1;
            let line = Arc::clone(line);
            (line, !std::mem::replace(&mut lines.rounds, true))
        };
        let watch = Self { link: Arc::clone(link), seen: line.news.load(Ordering::Acquire), line };
        if round {
            rounds(link)?;
        }
        watch.stand(false).await?;
        Ok(watch)
    }

    /// Gets in line, if this node is not there. `news`: finding the lock free is worth telling.
    async fn stand(&self, news: bool) -> Result<(), BackendError> {
        if self.line.state().in_line {
            return Ok(());
        }
        stand(&self.link, std::slice::from_ref(&self.line), news).await
    }
}

#[async_trait]
impl Watch for RedisWatch {
    async fn changed(&mut self) {
        loop {
            let mut told = std::pin::pin!(self.line.told.notified());
            // Listen first, look then.
            told.as_mut().enable();
            let news = self.line.news.load(Ordering::Acquire);
            if news != self.seen {
                self.seen = news;
                return;
            }
            if let Err(error) = self.stand(true).await {
                // A new connection is news; until then there is nothing to hear.
                tracing::debug!(lock = %self.line.slug, %error, "not in line; trying again");
                let _ = tokio::time::timeout(ROUND, told).await;
                continue;
            }
            told.await;
        }
    }
}

impl Drop for RedisWatch {
    fn drop(&mut self) {
        let pass_on = {
            let mut lines = self.link.waiters().lines();
            if self.line.pid != lines.pid {
                return; // a parent's place, seen from its forked child
            }
            let mut state = self.line.state();
            state.watches -= 1;
            if state.watches > 0 {
                return;
            }
            lines.by_slug.remove(&self.line.slug);
            if !(state.in_store || state.baton.is_some()) {
                return;
            }
            state.baton.is_some()
        };
        leave(&self.link, &self.line.slug, &self.line.place, pass_on);
    }
}

/// Not in line after all, unless told otherwise: the command failed, or was dropped before anybody knows whether it was sent.
struct Unsure<'a>(&'a [Arc<Line>]);

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        for line in self.0 {
            line.state().in_line = false;
        }
    }
}

/// Gets these in line, with one command.
async fn stand(link: &Arc<Link>, lines: &[Arc<Line>], news: bool) -> Result<(), BackendError> {
    let names = &link.settings().names;
    let mut call = Call::default();
    call.argument(names.channels());
    for line in lines {
        call.key(names.lock(&line.slug));
        call.key(names.waiters(&line.slug));
        let mut state = line.state();
        // Whoever passes a wake-up on goes to the end of the line.
        let pass_on = state.baton.take().is_some();
        if pass_on {
            state.score = String::new();
        }
        call.argument(line.place.as_str());
        call.argument(state.score.as_str());
        call.argument(if pass_on { "1" } else { "0" });
        (state.in_line, state.in_store) = (true, true);
    }
    let unsure = Unsure(lines);
    let answer = link.repeat(&script::WATCH, &call).await?;
    let places = places(answer, lines.len())?;
    std::mem::forget(unsure);
    for (line, (score, held)) in lines.iter().zip(places) {
        line.state().score = score;
        if news && !held {
            line.tell();
        }
    }
    Ok(())
}

fn places(answer: Value, count: usize) -> reply::Result<Vec<(String, bool)>> {
    const PART: &str = "place in line";
    let answers = reply::array(answer, PART)?;
    let read = |answer| {
        let words = reply::array(answer, PART)?;
        Ok((reply::text(words.first(), PART)?.to_owned(), words.get(1) == Some(&Value::Int(1))))
    };
    let places = answers.into_iter().map(read).collect::<reply::Result<Vec<_>>>()?;
    if places.len() == count { Ok(places) } else { Err(Odd(PART)) }
}

/// Looks after all lines once a second, for as long as there are any.
fn rounds(link: &Arc<Link>) -> Result<(), BackendError> {
    let weak = Arc::downgrade(link);
    let round = async move {
        loop {
            tokio::time::sleep(ROUND).await;
            let Some(link) = weak.upgrade() else { return };
            let Some(mut lines) = link.waiters().standing() else { return };
            // Whoever was woken just now is about to try.
            lines.retain(|line| line.state().baton.is_none_or(|since| since.elapsed() >= ROUND));
            for batch in lines.chunks(BATCH) {
                // Unreachable: a new connection wakes everybody.
                let _ = stand(&link, batch, true).await;
            }
        }
    };
    let keeper = keeper().inspect_err(|_| link.waiters().lines().rounds = false)?;
    keeper.spawn(round);
    Ok(())
}

/// Leaves a line for good, in the background. `pass_on`: with a wake-up in hand.
pub(crate) fn leave(link: &Arc<Link>, slug: &str, place: &str, pass_on: bool) {
    let names = &link.settings().names;
    let mut call = Call::default();
    call.key(names.lock(slug));
    call.key(names.waiters(slug));
    call.argument(names.channels());
    call.argument(place);
    call.argument(if pass_on { "1" } else { "0" });
    let link = Arc::clone(link);
    // Failing does no harm: the store passes over a node that does not hear, and the round finds a wake-up that was lost.
    if let Ok(keeper) = keeper() {
        keeper.spawn(async move {
            let _ = link.repeat(&script::LEAVE, &call).await;
        });
    }
}
