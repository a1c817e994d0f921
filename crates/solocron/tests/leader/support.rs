//! Virtual time, a store that can be cut off, counted, and robbed of its marks, and nodes that can be killed.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use solocron::leader::{Elector, Leadership, Transition};
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Fence, Holder, Keeper, LockBackend, LockKey,
    LockOptions, Locks, Lost, MarkAfter, MemoryBackend, MemoryLease, NodeId, Nonce, Note, Released,
    Renewal, Reply, Request, Watch,
};
use solocron::trigger::Every;
use solocron::{
    BackendError, Cancelled, Clock, Context, Coordination, Event, Job, Kind, LeaseInstant,
    Scheduler, SchedulerBuilder, Stopper, What,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) const TTL: Duration = Duration::from_secs(6);
pub(crate) const GROUP: &str = "billing";

/// Longer than anything that should happen, on virtual time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn group() -> LockKey {
    LockKey::of_leader(GROUP).unwrap()
}

/// tokio's paused clock, seen by somebody whose wall clock is off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Virtual {
    origin: Instant,
    skew: SignedDuration,
}

impl Virtual {
    pub(crate) fn new(origin: Instant, skew_ms: i64) -> Arc<Self> {
        Arc::new(Self { origin, skew: SignedDuration::from_millis(skew_ms) })
    }
}

#[async_trait]
impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.origin.elapsed()).unwrap();
        Timestamp::from_second(1_800_000_000).unwrap() + passed + self.skew
    }

    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_origin(self.origin.elapsed())
    }

    async fn sleep_until(&self, deadline: LeaseInstant) {
        match deadline {
            LeaseInstant::NEVER => std::future::pending().await,
            _ => tokio::time::sleep_until(self.origin + deadline.since_origin()).await,
        }
    }
}

/// One store and the time it lives in.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) memory: MemoryBackend,
    origin: Instant,
    marks: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        let origin = Instant::now();
        Self { memory: MemoryBackend::with_clock(Virtual::new(origin, 0)), origin, marks: true }
    }

    /// A store of plain locks, like a bare socket.
    pub(crate) fn without_marks() -> Self {
        Self { marks: false, ..Self::new() }
    }

    pub(crate) fn without_marks_on_real_time() -> Self {
        Self { memory: MemoryBackend::new(), ..Self::without_marks() }
    }

    pub(crate) fn process_bound(self) -> Self {
        Self { memory: self.memory.process_bound(), ..self }
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        self.skewed(name, 0)
    }

    pub(crate) fn skewed(&self, name: &str, skew_ms: i64) -> Node {
        let link = Link {
            memory: self.memory.clone(),
            marks: self.marks,
            cut: Arc::default(),
            refuses_renewals: Arc::default(),
            fails_every_other: Arc::default(),
            pushes: Arc::new(AtomicBool::new(true)),
            asked: Arc::default(),
            claims: Arc::default(),
        };
        let tasks = Tasks::default();
        let locks = Locks::builder(link.clone())
            .options(LockOptions::default().ttl(TTL))
            .clock(Virtual::new(self.origin, skew_ms))
            .keeper(tasks.keeper())
            .node(NodeId::named(name))
            .build()
            .unwrap();
        Node { locks, link, tasks, runs: Tasks::default() }
    }
}

/// One process: its tasks end together.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) locks: Locks,
    pub(crate) link: Link,
    /// What keeps leases and campaigns.
    pub(crate) tasks: Tasks,
    /// The scheduler and its runs.
    pub(crate) runs: Tasks,
}

impl Node {
    /// As `kill -9`.
    pub(crate) fn kill(&self) {
        self.runs.kill();
        self.tasks.kill();
    }

    pub(crate) fn campaign(&self) -> Elector {
        Elector::campaign(&self.locks, GROUP).unwrap()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    running: Arc<Mutex<(bool, Vec<AbortHandle>)>>,
    frozen: Arc<AtomicBool>,
    asleep: Arc<Mutex<Vec<Waker>>>,
}

impl Tasks {
    pub(crate) fn keeper(&self) -> Keeper {
        let tasks = self.clone();
        Keeper::with(move |mut work| {
            let (frozen, asleep) = (Arc::clone(&tasks.frozen), Arc::clone(&tasks.asleep));
            let work = poll_fn(move |cx| match frozen.load(Ordering::SeqCst) {
                true => {
                    asleep.lock().unwrap().push(cx.waker().clone());
                    Poll::Pending
                }
                false => work.as_mut().poll(cx),
            });
            let mut running = tasks.running.lock().unwrap();
            if !running.0 {
                running.1.push(tokio::spawn(work).abort_handle());
            }
        })
    }

    /// As `kill -9`: nothing of it is polled again, and nothing that it leaves behind is given back.
    pub(crate) fn kill(&self) {
        let tasks = {
            let mut running = self.running.lock().unwrap();
            running.0 = true;
            std::mem::take(&mut running.1)
        };
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Nothing of it is polled any more.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// All of it goes on.
    pub(crate) fn thaw(&self) {
        self.frozen.store(false, Ordering::SeqCst);
        self.asleep.lock().unwrap().drain(..).for_each(Waker::wake);
    }
}

/// A node's way to the store.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    memory: MemoryBackend,
    marks: bool,
    pub(crate) cut: Arc<AtomicBool>,
    pub(crate) refuses_renewals: Arc<AtomicBool>,
    pub(crate) fails_every_other: Arc<AtomicBool>,
    /// Otherwise it tells of no change, and must be polled.
    pub(crate) pushes: Arc<AtomicBool>,
    /// How many attempts at locks were made.
    pub(crate) asked: Arc<AtomicU64>,
    /// How many requests for a tick, and how many enrolments, were sent.
    pub(crate) claims: Arc<AtomicU64>,
}

impl Link {
    fn down(&self) -> Option<BackendError> {
        let cut = self.cut.load(Ordering::SeqCst);
        cut.then(|| BackendError::new(Kind::Unavailable, "connection refused"))
    }

    pub(crate) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    pub(crate) fn claims(&self) -> u64 {
        self.claims.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl LockBackend for Link {
    type Lease = MemoryLease;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.memory.capabilities();
        capabilities.marks = self.marks;
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        assert!(self.marks, "nobody enrolls where no marks are kept");
        self.claims.fetch_add(jobs.len() as u64, Ordering::SeqCst);
        match self.down() {
            Some(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
            None => self.memory.enroll(jobs).await,
        }
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<MemoryLease>, BackendError>> {
        let claims = requests.iter().filter(|request| request.claim.is_some()).count();
        assert!(self.marks || claims == 0, "nobody claims where no marks are kept");
        self.claims.fetch_add(claims as u64, Ordering::SeqCst);
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        let flap = self.fails_every_other.load(Ordering::SeqCst) && asked % 2 == 1;
        let flap = flap.then(|| BackendError::new(Kind::Unavailable, "connection reset"));
        match self.down().or(flap) {
            Some(error) => requests.iter().map(|_| Err(error.clone())).collect(),
            None => self.memory.try_acquire(requests).await,
        }
    }

    async fn renew(
        &self,
        leases: &[&MemoryLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let refused = self.refuses_renewals.load(Ordering::SeqCst);
        let refused = refused.then(|| BackendError::new(Kind::Unavailable, "too busy"));
        match self.down().or(refused) {
            Some(error) => leases.iter().map(|_| Err(error.clone())).collect(),
            None => self.memory.renew(leases, sent).await,
        }
    }

    async fn release(
        &self,
        lease: &MemoryLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        match self.down() {
            Some(error) => Err(error),
            None => self.memory.release(lease, mark).await,
        }
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        match self.down() {
            Some(error) => Err(error),
            None => self.memory.revoke(key, nonce, mark).await,
        }
    }

    async fn lost(&self, lease: &MemoryLease) -> Lost {
        let why = self.memory.lost(lease).await;
        if self.cut.load(Ordering::SeqCst) {
            return std::future::pending().await; // the news does not come through
        }
        why
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        match self.down() {
            Some(error) => Err(error),
            None if !self.pushes.load(Ordering::SeqCst) => Ok(None),
            None => self.memory.watch(key).await,
        }
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        match self.down() {
            Some(error) => Err(error),
            None => self.memory.epoch().await,
        }
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        self.memory.holders(prefix).await
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        self.memory.set_note(key, expected, body).await
    }
}

pub(crate) async fn in_time<T>(what: &str, event: impl Future<Output = T>) -> T {
    let event = tokio::time::timeout(PATIENCE, event).await;
    event.unwrap_or_else(|_| panic!("waited for {what} in vain"))
}

/// Its next term, whatever comes before that.
pub(crate) async fn elected(elector: &mut Elector) -> Leadership {
    let reading = async {
        loop {
            match elector.next().await.expect("it campaigns") {
                Transition::Elected(leadership) => return leadership,
                _ => continue,
            }
        }
    };
    in_time("an election", reading).await
}

pub(crate) async fn next(elector: &mut Elector) -> Transition {
    in_time("a transition", elector.next()).await.expect("it campaigns")
}

/// What happened on the nodes of a test, in its order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Line>>>);

#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) node: &'static str,
    pub(crate) at: Instant,
    pub(crate) said: Said,
}

#[derive(Debug, Clone)]
pub(crate) enum Said {
    /// By a scheduler.
    Event(Event),
    /// By a run.
    Begin(Run),
    /// By a run that came to its end.
    End(Run),
    /// By a run that heard its cancellation.
    Told(Run, Cancelled),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) tick: Timestamp,
    pub(crate) fence: Fence,
    pub(crate) number: u64,
}

impl Log {
    pub(crate) fn say(&self, node: &'static str, said: Said) {
        self.0.lock().unwrap().push(Line { node, at: Instant::now(), said });
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for a line, from the beginning on.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Line) -> bool) -> Line {
        let look = async {
            loop {
                if let Some(line) = self.lines().into_iter().find(&is) {
                    return line;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(line) => line,
            Err(_) => panic!("waited for {what} in vain: {:#?}", self.lines()),
        }
    }

    pub(crate) async fn elected(&self, node: &'static str) -> Line {
        self.until(&format!("{node} to lead"), |line| line.node == node && line.is_elected()).await
    }

    pub(crate) fn begun(&self) -> Vec<(&'static str, Run)> {
        let run = |line: &Line| match line.said {
            Said::Begin(run) => Some((line.node, run)),
            _ => None,
        };
        self.lines().iter().filter_map(run).collect()
    }
}

impl Line {
    pub(crate) fn is_elected(&self) -> bool {
        matches!(&self.said, Said::Event(Event { what: What::Elected { .. }, .. }))
    }

    pub(crate) fn what(&self) -> Option<&What> {
        match &self.said {
            Said::Event(event) => Some(&event.what),
            _ => None,
        }
    }
}

/// A node that schedules in the group.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) stopper: Stopper,
    pub(crate) over: tokio::sync::oneshot::Receiver<()>,
}

impl Member {
    /// Starts a scheduler with these settings.
    pub(crate) fn start(
        node: Node,
        name: &'static str,
        log: &Log,
        settings: impl FnOnce(SchedulerBuilder) -> SchedulerBuilder,
    ) -> Self {
        let heard = log.clone();
        let builder = Scheduler::builder(node.locks.clone())
            .coordination(Coordination::leader(GROUP))
            .spawner(node.runs.keeper())
            .observe(move |event| heard.say(name, Said::Event(event.clone())));
        let scheduler = settings(builder).build().unwrap();
        let stopper = scheduler.stopper();
        let (ended, over) = tokio::sync::oneshot::channel();
        node.runs.keeper().spawn(async move {
            scheduler.run_until(std::future::pending::<()>()).await.unwrap();
            let _ = ended.send(()); // nobody may wait for it
        });
        Self { node, stopper, over }
    }

    /// Stops it, and waits until it has stopped.
    pub(crate) async fn stop(self) {
        self.stopper.stop();
        in_time("a scheduler to end", self.over).await.unwrap();
    }
}

/// A job that is due each `period`, takes that long, and says what it does.
pub(crate) fn job(name: &'static str, log: &Log, period: Duration, takes: Duration) -> Job {
    let log = log.clone();
    Job::new("job", Every::new(period).unwrap(), move |ctx: Context| {
        let log = log.clone();
        async move {
            let run = Run { tick: ctx.tick(), fence: ctx.fence(), number: ctx.run_number() };
            log.say(name, Said::Begin(run));
            tokio::select! {
                () = tokio::time::sleep(takes) => {}
                why = ctx.cancelled() => {
                    assert_eq!(ctx.checkpoint(), Err(why));
                    log.say(name, Said::Told(run, why));
                    return Err(why);
                }
            }
            log.say(name, Said::End(run));
            Ok(())
        }
    })
}
