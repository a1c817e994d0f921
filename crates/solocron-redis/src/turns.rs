//! Acquisitions that wait in a line, until each is granted or given up.
//!
//! ```text
//!   attempt ─► Won
//!       └────► Busy, in line ─► pushed grant ─► picked up by the next attempt, without a command ─► Won: kept while its lease lives
//!                    │                └───────► nobody waits here any more ─┐
//!                    └─► given up ─────────────────────────────────────────┴─► leave the line and give back, by nonce
//! ```
//!
//! A message may come twice (from an old connection and a new one), or after an attempt was told the same. So what was won is remembered
//! for as long as anybody has its lease: only what nobody here has is given back.
//!
//! A pushed grant counts from when the store made it, in the caller's clock: as long after the last attempt was sent as the store's clock
//! has gone on since it answered that attempt, and no later than the message came. The attempt was sent before it was answered, so this is
//! early, never late; but for a store whose clock is set back in between (then it counts from the attempt, which is earlier still) or
//! forward (then from the attempt as well, because nobody knows how long the message took). Leases end by the store's clock anyway.
//!
//! A grant that nobody picks up within a second is given back: whoever waits for it is not at work.

use std::mem;
use std::sync::{Arc, Weak};
use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{LockKey, MarkAfter, Nonce, Reply, Request};
use solocron::{BackendError, Clock, LeaseInstant, SystemClock};

use crate::lease::RedisLease;
use crate::link::{Link, keeper};
use crate::record::Record;
use crate::script;
use crate::waiters::{Line, Waiters};
use crate::wire::{self, Leave, Place, Return};

/// Clocks that run apart by more than this between two attempts were set.
const STEPPED: Duration = Duration::from_millis(5);

type Attempted = Result<Reply<RedisLease>, BackendError>;

/// What becomes of an acquisition that waits.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// What stands in the line for it, since its first attempt.
    pub(crate) member: Option<Vec<u8>>,
    /// When the last attempt was sent, and the store's clock when it answered.
    base: Option<(LeaseInstant, Timestamp)>,
    granted: Option<Pushed>,
    over: bool,
}

impl Turn {
    /// Its place is worth renewing.
    pub(crate) fn is_waiting(&self) -> bool {
        self.member.is_some() && !self.over && self.granted.is_none()
    }

    /// It was granted, and nobody has been told.
    pub(crate) fn is_granted(&self) -> bool {
        self.granted.is_some()
    }

    /// It was won, and told so.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
}

/// A grant that the store made by itself.
#[derive(Debug)]
struct Pushed {
    at: Timestamp,
    record: Vec<u8>,
    /// By this machine's clock, which need not be the caller's.
    received: LeaseInstant,
}

/// What keeps an acquisition that waited from being given back: somebody has its lease.
#[derive(Debug)]
pub(crate) struct Kept {
    link: Weak<Link>,
    nonce: Nonce,
}

impl Kept {
    fn new(link: &Arc<Link>, nonce: Nonce) -> Arc<Self> {
        *link.waiters().lines().kept.entry(nonce).or_default() += 1;
        Arc::new(Self { link: Arc::downgrade(link), nonce })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(link) = self.link.upgrade() else { return };
        let kept = &mut link.waiters().lines().kept;
        if let Some(count) = kept.get_mut(&self.nonce) {
            *count -= 1;
            if *count == 0 {
                kept.remove(&self.nonce);
            }
        }
    }
}

impl Waiters {
    /// The store has granted this acquisition. False: it does not wait here any more, and nobody here has what it won.
    pub(crate) fn granted(&self, nonce: Nonce, at: Timestamp, record: &[u8]) -> bool {
        let line = {
            let lines = self.lines();
            match lines.by_nonce.get(&nonce) {
                Some(line) => Arc::clone(line),
                None => return lines.kept.contains_key(&nonce),
            }
        };
        {
            let mut state = line.state();
            if state.turn.over {
                return true;
            }
            (state.in_line, state.in_store, state.baton) = (false, false, None);
            let received = SystemClock.lease_now();
            state.turn.granted = Some(Pushed { at, record: record.to_vec(), received });
        }
        line.tell();
        true
    }

    /// What was granted to this acquisition by itself, if anything was.
    pub(crate) fn pick_up(link: &Arc<Link>, request: &Request) -> Option<Attempted> {
        let line = {
            let lines = link.waiters().lines();
            if lines.by_nonce.is_empty() {
                return None;
            }
            Arc::clone(lines.by_nonce.get(&request.nonce)?)
        };
        let (Pushed { at, record, received }, base) = {
            let mut state = line.state();
            let granted = state.turn.granted.take()?;
            state.turn.over = Record::read(&granted.record).is_ok();
            // One that cannot be read is asked for.
            state.in_store = !state.turn.over;
            (granted, state.turn.base)
        };
        let record = Record::read(&record).ok()?;
        let ago = SystemClock.lease_now().saturating_since(received);
        let mut since = request.first_sent.minus(ago);
        if let Some((sent, answered)) = base {
            let counted =
                sent + Duration::try_from(at.duration_since(answered)).unwrap_or_default();
            // Later than the message came? Then the store's clock was set forward, and nobody knows how old the message is.
            since = if counted > since + STEPPED { sent } else { counted.min(since) };
        }
        let mut grant = wire::grant(request, &line.slug, at, since, record);
        grant.lease.kept = Some(Kept::new(link, request.nonce));
        Some(Ok(Reply::Won(grant)))
    }

    /// This acquisition is given back or revoked: from here on nobody here has it, and whatever comes of it is given back.
    pub(crate) fn spent(&self, nonce: Nonce) {
        let line = {
            let mut lines = self.lines();
            lines.kept.remove(&nonce);
            lines.by_nonce.get(&nonce).cloned()
        };
        if let Some(line) = line {
            let mut state = line.state();
            // Leaving the line gives it back.
            state.in_store |= state.turn.granted.take().is_some();
        }
    }

    /// Which of these are to get in line where they find the lock held.
    pub(crate) fn join(&self, requests: &[Request]) -> Joining {
        let mut joining = Joining::default();
        let lines = self.lines();
        if lines.by_nonce.is_empty() {
            return joining;
        }
        for request in requests {
            let line = lines.by_nonce.get(&request.nonce).filter(|_| request.claim.is_none());
            let Some(line) = line else {
                joining.lines.push(None);
                joining.places.push(Place::default());
                continue;
            };
            let news = line.news();
            let mut state = line.state();
            let member = state
                .turn
                .member
                .get_or_insert_with(|| wire::member(&line.place, request.nonce, Some(request)));
            let place = Place { member: member.clone(), score: state.score.parse().unwrap_or(0.0) };
            (state.in_line, state.in_store) = (true, true);
            drop(state);
            joining.lines.push(Some((Arc::clone(line), news)));
            joining.places.push(place);
        }
        joining
    }
}

/// Attempts on their way, of which some get in line.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    /// With how much news there was when it was sent.
    lines: Vec<Option<(Arc<Line>, u64)>>,
    places: Vec<Place>,
}

impl Joining {
    /// For as many requests, in their order.
    pub(crate) fn places(&mut self) -> Vec<Place> {
        mem::take(&mut self.places)
    }

    /// The attempt at this place, sent then, was answered.
    pub(crate) fn answered(
        &mut self,
        at: usize,
        link: &Arc<Link>,
        reply: &mut Attempted,
        in_line: bool,
        sent: LeaseInstant,
        now: Timestamp,
    ) {
        let Some((line, news)) = self.lines.get_mut(at).and_then(Option::take) else { return };
        let kept = match reply {
            Ok(Reply::Won(grant)) => Some((Kept::new(link, grant.lease.nonce), grant)),
            _ => None,
        };
        let mut state = line.state();
        if let Some((kept, grant)) = kept {
            (state.in_line, state.in_store, state.baton) = (false, false, None);
            (state.turn.over, state.turn.granted) = (true, None);
            grant.lease.kept = Some(kept);
            return;
        }
        // A wake-up that came meanwhile is for the next attempt.
        if matches!(reply, Ok(Reply::Busy { .. })) && line.news() == news {
            state.baton = None;
        }
        state.turn.base = Some((sent, now));
        if !in_line {
            state.in_line = false;
        } else if state.score.is_empty() {
            state.score = now.as_microsecond().to_string();
        }
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        // Nobody knows.
        for (line, _) in self.lines.drain(..).flatten() {
            line.state().in_line = false;
        }
    }
}

/// Gives back what an acquisition was granted or may yet be, in the background. `leave`: and takes it out of the line.
pub(crate) fn give_back(link: &Arc<Link>, key: LockKey, nonce: Nonce, leave: Option<Leave>) {
    /// Longer than it takes to find a server again. A lease that is not given back by then ends by itself.
    const PATIENCE: Duration = Duration::from_secs(60);
    let Ok(keeper) = keeper() else { return };
    let link = Arc::clone(link);
    let leaving = Leaving::new(&link);
    let slug = key.slug();
    let returned = Return { key, slug, nonce, mark: MarkAfter::Undo, revoke: false, leave };
    keeper.spawn(async move {
        let _leaving = leaving;
        let until = SystemClock.lease_now() + PATIENCE;
        let mut pause = Duration::from_millis(20);
        loop {
            let names = &link.settings().names;
            let call = wire::release(names, &link.known(), std::slice::from_ref(&returned));
            match link.repeat(&script::RELEASE, &call).await {
                Err(error) if error.kind().is_transient() && SystemClock.lease_now() < until => {}
                Err(error) => {
                    tracing::debug!(lock = %returned.key, %error, "did not leave the line");
                    return;
                }
                Ok(_) => return,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    });
}

/// One more that is being given back.
struct Leaving(Arc<Link>);

impl Leaving {
    fn new(link: &Arc<Link>) -> Self {
        link.waiters().leaving.send_modify(|leaving| *leaving += 1);
        Self(Arc::clone(link))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.waiters().leaving.send_modify(|leaving| *leaving -= 1);
    }
}

/// Takes back a grant that was not picked up within `patience`: its runtime is busy with something else, or does not drive the wait.
pub(crate) fn take_back(link: &Arc<Link>, line: &Line, patience: Duration) {
    let (Some(nonce), now) = (line.nonce, SystemClock.lease_now()) else { return };
    let old = |granted: &mut Pushed| now.saturating_since(granted.received) >= patience;
    if line.state().turn.granted.take_if(old).is_some() {
        give_back(link, line.key.clone(), nonce, None);
        line.tell();
    }
}

/// The same, of a grant that nobody waits for any more; its record says what it is of.
pub(crate) fn refuse(link: &Arc<Link>, nonce: Nonce, record: &[u8]) {
    let key = Record::read(record).ok().and_then(|record| LockKey::new(record.name).ok());
    match key {
        Some(key) => give_back(link, key, nonce, None),
        None => tracing::warn!(
            "redis granted a lock whose record cannot be read; it is free when its lease ends"
        ),
    }
}

#[cfg(test)]
mod tests {
    use solocron::lock::{Holder, NodeId, Validity, Watch as _};

    use super::*;
    use crate::RedisBackend;
    use crate::waiters::RedisWatch;

    const TTL: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn instant(second: u64) -> LeaseInstant {
        LeaseInstant::from_origin(Duration::from_secs(second))
    }

    /// A record of a plain lock, as `lua/common.lua` draws it.
    fn record(nonce: Nonce) -> Vec<u8> {
        let mut record = b"SLR1\x00".to_vec();
        for number in [5.0, 130e6, 100e6, f64::NAN] {
            record.extend(f64::to_le_bytes(number));
        }
        record.extend(1_u32.to_le_bytes());
        record.extend(nonce.as_u128().to_be_bytes());
        record.extend([0; 24]);
        record.extend([6, 0, 1, 0]);
        record.extend(b"reportn");
        record
    }

    /// An acquisition that waits: its last attempt was sent at 100 s, and answered when the store had 1,000 s.
    async fn waiting() -> (Arc<Link>, RedisWatch, Request) {
        let link = Link::new(RedisBackend::builder("redis://127.0.0.1:1").check().unwrap());
        let key = LockKey::new("report").unwrap();
        let node = NodeId::named("n");
        let request = Request::new(key.clone(), Nonce::random(), node.clone(), TTL, instant(100));
        let mut watch = RedisWatch::begin(&link, &key);
        watch.wait_as(request.nonce);
        let mut joining = link.waiters().join(std::slice::from_ref(&request));
        assert!(joining.places()[0].is_wanted());
        let holder = Holder::new(key, Nonce::random(), node, at(990));
        let mut busy = Ok(Reply::Busy { holder: Some(Box::new(holder)) });
        joining.answered(0, &link, &mut busy, true, instant(100), at(1_000));
        (link, watch, request)
    }

    fn since(link: &Arc<Link>, request: &Request) -> (LeaseInstant, RedisLease) {
        match Waiters::pick_up(link, request) {
            Some(Ok(Reply::Won(grant))) => match grant.validity {
                Validity::Until { since, ttl: TTL } => (since, grant.lease),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_pushed_grant_counts_from_when_the_store_made_it() {
        for (granted, earliest, latest) in [
            (1_000, 100, 100),
            (1_003, 103, 103),
            // The store's clock was set back: from the attempt.
            (400, 100, 100),
            // It was set forward: from the attempt as well.
            (90_000, 100, 100),
        ] {
            let (link, _watch, mut request) = waiting().await;
            request.first_sent = instant(200);
            assert!(Waiters::pick_up(&link, &request).is_none());
            assert!(link.waiters().granted(request.nonce, at(granted), &record(request.nonce)));
            let (since, _lease) = since(&link, &request);
            assert!((instant(earliest)..=instant(latest)).contains(&since), "{granted}: {since:?}");
            assert!(Waiters::pick_up(&link, &request).is_none(), "told once");
        }
    }

    #[tokio::test]
    async fn a_grant_is_known_for_as_long_as_anybody_has_it() {
        let (link, watch, mut request) = waiting().await;
        request.first_sent = instant(200);
        let record = record(request.nonce);
        let again = || link.waiters().granted(request.nonce, at(1_003), &record);
        assert!(again());
        let (_, lease) = since(&link, &request);
        assert!(again(), "an old message");
        assert!(Waiters::pick_up(&link, &request).is_none(), "is no second grant");
        drop(watch);
        let clone = lease.clone();
        drop(lease);
        assert!(again());
        drop(clone);
        assert!(!again(), "nobody here has it");
        assert!(!link.waiters().granted(Nonce::random(), at(1_003), &record));
    }
}
