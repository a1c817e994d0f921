//! The driver: listening on the lock's address is to hold it, and a [`KeyRecord`] decides everything else.
//!
//! ```text
//!   acquire   held in this process? ──► its record answers: the same lease for the same nonce, else Stale or Busy
//!             claim settled on record? ──► Stale, without the lock
//!             bind and listen ── in use ──► ask whoever listens (that alone on the keeper's thread)
//!              │ mine                        ├─ a holder of this key ──► Stale or Busy
//!              │                             ├─ nobody, any more ──► again
//!              │                             └─ anybody else ──► error
//!             the record ──► Grant ──► write it, open the door ──► Won
//!                └─────────► anything else ──► close
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use solocron::jiff::Timestamp;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Fencing, Grant, Holder, Keeper, KeyRecord,
    LockBackend, LockKey, Lost, Mark, MarkAfter, Nonce, Note, Released, Renewal, Reply, Request,
    Scope, Verdict, Watch,
};
use solocron::{BackendError, Kind, LeaseInstant};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::addr::{Address, Bound, Listener};
use crate::ask::{Found, Other, ask, holder_at};
use crate::banner::Banner;
use crate::config::SocketBuilder;
use crate::door::Door;
use crate::error::{self, another_directory, another_lock, in_use, not_ours, refused};
use crate::home::Home;
use crate::lease::{Lease, SocketLease};
use crate::ports::Ports;
use crate::state::{DirId, Kept, StateDir};
use crate::watch::{SocketWatch, Wanted};

/// Locks on abstract unix sockets, or on ports of 127.0.0.1. Clones share them, and so do all processes of this network namespace that
/// use the same namespace.
#[derive(Debug, Clone)]
pub struct SocketBackend(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    namespace: String,
    /// `None`: abstract sockets.
    ports: Option<Ports>,
    state: Option<StateDir>,
}

/// What comes of trying once.
enum Tried<T> {
    Done(T),
    /// Somebody else has the address.
    Taken,
    /// This process has it, and the record that this holder once wrote is gone.
    Lost(Option<Holder>),
    /// The address was free, and the record's file is somebody else's: held through another address, or by a process that is dying.
    InOtherHands,
}

/// What is in hand when a lock is granted.
type Granted = (Keeper, Option<DirId>, Kept, Grant<()>);

/// A holder that was asked.
enum Holds {
    Named(Holder),
    /// It cannot say who it is.
    Stopped,
}

impl Holds {
    fn named(self) -> Option<Holder> {
        match self {
            Self::Named(holder) => Some(holder),
            Self::Stopped => None,
        }
    }
}

/// What comes of a change that needs the key in hand.
enum Change<T> {
    Made(T),
    /// This one holds it.
    Busy(Option<Holder>),
}

impl SocketBackend {
    /// Locks on abstract unix sockets whose names begin with `namespace`: the name of the application. Linux only.
    ///
    /// # Errors
    ///
    /// As [`SocketBuilder::build`].
    pub fn new(namespace: impl Into<String>) -> solocron::Result<Self> {
        Self::builder(namespace).build()
    }

    /// The same, with options.
    #[must_use]
    pub fn builder(namespace: impl Into<String>) -> SocketBuilder {
        SocketBuilder::new(namespace)
    }

    pub(crate) fn with(namespace: String, ports: Option<Ports>, state: Option<StateDir>) -> Self {
        Self(Arc::new(Shared { namespace, ports, state }))
    }

    /// Where a lock stands, for a person: `@solocron/billing/nightly-6f…e1` or `127.0.0.1:17001`.
    ///
    /// # Errors
    ///
    /// Where the lock has no port, and needs one.
    pub fn address(&self, key: &LockKey) -> solocron::Result<String> {
        match self.0.address(key) {
            #[cfg(target_os = "linux")]
            Ok(Address::Abstract(names)) => Ok(format!("@{names}")),
            Ok(Address::Tcp(port)) => Ok(format!("127.0.0.1:{port}")),
            Err(source) => Err(solocron::Error::Backend {
                doing: "find the address of lock",
                key: Some(key.clone()),
                source,
            }),
        }
    }

    /// The file in which a key is remembered, where there is a [state directory](SocketBuilder::state_dir).
    #[must_use]
    pub fn state_path(&self, key: &LockKey) -> Option<std::path::PathBuf> {
        self.0.state.as_ref().map(|state| state.path(key))
    }
}

impl Shared {
    fn address(&self, key: &LockKey) -> Result<Address, BackendError> {
        match &self.ports {
            Some(ports) => ports.of(key).map(Address::Tcp),
            #[cfg(target_os = "linux")]
            None => Ok(Address::Abstract(crate::addr::names(&self.namespace, key))),
            #[cfg(not(target_os = "linux"))]
            None => unreachable!("the builder asks for ports here"),
        }
    }

    fn state(&self) -> Result<&StateDir, BackendError> {
        self.state.as_ref().ok_or_else(|| {
            let why = "a socket remembers nothing: give it a state_dir";
            BackendError::new(Kind::Unsupported, why)
        })
    }

    fn attempt(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Tried<Reply<SocketLease>>, BackendError> {
        let home = Home::own();
        if home.refuses(request.nonce, now) {
            return Verdict::Refused.denied(now).map(Tried::Done);
        }
        let at = self.address(&request.key)?;
        if let Some(lease) = self.own(&home, &at, &request.key)?
            && let Some(mut record) = lease.look(KeyRecord::clone)
        {
            if !matches!(lease.verify()?, Renewal::Extended(_)) {
                return self.busy(request, record.holder(now, true), now).map(Tried::Done);
            }
            let reply = if lease.nonce == request.nonce {
                record.acquire(request, now, true, None, || SocketLease(lease))
            } else {
                record.judge(request, now, true).denied(now)
            };
            return reply.map(Tried::Done);
        }
        if let Some(settled) = self.settled(request, now)? {
            return settled.map(Tried::Done);
        }
        match at.bind().map_err(|error| refused("take", &request.key, &at, &error))? {
            Bound::Taken => Ok(Tried::Taken),
            Bound::Mine(listener) => self.decide(&home, &at, listener, request, now),
        }
    }

    /// Which directory the records are in.
    fn dir(&self) -> Result<Option<DirId>, BackendError> {
        self.state.as_ref().map(StateDir::id).transpose()
    }

    /// Whether a holder of this key keeps its record where this process would.
    fn agrees(&self, key: &LockKey, at: &Address, holder: &Banner) -> Result<(), BackendError> {
        let own = self.dir()?;
        if holder.state == own { Ok(()) } else { Err(another_directory(key, at, holder, own)) }
    }

    /// This process's lease on a key. One whose file was deleted or replaced is lost, and keeps the lock until its guard is gone.
    fn own(
        &self,
        home: &Home,
        at: &Address,
        key: &LockKey,
    ) -> Result<Option<Arc<Lease>>, BackendError> {
        let Some(lease) = home.lease(at) else { return Ok(None) };
        let holder = &lease.banner;
        if holder.namespace != self.namespace || holder.key != *key {
            return Err(another_lock(key, &self.namespace, at, holder));
        }
        self.agrees(key, at, holder)?;
        Ok(Some(lease))
    }

    /// A claim that can be answered without the lock: losers are many, and none of them may be stopped with it in hand.
    fn settled(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Option<Result<Reply<SocketLease>, BackendError>>, BackendError> {
        let (Some(state), Some(_)) = (&self.state, request.claim) else { return Ok(None) };
        let Some((seen, _)) = state.peek(&request.key, now)? else {
            return Ok(None);
        };
        if seen.damaged || seen.record.holder(now, true).is_some() {
            return Ok(None);
        }
        let verdict = seen.record.judge(request, now, false);
        let settled = matches!(verdict, Verdict::Stale { done: true, .. });
        Ok(settled.then(|| verdict.denied(now)))
    }

    /// The record of a key that is in hand. `None`: its file is not.
    fn load(
        &self,
        home: &Home,
        at: &Address,
        key: &LockKey,
        create: bool,
        now: Timestamp,
    ) -> Result<Option<Kept>, BackendError> {
        match &self.state {
            Some(state) => state.load(key, create, now),
            None => Ok(Some(Kept::in_memory(home.record(at, &self.namespace, key)))),
        }
    }

    /// With the address in hand.
    fn decide(
        &self,
        home: &Arc<Home>,
        at: &Address,
        listener: Listener,
        request: &Request,
        now: Timestamp,
    ) -> Result<Tried<Reply<SocketLease>>, BackendError> {
        let (keeper, state, kept, grant) = match self.grant(home, at, request, now) {
            Ok(Ok(granted)) => granted,
            Ok(Err(tried)) => {
                listener.close();
                return Ok(tried);
            }
            Err(error) => {
                listener.close();
                return Err(error);
            }
        };
        let banner = Banner {
            namespace: self.namespace.clone(),
            key: request.key.clone(),
            node: request.node.clone(),
            pid: std::process::id(),
            since: now,
            tick: request.claim.map(|claim| claim.tick),
            fence: grant.fence,
            state,
            full: false,
        };
        let door = Door::new(listener, &banner, home.guests.clone());
        let lease = Lease::new(home, at, request.nonce, banner, &door, kept);
        lease.save()?;
        door.open(&keeper);
        Ok(Tried::Done(Reply::Won(grant.map(|()| SocketLease(lease)))))
    }

    /// What a grant needs, with nothing written yet: once the record is saved, a tick is used up, and nothing may fail any more.
    fn grant(
        &self,
        home: &Home,
        at: &Address,
        request: &Request,
        now: Timestamp,
    ) -> Result<Result<Granted, Tried<Reply<SocketLease>>>, BackendError> {
        let keeper = Keeper::thread()
            .map_err(|error| refused("start a thread for", &request.key, at, &error))?;
        let state = self.dir()?;
        // Only a plain lock makes a file: a key that was never enrolled grants no claim.
        let create = request.claim.is_none();
        let Some(mut kept) = self.load(home, at, &request.key, create, now)? else {
            return Ok(Err(Tried::InOtherHands));
        };
        // Whoever is on record as a holder let go of the address: it is dead, or its reply was lost and this is the same nonce again.
        Ok(match kept.record.acquire(request, now, false, None, || ())? {
            Reply::Won(grant) => Ok((keeper, state, kept, grant)),
            denied => Err(Tried::Done(denied.map(|()| unreachable!("it is not won")))),
        })
    }

    /// Somebody holds the key. What is on record may be of a moment ago.
    fn busy(
        &self,
        request: &Request,
        holder: Option<Holder>,
        now: Timestamp,
    ) -> Result<Reply<SocketLease>, BackendError> {
        let busy = || Reply::Busy { holder: holder.map(Box::new) };
        let Some(state) = &self.state else {
            return match request.claim {
                None => Ok(busy()),
                Some(_) => Verdict::NotEnrolled.denied(now),
            };
        };
        let Some((seen, _)) = state.peek(&request.key, now)? else {
            // Whatever its holder once wrote is gone, or it has not written anything yet.
            return match request.claim {
                None => Ok(busy()),
                Some(_) => Verdict::NotEnrolled.denied(now),
            };
        };
        if seen.damaged {
            return Ok(busy());
        }
        match seen.record.judge(request, now, true) {
            Verdict::Behind { .. } | Verdict::Grant | Verdict::Again(_) => Ok(busy()),
            verdict => verdict.denied(now),
        }
    }

    /// Asks and tries until the answer is certain. Only the asking is done on the keeper's thread: records are files.
    async fn contend(
        self: &Arc<Self>,
        request: &Request,
        mut in_other_hands: bool,
    ) -> Result<Reply<SocketLease>, BackendError> {
        let at = self.address(&request.key)?;
        let mut turn = Turn::new();
        loop {
            if let Some(holder) = self.ask(&request.key, &at, &mut turn, in_other_hands).await? {
                return self.busy(request, holder.named(), Timestamp::now());
            }
            match self.attempt(request, Timestamp::now())? {
                Tried::Done(reply) => return Ok(reply),
                tried => in_other_hands = matches!(tried, Tried::InOtherHands),
            }
        }
    }

    /// Who holds the lock of an address that is in use. `None`, after a pause: nobody, it is changing hands.
    async fn ask(
        self: &Arc<Self>,
        key: &LockKey,
        at: &Address,
        turn: &mut Turn,
        in_other_hands: bool,
    ) -> Result<Option<Holds>, BackendError> {
        let over = turn.is_over();
        let (shared, asked, address, mut turned) =
            (Arc::clone(self), key.clone(), at.clone(), *turn);
        let found = on_keeper(async move {
            let found = ask(&address, &shared.namespace, &asked).await?;
            if !over && matches!(found, Found::Nobody | Found::HungUp(_)) {
                turned.wait().await;
            }
            Ok((found, turned))
        });
        let (found, turned) = found.await?;
        *turn = turned;
        let other = match found {
            Found::Holder(banner, _) => {
                self.agrees(key, at, &banner)?;
                return Ok(Some(Holds::Named(banner.holder())));
            }
            Found::Stopped(_) => return Ok(Some(Holds::Stopped)),
            Found::Nobody | Found::HungUp(_) if !over => return Ok(None),
            Found::Nobody => match &self.state {
                Some(state) if in_other_hands => {
                    return Err(error::in_other_hands(key, at, &state.path(key)));
                }
                _ => Other::Nobody,
            },
            Found::HungUp(peer) => Other::HangsUp(peer),
            Found::Other(other) => other,
        };
        let (shared, key, at) = (Arc::clone(self), key.clone(), at.clone());
        let named = on_keeper(async move {
            // It looks through all of /proc.
            let name = move || other.error(&key, &shared.namespace, &at);
            let named = tokio::task::spawn_blocking(name).await;
            named.map_err(|error| BackendError::new(Kind::Unavailable, error))
        });
        Err(named.await.unwrap_or_else(|error| error))
    }

    fn try_change<T>(
        &self,
        key: &LockKey,
        change: &impl Fn(&mut KeyRecord, Timestamp) -> Result<(T, bool), BackendError>,
    ) -> Result<Tried<T>, BackendError> {
        let (home, now) = (Home::own(), Timestamp::now());
        let at = self.address(key)?;
        let apply = |record: &mut KeyRecord| match change(record, now) {
            Ok((answer, changed)) => (Ok(answer), changed),
            Err(error) => (Err(error), false),
        };
        if let Some(lease) = self.own(&home, &at, key)? {
            if !matches!(lease.verify()?, Renewal::Extended(_))
                && let Some(holder) = lease.look(|record| record.holder(now, true))
            {
                return Ok(Tried::Lost(holder));
            }
            if let Some(answer) = lease.edit(apply) {
                return answer?.map(Tried::Done);
            }
        }
        match at.bind().map_err(|error| refused("take", key, &at, &error))? {
            Bound::Taken => Ok(Tried::Taken),
            Bound::Mine(listener) => {
                let kept = self.load(&home, &at, key, true, now);
                let changed = kept.and_then(|kept| {
                    let Some(mut kept) = kept else { return Ok(Tried::InOtherHands) };
                    let answer = kept.change(apply)?;
                    if kept.is_in_memory() {
                        home.remember(&at, &self.namespace, kept.record, now);
                    }
                    answer.map(Tried::Done)
                });
                listener.close();
                changed
            }
        }
    }

    /// The record itself is in a file, or in this process where there is none.
    async fn change<T>(
        self: &Arc<Self>,
        key: &LockKey,
        change: impl Fn(&mut KeyRecord, Timestamp) -> Result<(T, bool), BackendError>,
    ) -> Result<Change<T>, BackendError> {
        let at = self.address(key)?;
        let mut turn = Turn::new();
        loop {
            let in_other_hands = match self.try_change(key, &change)? {
                Tried::Done(made) => return Ok(Change::Made(made)),
                Tried::Lost(holder) => return Ok(Change::Busy(holder)),
                tried => matches!(tried, Tried::InOtherHands),
            };
            if let Some(holder) = self.ask(key, &at, &mut turn, in_other_hands).await? {
                return Ok(Change::Busy(holder.named()));
            }
        }
    }

    async fn enroll(self: &Arc<Self>, job: &Enrolment) -> Result<Enrolled, BackendError> {
        let (state, now) = (self.state()?, Timestamp::now());
        // Nothing to write, in the normal case: no lock.
        if let Some((mut seen, _)) = state.peek(&job.key, now)?
            && !seen.damaged
            && seen.record.schedule().is_some_and(|known| known.fingerprint == job.fingerprint)
        {
            state.enrolled(&job.key);
            return Ok(seen.record.enroll(job, now).0);
        }
        let enrolled =
            match self.change(&job.key, |record, now| Ok(record.enroll(job, now))).await? {
                Change::Made(enrolled) => enrolled,
                Change::Busy(holder) => self.enrolled_by_others(&job.key, holder)?,
            };
        state.enrolled(&job.key);
        Ok(enrolled)
    }

    /// A job that cannot be written now because another process runs it, or holds its key for something else.
    fn enrolled_by_others(
        &self,
        key: &LockKey,
        holder: Option<Holder>,
    ) -> Result<Enrolled, BackendError> {
        let now = Timestamp::now();
        let seen = self.state()?.peek(key, now)?;
        let Some((seen, _)) = seen else { return Err(in_use(key, holder)) };
        let record = &seen.record;
        let (Some(last), Some(schedule)) = (record.last(), record.schedule()) else {
            return Err(in_use(key, holder));
        };
        let mut enrolled = Enrolled::new(last.clone(), schedule, false, record.note().clone());
        enrolled.store_now = Some(now);
        Ok(enrolled)
    }

    /// A nonce that another process's living lease does not have.
    fn revoked_elsewhere(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
        holder: Option<Holder>,
    ) -> Result<Released, BackendError> {
        let now = Timestamp::now();
        let seen = match &self.state {
            Some(state) => state.peek(key, now)?,
            None => None,
        };
        let mut mark_now = None;
        if let Some((seen, _)) = seen {
            let mut record = seen.record;
            if let Some(holder) = record.holder(now, true).filter(|it| it.nonce == Some(nonce)) {
                return Err(not_ours(key, &holder.node));
            }
            let before = record.last().cloned();
            record.revoke(nonce, mark, now);
            if record.last() != before.as_ref() {
                return Err(in_use(key, holder)); // its tick is to be given back, when the key is free
            }
            mark_now = before.map(|last| last.mark);
        }
        Home::own().refuse(nonce, now);
        Ok(Released::NotOwner { mark: mark_now })
    }

    fn mark_on_record(&self, key: &LockKey) -> Result<Option<Mark>, BackendError> {
        let Some(state) = &self.state else { return Ok(None) };
        let seen = state.peek(key, Timestamp::now())?;
        Ok(seen.and_then(|(seen, _)| seen.record.last().map(|last| last.mark)))
    }

    /// Where locks of this namespace may stand now. `None`: nobody knows.
    fn addresses(&self) -> Result<Option<Vec<Address>>, BackendError> {
        let Some(ports) = &self.ports else { return Ok(self.abstract_addresses()) };
        if let Some(named) = ports.named() {
            return Ok(Some(named.into_iter().map(|(_, port)| Address::Tcp(port)).collect()));
        }
        let Some(state) = &self.state else { return Ok(None) };
        let holders = state.holders(Timestamp::now())?;
        Ok(Some(holders.iter().filter_map(|holder| self.address(&holder.key).ok()).collect()))
    }

    /// From the kernel's list of unix sockets.
    #[cfg(target_os = "linux")]
    fn abstract_addresses(&self) -> Option<Vec<Address>> {
        let table = std::fs::read("/proc/net/unix").ok()?;
        let table = String::from_utf8_lossy(&table);
        let own = format!("@solocron/{}/", self.namespace);
        let mut names: Vec<_> = table
            .lines()
            .filter_map(|line| Some(&line[line.find(&own)? + 1..]))
            .filter_map(|name| name.rsplit_once('/'))
            .filter(|(_, last)| last.parse::<u32>().is_ok())
            .map(|(names, _)| names.to_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        Some(names.into_iter().map(Address::Abstract).collect())
    }

    #[cfg(not(target_os = "linux"))]
    fn abstract_addresses(&self) -> Option<Vec<Address>> {
        None
    }
}

/// How long an address may be in use without anybody who says why: it changes hands, or a dying process has not closed it yet.
#[derive(Debug, Clone, Copy)]
struct Turn {
    until: std::time::Instant,
    waits: u32,
}

impl Turn {
    const LONGEST: Duration = Duration::from_millis(800);
    /// A process closes its sockets within microseconds of each other, and a timer ticks in milliseconds.
    const HASTY: u32 = 20;

    fn new() -> Self {
        Self { until: std::time::Instant::now() + Self::LONGEST, waits: 0 }
    }

    fn is_over(&self) -> bool {
        std::time::Instant::now() >= self.until
    }

    async fn wait(&mut self) {
        self.waits += 1;
        if self.waits <= Self::HASTY {
            tokio::task::yield_now().await;
        } else {
            sleep(Duration::from_millis(u64::from(self.waits - Self::HASTY).min(10))).await;
        }
    }
}

/// Runs `work` on the keeper's thread, where sockets live whatever becomes of the caller's runtime. Dropping the future ends it.
async fn on_keeper<T: Send + 'static>(
    work: impl Future<Output = Result<T, BackendError>> + Send + 'static,
) -> Result<T, BackendError> {
    let keeper = Keeper::thread().map_err(|error| BackendError::new(Kind::Unavailable, error))?;
    let (mut tell, told) = oneshot::channel();
    keeper.spawn(async move {
        let answer = tokio::select! {
            biased;
            () = tell.closed() => return,
            answer = work => answer,
        };
        let _ = tell.send(answer);
    });
    told.await.unwrap_or_else(|_| {
        let why = "the keeper's thread dropped a request";
        Err(BackendError::new(Kind::Unavailable, why))
    })
}

#[async_trait]
impl LockBackend for SocketBackend {
    type Lease = SocketLease;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::exclusion_only(Scope::Host);
        capabilities.marks = self.0.state.is_some();
        capabilities.fencing =
            if self.0.state.is_some() { Fencing::Stored } else { Fencing::Clock };
        capabilities.wakes = true;
        capabilities.store_clock = true;
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(self.0.enroll(job).await);
        }
        answers
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<SocketLease>, BackendError>> {
        let now = Timestamp::now();
        let mut contended = Vec::new();
        let mut replies = Vec::with_capacity(requests.len());
        for (at, request) in requests.iter().enumerate() {
            replies.push(match self.0.attempt(request, now) {
                Ok(Tried::Done(reply)) => Ok(reply),
                Err(error) => Err(error),
                Ok(tried) => {
                    contended.push((at, matches!(tried, Tried::InOtherHands)));
                    Ok(Reply::Busy { holder: None })
                }
            });
        }
        // All are asked at once: one that hangs holds up no other for longer than it hangs itself.
        let mut asked = Vec::with_capacity(contended.len());
        for (at, in_other_hands) in contended.iter().copied() {
            let (shared, request) = (Arc::clone(&self.0), requests[at].clone());
            asked.push(Box::pin(async move { shared.contend(&request, in_other_hands).await }));
        }
        for ((at, _), answer) in contended.into_iter().zip(join(asked).await) {
            replies[at] = answer;
        }
        replies
    }

    async fn renew(
        &self,
        leases: &[&SocketLease],
        _sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        leases.iter().map(|lease| lease.0.verify()).collect()
    }

    async fn release(
        &self,
        lease: &SocketLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let SocketLease(lease) = lease;
        let now = Timestamp::now();
        match lease.finish(Lost::TakenOver, |record| record.release(lease.nonce, mark, now))? {
            Some(released) => Ok(released),
            None => Ok(Released::NotOwner { mark: self.0.mark_on_record(&lease.key)? }),
        }
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let (home, now) = (Home::own(), Timestamp::now());
        let at = self.0.address(key)?;
        if let Some(lease) = home.lease(&at).filter(|lease| lease.nonce == nonce) {
            let end = |record: &mut KeyRecord| record.revoke(nonce, mark, now);
            if let Some(released) = lease.finish(Lost::ForceReleased, end)? {
                home.refuse(nonce, now);
                return Ok(released);
            }
        }
        let revoke = |record: &mut KeyRecord, now| Ok((record.revoke(nonce, mark, now), true));
        let released = match self.0.change(key, revoke).await? {
            Change::Made(released) => released,
            Change::Busy(holder) => self.0.revoked_elsewhere(key, nonce, mark, holder)?,
        };
        home.refuse(nonce, now);
        Ok(released)
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        let at = self.0.address(key)?;
        let wanted = Wanted {
            key: key.clone(),
            namespace: self.0.namespace.clone(),
            line: line_of(&self.0.namespace, key, &at),
            at: at.clone(),
        };
        let watch = SocketWatch::begin(wanted)
            .map_err(|error| refused("start a thread to wait for", key, &at, &error))?;
        Ok(Some(Box::new(watch)))
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        self.0.state.as_ref().map_or(Ok(Epoch(0)), StateDir::epoch)
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        let Some(addresses) = self.0.addresses()? else { return Ok(None) };
        let mut asked = Vec::with_capacity(addresses.len());
        for at in addresses {
            asked.push(Box::pin(on_keeper(async move { Ok(holder_at(&at).await) })));
        }
        let mut holders = Vec::new();
        for answer in join(asked).await {
            let banner = answer?.filter(|banner| banner.namespace == self.0.namespace);
            let holder = banner.map(Banner::holder);
            holders.extend(holder.filter(|holder| holder.key.as_str().starts_with(prefix)));
        }
        Ok(Some(holders))
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        self.0.state()?;
        match self.0.change(key, |record, _| record.set_note(expected, body)).await? {
            Change::Made(note) => Ok(note),
            Change::Busy(holder) => Err(in_use(key, holder)),
        }
    }
}

/// The abstract name on which waiters of a lock line up.
#[cfg(target_os = "linux")]
fn line_of(namespace: &str, key: &LockKey, at: &Address) -> Option<String> {
    let names = crate::addr::names(namespace, key);
    Some(match at {
        Address::Abstract(_) => format!("{names}/line"),
        Address::Tcp(port) => format!("{names}/line/{port}"),
    })
}

#[cfg(not(target_os = "linux"))]
fn line_of(_: &str, _: &LockKey, _: &Address) -> Option<String> {
    None
}

/// The answers of futures that run beside each other already, or begin to with their first poll.
async fn join<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<_> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(answer) = std::pin::Pin::new(future).poll(cx)
            {
                *output = Some(answer);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
