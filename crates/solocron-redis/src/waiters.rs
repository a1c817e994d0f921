//! Who waits for what in this process, and its places in the lines that the store keeps.
//!
//! ```text
//!   an acquisition:  attempt ──► Busy, and in line ──► a release grants it, and tells this node ──► its next attempt, without a command
//!   whoever wants news:  in line ──► a release tells this node ──► woken ──► an attempt
//!                          ▲                                          │
//!                          └── at its old place, when it waits again ◄┴─ somebody else was faster
//! ```
//!
//! A line is a sorted set in the store, by the time of coming. An acquisition that waits has a place of its own in it, and the lock is
//! never free between its holder and the next one; all who only want news of a lock share one. What is said to a node is in
//! `lua/wake.lua`; what becomes of acquisitions is in [`turns`](crate::turns).
//!
//! Whoever is only woken and takes the lock wakes the next one by releasing it. Whoever is woken and does not take it **passes it on**,
//! when it waits again or stops waiting. What gets lost all the same, with a process that dies in between or a connection that breaks, is
//! found by the round: once a second every node that waits renews its places in one command, and is told which of its locks are free.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::Value;
use solocron::BackendError;
use solocron::lock::{LockKey, Nonce, Watch};
use tokio::sync::{Notify, watch};

use crate::link::{Link, keeper};
use crate::reply::{self, Odd};
use crate::script;
use crate::turns::{self, Turn};
use crate::wire::{self, Call};

/// How often places are renewed, and lost wake-ups are found.
const ROUND: Duration = Duration::from_secs(1);

/// More than this many locks are looked after in several commands.
const BATCH: usize = 500;

/// The locks that somebody in this process waits for.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    lines: Mutex<Lines>,
    places: AtomicU64,
    /// How many acquisitions are being given back in the background.
    pub(crate) leaving: watch::Sender<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The process that stands in them: a forked child starts with none.
    pid: u32,
    /// For whoever only wants news.
    by_slug: HashMap<String, Arc<Line>>,
    /// For each acquisition that waits.
    pub(crate) by_nonce: HashMap<Nonce, Arc<Line>>,
    /// What acquisitions that waited have won, while anybody has it.
    pub(crate) kept: HashMap<Nonce, usize>,
    /// The round is under way.
    rounds: bool,
}

/// One lock that somebody in this process waits for.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) key: LockKey,
    pub(crate) slug: String,
    pid: u32,
    /// What stands in the line for it, or what that begins with: never used again, so that a late farewell takes nobody else out.
    pub(crate) place: String,
    /// The acquisition that waits.
    pub(crate) nonce: Option<Nonce>,
    state: Mutex<Standing>,
    /// Counts news.
    news: AtomicU64,
    told: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Standing {
    watches: usize,
    /// It stands in line, as far as this node knows. Set before the command is sent: the news may come before its answer.
    pub(crate) in_line: bool,
    /// The store may have our place.
    pub(crate) in_store: bool,
    /// Where in the line; kept until the lock was had.
    pub(crate) score: String,
    /// When it was told that the lock is free, where it has not used that yet.
    pub(crate) baton: Option<Instant>,
    /// What becomes of the acquisition that waits.
    pub(crate) turn: Turn,
}

impl Line {
    pub(crate) fn state(&self) -> MutexGuard<'_, Standing> {
        // Every change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    pub(crate) fn tell(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        self.told.notify_waiters();
    }

    /// It was chosen, and its place is gone.
    fn wake(&self) {
        {
            let mut state = self.state();
            (state.in_line, state.in_store, state.baton) = (false, false, Some(Instant::now()));
        }
        self.tell();
    }

    /// What stands in the line for it.
    fn member(&self, state: &Standing) -> Vec<u8> {
        match (&state.turn.member, self.nonce) {
            (Some(member), _) => member.clone(),
            (None, Some(nonce)) => wire::member(&self.place, nonce, None),
            (None, None) => self.place.clone().into_bytes(),
        }
    }
}

impl Waiters {
    pub(crate) fn lines(&self) -> MutexGuard<'_, Lines> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        if lines.pid != pid {
            *lines = Lines { pid, ..Lines::default() };
        }
        lines
    }

    /// A release has chosen this node. False: nobody waits for news here any more.
    pub(crate) fn woken(&self, slug: &str) -> bool {
        let line = self.lines().by_slug.get(slug).cloned();
        line.inspect(|line| line.wake()).is_some()
    }

    /// A release has chosen this acquisition, and granted it nothing. False: it does not wait any more.
    pub(crate) fn woken_as(&self, nonce: Nonce) -> bool {
        let line = self.lines().by_nonce.get(&nonce).cloned();
        line.inspect(|line| line.wake()).is_some()
    }

    /// The connection is a new one: all news may have been missed, every place may be lost.
    pub(crate) fn all_woken(&self) {
        let all = self.lines().all();
        for line in all {
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

    /// All lines; `None` ends the round.
    fn to_look_after(&self) -> Option<Vec<Arc<Line>>> {
        let mut lines = self.lines();
        let all = lines.all();
        lines.rounds = !all.is_empty();
        lines.rounds.then_some(all)
    }

    fn place(&self, link: &Link) -> String {
        format!("{}:{}", link.node(), self.places.fetch_add(1, Ordering::Relaxed))
    }
}

impl Lines {
    fn all(&self) -> Vec<Arc<Line>> {
        self.by_slug.values().chain(self.by_nonce.values()).cloned().collect()
    }

    fn remove(&mut self, line: &Line) {
        match line.nonce {
            Some(nonce) => drop(self.by_nonce.remove(&nonce)),
            None => drop(self.by_slug.remove(&line.slug)),
        }
    }
}

impl Line {
    fn new(key: &LockKey, slug: String, place: String, nonce: Option<Nonce>) -> Arc<Self> {
        let (key, pid, state) = (key.clone(), std::process::id(), Mutex::default());
        let (news, told) = (AtomicU64::new(0), Notify::new());
        Arc::new(Self { key, slug, pid, place, nonce, state, news, told })
    }

    /// Whether its place is to be renewed now.
    fn stands(&self) -> bool {
        let state = self.state();
        // Whoever was woken just now is about to try.
        let about = state.baton.is_some_and(|since| since.elapsed() < ROUND);
        !about && (self.nonce.is_none() || state.turn.is_waiting())
    }
}

/// Waits for one lock. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct RedisWatch {
    link: Arc<Link>,
    key: LockKey,
    /// Once it has anything to wait for.
    line: Option<Arc<Line>>,
    seen: u64,
}

impl RedisWatch {
    /// Sends nothing: whoever asks for news gets in line then, and hears at once if the lock is free; an acquisition that waits gets in
    /// line with its attempt.
    pub(crate) fn begin(link: &Arc<Link>, key: &LockKey) -> Self {
        Self { link: Arc::clone(link), key: key.clone(), line: None, seen: 0 }
    }

    /// From now on it waits in the line of the acquisition `nonce`, or in the one for news.
    fn enter(&mut self, nonce: Option<Nonce>) -> Result<Arc<Line>, BackendError> {
        let (waiters, slug) = (self.link.waiters(), self.key.slug());
        let (line, round) = {
            let mut lines = waiters.lines();
            let new = |slug| Line::new(&self.key, slug, waiters.place(&self.link), nonce);
            let line = match nonce {
                Some(nonce) => Arc::clone(lines.by_nonce.entry(nonce).or_insert_with(|| new(slug))),
                None => Arc::clone(
                    lines.by_slug.entry(slug).or_insert_with_key(|slug| new(slug.clone())),
                ),
            };
            line.state().watches += 1;
            (line, !std::mem::replace(&mut lines.rounds, true))
        };
        self.seen = line.news();
        self.line = Some(Arc::clone(&line));
        if round {
            rounds(&self.link)?;
        }
        Ok(line)
    }

    /// Gets in line, if this node is not there, and hears of it where the lock is free.
    async fn stand(&self, line: &Arc<Line>) -> Result<(), BackendError> {
        if line.state().in_line {
            return Ok(());
        }
        stand(&self.link, std::slice::from_ref(line)).await
    }

    /// Waits no more for what it has waited for.
    fn leave(&mut self) {
        let Some(line) = self.line.take() else { return };
        let (member, pass_on) = {
            let mut lines = self.link.waiters().lines();
            if line.pid != lines.pid {
                return; // a parent's place, seen from its forked child
            }
            let mut state = line.state();
            state.watches -= 1;
            if state.watches > 0 {
                return;
            }
            lines.remove(&line);
            if state.turn.is_over()
                || !(state.in_store || state.baton.is_some() || state.turn.is_granted())
            {
                return;
            }
            (line.member(&state), state.baton.is_some())
        };
        match line.nonce {
            Some(nonce) => {
                let leave = wire::Leave { member, pass_on };
                turns::give_back(&self.link, line.key.clone(), nonce, Some(leave));
            }
            None => leave(&self.link, &line.slug, &line.place, pass_on),
        }
    }
}

#[async_trait]
impl Watch for RedisWatch {
    fn wait_as(&mut self, nonce: Nonce) {
        self.leave();
        // A grant that must reach replicas is waited for by whoever asks for it.
        if self.link.settings().replicas == 0
            && let Err(error) = self.enter(Some(nonce))
        {
            tracing::debug!(lock = %self.key, %error, "places in line are not looked after");
        }
    }

    async fn changed(&mut self) {
        let line = match &self.line {
            Some(line) => Arc::clone(line),
            None => match self.enter(None) {
                Ok(line) => line,
                Err(_) => return tokio::time::sleep(ROUND).await,
            },
        };
        loop {
            let mut told = std::pin::pin!(line.told.notified());
            // Listen first, look then.
            told.as_mut().enable();
            let news = line.news();
            if news != self.seen {
                self.seen = news;
                return;
            }
            if let Err(error) = self.stand(&line).await {
                // A new connection is news; until then there is nothing to hear.
                tracing::debug!(lock = %line.key, %error, "not in line; trying again");
                let _ = tokio::time::timeout(ROUND, told).await;
                continue;
            }
            told.await;
        }
    }
}

impl Drop for RedisWatch {
    fn drop(&mut self) {
        self.leave();
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

/// Gets these in line, with one command, and tells those whose lock is free.
async fn stand(link: &Arc<Link>, lines: &[Arc<Line>]) -> Result<(), BackendError> {
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
        call.argument(line.member(&state));
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
        // Held for the acquisition that waits, which was not heard, is news as well.
        if held != 1 {
            line.tell();
        }
    }
    Ok(())
}

fn places(answer: Value, count: usize) -> reply::Result<Vec<(String, i64)>> {
    const PART: &str = "place in line";
    let answers = reply::array(answer, PART)?;
    let read = |answer| {
        let words = reply::array(answer, PART)?;
        match words.get(1) {
            Some(Value::Int(held)) => Ok((reply::text(words.first(), PART)?.to_owned(), *held)),
            _ => Err(Odd(PART)),
        }
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
            let Some(mut lines) = link.waiters().to_look_after() else { return };
            for line in &lines {
                turns::take_back(&link, line, ROUND);
            }
            lines.retain(|line| line.stands());
            for batch in lines.chunks(BATCH) {
                // Unreachable: a new connection wakes everybody.
                let _ = stand(&link, batch).await;
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
