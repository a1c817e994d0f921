//! One bad thing stays one bad thing: stuck keys, panics, blocked threads, schedulers that are dropped.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Holder, LockBackend, LockKey, LockOptions, Locks, MarkAfter,
    MemoryBackend, MemoryLease, Nonce, Released, Renewal, Reply, Request, Watch,
};
use solocron::trigger::{Every, Trigger};
use solocron::{
    BackendError, Cancelled, Context, Event, Job, Kind, LeaseInstant, Outcome, Scheduler, What,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const PATIENCE: Duration = Duration::from_secs(30);

fn often() -> Every {
    Every::new(Duration::from_millis(20)).unwrap()
}

/// What a backend does to calls in which a key of this name takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    HangClaims,
    HangRenewals,
    HangReleases,
    PanicOnce,
    PanicInReleaseOnce,
}

/// The memory backend, but for one key.
#[derive(Debug)]
struct Troubled {
    memory: MemoryBackend,
    trouble: Trouble,
    panicked: AtomicBool,
}

const BAD: &str = "bad";

impl Troubled {
    fn new(trouble: Trouble) -> Self {
        Self { memory: MemoryBackend::new(), trouble, panicked: AtomicBool::new(false) }
    }
}

#[async_trait]
impl LockBackend for Troubled {
    type Lease = MemoryLease;

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        self.memory.enroll(jobs).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<MemoryLease>, BackendError>> {
        if requests.iter().any(|request| request.key.as_str() == BAD) {
            match self.trouble {
                Trouble::HangClaims => std::future::pending().await,
                Trouble::PanicOnce if !self.panicked.swap(true, Ordering::SeqCst) => {
                    panic!("on purpose")
                }
                _ => {}
            }
        }
        self.memory.try_acquire(requests).await
    }

    async fn renew(
        &self,
        leases: &[&MemoryLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        if self.trouble == Trouble::HangRenewals
            && leases.iter().any(|lease| lease.key().as_str() == BAD)
        {
            std::future::pending::<()>().await;
        }
        self.memory.renew(leases, sent).await
    }

    async fn release(
        &self,
        lease: &MemoryLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        if lease.key().as_str() == BAD {
            match self.trouble {
                Trouble::HangReleases => std::future::pending().await,
                Trouble::PanicInReleaseOnce if !self.panicked.swap(true, Ordering::SeqCst) => {
                    panic!("on purpose")
                }
                _ => {}
            }
        }
        self.memory.release(lease, mark).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.memory.revoke(key, nonce, mark).await
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        self.memory.watch(key).await
    }
}

fn locks(backend: impl LockBackend) -> Locks {
    let brief = LockOptions::default().ttl(Duration::from_millis(900));
    Locks::builder(backend).options(brief).build().unwrap()
}

/// Runs until `enough` says so of an event.
async fn run(
    locks: Locks,
    jobs: impl IntoIterator<Item = Job>,
    mut enough: impl FnMut(&Event) -> bool,
) {
    let (told, mut heard) = unbounded_channel::<Event>();
    let scheduler = Scheduler::builder(locks)
        .jobs(jobs)
        .drain(Duration::from_millis(50))
        .observe(move |event| drop(told.send(event.clone())))
        .build()
        .unwrap();
    let signal = async { while !enough(&heard.recv().await.expect("the scheduler lives")) {} };
    tokio::time::timeout(PATIENCE, scheduler.run_until(signal)).await.expect("in time").unwrap();
}

fn finished(event: &Event) -> Option<&Outcome> {
    match &event.what {
        What::Finished { outcome, .. } => Some(outcome),
        _ => None,
    }
}

#[tokio::test]
async fn a_claim_that_hangs_holds_up_no_other_job() {
    let jobs = ["good", BAD].map(|id| Job::new(id, often(), async |_| {}));
    let mut good = 0;
    run(locks(Troubled::new(Trouble::HangClaims)), jobs, |event| {
        good += usize::from(event.job.as_str() == "good" && finished(event) == Some(&Outcome::Ok));
        good == 5
    })
    .await;
}

#[tokio::test]
async fn a_release_that_hangs_holds_up_no_other_job() {
    let jobs = ["good", BAD].map(|id| Job::new(id, often(), async |_| {}));
    let mut good = 0;
    run(locks(Troubled::new(Trouble::HangReleases)), jobs, |event| {
        good += usize::from(event.job.as_str() == "good" && finished(event) == Some(&Outcome::Ok));
        good == 5
    })
    .await;
}

#[tokio::test]
async fn a_release_that_panics_is_tried_again_and_takes_no_other_along() {
    let jobs = ["good", BAD].map(|id| Job::new(id, often(), async |_| {}));
    let (mut good, mut bad) = (0, 0);
    run(locks(Troubled::new(Trouble::PanicInReleaseOnce)), jobs, |event| {
        if finished(event) == Some(&Outcome::Ok) {
            *(if event.job.as_str() == BAD { &mut bad } else { &mut good }) += 1;
        }
        good >= 3 && bad >= 3
    })
    .await;
}

#[tokio::test]
async fn a_renewal_that_hangs_loses_no_other_lease() {
    let locks = locks(Troubled::new(Trouble::HangRenewals));
    let good = locks.try_lock("good").await.unwrap().won().unwrap();
    let bad = locks.try_lock(BAD).await.unwrap().won().unwrap();
    bad.lost().await;
    for _ in 0..3 {
        // Another whole life of a lease, told by one that is not renewed.
        let other =
            locks.with_options(LockOptions::default().ttl(Duration::from_millis(600))).unwrap();
        let bad = other.lock(BAD, PATIENCE).await.unwrap();
        bad.lost().await;
        good.check().expect("renewed all the time");
    }
}

#[tokio::test]
async fn a_backend_that_panics_is_one_that_failed() {
    let job = Job::new(BAD, often(), async |_| {});
    run(locks(Troubled::new(Trouble::PanicOnce)), [job], |event| {
        finished(event) == Some(&Outcome::Ok)
    })
    .await;
}

#[tokio::test]
async fn a_destructor_that_panics_in_a_stopped_run_ends_only_that_run() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let work = |_| async {
        let _bomb = Bomb;
        std::future::pending::<()>().await;
    };
    let job = Job::new("job", often(), work).max_runtime(Duration::from_millis(10));
    let mut stopped = 0;
    run(locks(MemoryBackend::new()), [job], |event| {
        stopped += usize::from(finished(event) == Some(&Outcome::Cancelled(Cancelled::Timeout)));
        stopped == 2
    })
    .await;
}

/// A trigger that does not keep its word.
#[derive(Debug)]
struct Unlawful(AtomicUsize, fn(Timestamp) -> Option<Timestamp>);

impl Trigger for Unlawful {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        // The first question is asked when the job is built.
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 { None } else { (self.1)(after) }
    }

    fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        (self.1)(at)
    }

    fn fingerprint(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn a_trigger_that_panics_or_leads_nowhere_ends_only_its_own_job() {
    let bad = |id: &str, tick| Job::new(id, Unlawful(AtomicUsize::new(0), tick), async |_| {});
    let jobs = [
        bad("panics", |_| panic!("on purpose")),
        bad("finer than a millisecond", |at| at.checked_add(Duration::from_nanos(1)).ok()),
        bad("stands still", Some),
        Job::new("good", often(), async |_| {}),
    ];
    let mut good = 0;
    run(locks(MemoryBackend::new()), jobs, |event| {
        good += usize::from(event.job.as_str() == "good" && finished(event).is_some());
        good == 3
    })
    .await;
}

#[test]
fn a_trigger_finer_than_a_millisecond_is_refused() {
    #[derive(Debug)]
    struct Fine;
    impl Trigger for Fine {
        fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
            Timestamp::from_microsecond(after.as_microsecond() / 100 * 100 + 150).ok()
        }
        fn last_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
            Some(at)
        }
        fn fingerprint(&self) -> u64 {
            0
        }
    }
    let error = Scheduler::builder(locks(MemoryBackend::new()))
        .job(Job::new("fine", Fine, async |_| {}))
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("whole milliseconds"), "{error}");
}

/// A job that starts, says so, and then blocks its thread until `until` says that it may end.
fn blocks(
    until: impl Fn(&Context) -> bool + Send + Sync + 'static,
) -> (Job, UnboundedReceiver<Context>) {
    let (told, heard) = unbounded_channel();
    let work = move |ctx: Context| {
        told.send(ctx.clone()).unwrap();
        while !until(&ctx) {
            std::thread::yield_now();
        }
    };
    (Job::blocking("job", often(), work), heard)
}

#[tokio::test]
async fn a_checkpoint_tells_a_run_that_blocks_its_thread() {
    let store = MemoryBackend::new();
    let (told, mut heard) = unbounded_channel();
    // Not a blocking job: nobody polls anything of this task while it runs.
    let work = move |ctx: Context| {
        let told = told.clone();
        async move {
            told.send(ctx.clone()).unwrap();
            while ctx.checkpoint().is_ok() {
                std::thread::yield_now();
            }
            ctx.checkpoint()
        }
    };
    let scheduler = Scheduler::builder(locks(store.clone()))
        .job(Job::new("job", often(), work))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let running = runtime.spawn(scheduler.run_until(std::future::pending::<()>()));
    let ctx = heard.recv().await.unwrap();
    store.expire(ctx.job());
    while heard.recv().await.is_none_or(|next| next.tick() == ctx.tick()) {}
    assert!(matches!(ctx.checkpoint(), Err(Cancelled::LeaseLost(_))));
    running.abort();
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_blocking_run_is_told_that_its_scheduler_is_gone_and_its_end_is_recorded() {
    let store = MemoryBackend::new();
    let (job, mut heard) = blocks(|ctx| ctx.checkpoint().is_err());
    let all = locks(store.clone());
    let running = tokio::spawn(
        Scheduler::builder(all.clone())
            .job(job)
            .build()
            .unwrap()
            .run_until(std::future::pending::<()>()),
    );
    let ctx = heard.recv().await.unwrap();
    running.abort();
    let _ = running.await;
    assert!(ctx.is_stopping());
    let guard = all.lock("job", PATIENCE).await.expect("free when the run has ended, not before");
    assert_eq!(ctx.checkpoint(), Err(Cancelled::Shutdown));
    guard.release().await.unwrap();
    assert!(store.record(ctx.job()).unwrap().last().unwrap().done);
}

#[tokio::test]
async fn a_stop_after_the_signal_is_the_second_one() {
    let (job, mut heard) = blocks(|ctx| ctx.checkpoint().is_err());
    let scheduler = Scheduler::builder(locks(MemoryBackend::new()))
        .job(job)
        .drain(Duration::from_secs(3600))
        .build()
        .unwrap();
    let stopper = scheduler.stopper();
    let (signal, sent) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(scheduler.run_until(sent));
    let ctx = heard.recv().await.unwrap();
    signal.send(()).unwrap();
    while !ctx.is_stopping() {
        tokio::task::yield_now().await;
    }
    stopper.stop();
    tokio::time::timeout(PATIENCE, running).await.expect("no hour is waited for").unwrap().unwrap();
}

/// Says when it is dropped.
struct Gone(std::sync::mpsc::Sender<()>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send(()); // nobody may wait for it
    }
}

#[test]
fn a_blocking_run_keeps_its_lease_while_its_runtime_is_dropped_and_its_end_is_recorded() {
    let store = MemoryBackend::new();
    let over = Arc::new(AtomicBool::new(false));
    let may_end = Arc::clone(&over);
    let (job, mut heard) = blocks(move |_| may_end.load(Ordering::SeqCst));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let scheduler = Scheduler::builder(locks(store.clone())).job(job).build().unwrap();
    let stopper = scheduler.stopper();
    let running = runtime.spawn(scheduler.run_until(std::future::pending::<()>()));
    let ctx = heard.blocking_recv().unwrap();
    stopper.stop();
    stopper.stop();
    runtime.block_on(running).unwrap().unwrap();
    let (gone, tasks_are_gone) = std::sync::mpsc::channel();
    let gone = Gone(gone);
    runtime.spawn(async move {
        let _gone = gone;
        std::future::pending::<()>().await;
    });
    // As the end of a main function: tokio drops the tasks, and waits for the threads then.
    let dropping = std::thread::spawn(move || drop(runtime));
    tasks_are_gone.recv_timeout(PATIENCE).unwrap();
    let held = || store.record(ctx.job()).unwrap().holder(Timestamp::now(), true).is_some();
    for _ in 0..100 {
        assert!(held(), "another node could run the same");
        std::thread::sleep(Duration::from_millis(10)); // longer than a lease lasts unless it is renewed
    }
    assert!(ctx.checkpoint().is_err_and(|why| why == Cancelled::Shutdown));
    over.store(true, Ordering::SeqCst);
    dropping.join().unwrap();
    // The process could end here, and everything in its background with it.
    assert!(!held());
    assert!(store.record(ctx.job()).unwrap().last().unwrap().done);
}

/// What was asked of a backend whose first answer is lost, and whose second one is that the lock is busy.
#[derive(Debug, Default, Clone)]
struct Asked(Arc<Mutex<(Vec<Nonce>, Vec<Nonce>)>>);

#[derive(Debug)]
struct LosesAnAnswer {
    memory: MemoryBackend,
    asked: Asked,
}

#[async_trait]
impl LockBackend for LosesAnAnswer {
    type Lease = MemoryLease;

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<MemoryLease>, BackendError>> {
        let Request { key, nonce, node, .. } = &requests[0];
        let before = {
            let mut asked = self.asked.0.lock().unwrap();
            asked.0.push(*nonce);
            asked.0.len() - 1
        };
        match before {
            0 => vec![Err(BackendError::new(Kind::Unavailable, "on purpose").effect_unknown())],
            1 => {
                let holder = Holder::new(key.clone(), *nonce, node.clone(), Timestamp::now());
                vec![Ok(Reply::Busy { holder: Some(Box::new(holder)) })]
            }
            _ => self.memory.try_acquire(requests).await,
        }
    }

    async fn renew(
        &self,
        leases: &[&MemoryLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        self.memory.renew(leases, sent).await
    }

    async fn release(
        &self,
        lease: &MemoryLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.memory.release(lease, mark).await
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        self.asked.0.lock().unwrap().1.push(nonce);
        self.memory.revoke(key, nonce, mark).await
    }
}

/// It could be granted in between, and then taken away by its revocation.
#[tokio::test]
async fn a_wait_does_not_go_on_with_a_nonce_that_is_being_revoked() {
    let asked = Asked::default();
    let backend = LosesAnAnswer { memory: MemoryBackend::new(), asked: asked.clone() };
    let guard = locks(backend).lock("report", PATIENCE).await.unwrap();
    let (sent, revoked) = asked.0.lock().unwrap().clone();
    assert_eq!(sent[0], sent[1], "sent again, to learn what became of it");
    assert!(!sent[2..].contains(&sent[0]), "and never after it was revoked");
    assert_eq!(revoked, [sent[0]]);
    guard.release().await.unwrap();
}
