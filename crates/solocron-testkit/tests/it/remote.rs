//! The laws of the network, over a store that has one: the memory backend behind a TCP connection.
//!
//! Only numbers travel. What a number asks for, and what was answered, stands in a table that both ends share; so a request that is
//! cut, held back or refused really is, and no wire format has to be invented.

use std::any::Any;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use solocron::lock::{
    Capabilities, Enrolled, Enrolment, Epoch, Holder, LockBackend, LockKey, Lost, MarkAfter,
    MemoryBackend, MemoryLease, NodeId, Nonce, Note, Released, Renewal, Reply, Request, Scope,
    Watch,
};
use solocron::{BackendError, Clock, Kind, LeaseInstant, SystemClock};
use solocron_testkit::Harness;
use solocron_testkit::server::{Direction, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long an answer is: so many places there are to cut it.
const ANSWER: usize = 24;

type Answer = Box<dyn Any + Send>;
type Work = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Operation = Box<dyn FnOnce(MemoryBackend) -> Work + Send>;

/// What the numbers mean.
#[derive(Default)]
struct Table {
    next: AtomicU64,
    asked: Mutex<HashMap<u64, Operation>>,
    answered: Mutex<HashMap<u64, Answer>>,
}

struct Store {
    memory: MemoryBackend,
    table: Arc<Table>,
    address: SocketAddr,
    front: Proxy,
}

impl Harness for Store {
    type Backend = Remote;

    async fn start() -> Self {
        let (memory, table) = (MemoryBackend::new(), Arc::new(Table::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn({
            let (memory, table) = (memory.clone(), Arc::clone(&table));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, memory.clone(), Arc::clone(&table)));
                }
            }
        });
        Self { memory, table, address, front: Proxy::start(address) }
    }

    fn connect(&self) -> Remote {
        Remote::new(self.front.address(), &self.table)
    }

    async fn forget(&self) -> bool {
        self.memory.forget();
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.memory.expire(key);
        true
    }

    async fn hold_and_die(&self, key: &LockKey) -> bool {
        let (nonce, ttl) = (Nonce::random(), Duration::from_millis(500));
        let request =
            Request::new(key.clone(), nonce, NodeId::unique(), ttl, SystemClock.lease_now());
        let reply = self.memory.try_acquire(&[request]).await.remove(0);
        matches!(reply, Ok(Reply::Won(_)))
    }

    async fn restart(&self) -> bool {
        self.front.refuse(true);
        self.front.sever();
        self.front.refuse(false);
        true
    }

    async fn freeze(&self) -> bool {
        self.front.black_hole(Direction::Up, true);
        self.front.black_hole(Direction::Down, true);
        true
    }

    async fn thaw(&self) {
        self.front.heal();
    }

    async fn sever(&self) -> bool {
        self.front.sever();
        true
    }

    fn link(&self) -> Option<(Proxy, Remote)> {
        let proxy = Proxy::start(self.address);
        let backend = Remote::new(proxy.address(), &self.table);
        Some((proxy, backend))
    }
}

async fn serve(mut stream: TcpStream, memory: MemoryBackend, table: Arc<Table>) {
    while let Ok(id) = stream.read_u64().await {
        let operation = table.asked.lock().unwrap().remove(&id);
        let Some(operation) = operation else { return };
        let answer = operation(memory.clone()).await;
        table.answered.lock().unwrap().insert(id, answer);
        let mut wire = [0; ANSWER];
        wire[ANSWER - 8..].copy_from_slice(&id.to_be_bytes());
        if stream.write_all(&wire).await.is_err() {
            return;
        }
    }
}

/// One client: a connection for each call that is under way.
#[derive(Clone)]
struct Remote {
    to: SocketAddr,
    table: Arc<Table>,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Remote {
    fn new(to: SocketAddr, table: &Arc<Table>) -> Self {
        Self { to, table: Arc::clone(table), idle: Arc::default() }
    }

    async fn ask<T, F>(
        &self,
        what: impl FnOnce(MemoryBackend) -> F + Send + 'static,
    ) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let idle = self.idle.lock().unwrap().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => TcpStream::connect(self.to)
                .await
                .map_err(|error| BackendError::new(Kind::Unavailable, error))?,
        };
        let id = self.table.next.fetch_add(1, Ordering::Relaxed);
        let operation: Operation = Box::new(|memory| {
            let work = what(memory);
            Box::pin(async move { Box::new(work.await) as Answer })
        });
        self.table.asked.lock().unwrap().insert(id, operation);
        let mut wire = [0; ANSWER];
        let spoken = async {
            stream.write_u64(id).await?;
            stream.read_exact(&mut wire).await
        };
        spoken
            .await
            .map_err(|error| BackendError::new(Kind::Unavailable, error).effect_unknown())?;
        self.idle.lock().unwrap().push(stream);
        let answer = self.table.answered.lock().unwrap().remove(&id).expect("it was answered");
        Ok(*answer.downcast().expect("the answer to what was asked"))
    }

    async fn ask_each<T, F>(
        &self,
        count: usize,
        what: impl FnOnce(MemoryBackend) -> F + Send + 'static,
    ) -> Vec<Result<T, BackendError>>
    where
        T: Send + 'static,
        F: Future<Output = Vec<Result<T, BackendError>>> + Send + 'static,
    {
        match self.ask(what).await {
            Ok(answers) => answers,
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }
}

#[async_trait]
impl LockBackend for Remote {
    type Lease = MemoryLease;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = MemoryBackend::new().capabilities();
        capabilities.scope = Scope::Fleet;
        capabilities
    }

    async fn enroll(&self, jobs: &[Enrolment]) -> Vec<Result<Enrolled, BackendError>> {
        let (count, jobs) = (jobs.len(), jobs.to_vec());
        self.ask_each(count, |memory| async move { memory.enroll(&jobs).await }).await
    }

    async fn try_acquire(
        &self,
        requests: &[Request],
    ) -> Vec<Result<Reply<MemoryLease>, BackendError>> {
        let (count, requests) = (requests.len(), requests.to_vec());
        self.ask_each(count, |memory| async move { memory.try_acquire(&requests).await }).await
    }

    async fn renew(
        &self,
        leases: &[&MemoryLease],
        sent: LeaseInstant,
    ) -> Vec<Result<Renewal, BackendError>> {
        let leases: Vec<_> = leases.iter().map(|&lease| lease.clone()).collect();
        let count = leases.len();
        let renew = move |memory: MemoryBackend| async move {
            memory.renew(&leases.iter().collect::<Vec<_>>(), sent).await
        };
        self.ask_each(count, renew).await
    }

    async fn release(
        &self,
        lease: &MemoryLease,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let lease = lease.clone();
        self.ask(move |memory| async move { memory.release(&lease, mark).await }).await?
    }

    async fn revoke(
        &self,
        key: &LockKey,
        nonce: Nonce,
        mark: MarkAfter,
    ) -> Result<Released, BackendError> {
        let key = key.clone();
        self.ask(move |memory| async move { memory.revoke(&key, nonce, mark).await }).await?
    }

    async fn lost(&self, lease: &MemoryLease) -> Lost {
        loop {
            let lease = lease.clone();
            if let Ok(why) = self.ask(|memory| async move { memory.lost(&lease).await }).await {
                return why;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn watch(&self, key: &LockKey) -> Result<Option<Box<dyn Watch>>, BackendError> {
        let key = key.clone();
        let watch = self.ask(|memory| async move { memory.watch(&key).await }).await??;
        let watch = Arc::new(tokio::sync::Mutex::new(watch.expect("the memory backend pushes")));
        Ok(Some(Box::new(RemoteWatch { remote: self.clone(), watch, pending: None })))
    }

    async fn epoch(&self) -> Result<Epoch, BackendError> {
        self.ask(|memory| async move { memory.epoch().await }).await?
    }

    async fn holders(&self, prefix: &str) -> Result<Option<Vec<Holder>>, BackendError> {
        let prefix = prefix.to_owned();
        self.ask(|memory| async move { memory.holders(&prefix).await }).await?
    }

    async fn set_note(
        &self,
        key: &LockKey,
        expected: u64,
        body: &[u8],
    ) -> Result<Note, BackendError> {
        let (key, body) = (key.clone(), body.to_vec());
        self.ask(move |memory| async move { memory.set_note(&key, expected, &body).await }).await?
    }
}

type Asked = Pin<Box<dyn Future<Output = Result<(), BackendError>> + Send>>;

struct RemoteWatch {
    remote: Remote,
    watch: Arc<tokio::sync::Mutex<Box<dyn Watch>>>,
    /// Survives its caller, so that no news is lost with one.
    pending: Option<Asked>,
}

#[async_trait]
impl Watch for RemoteWatch {
    async fn changed(&mut self) {
        let pending = self.pending.get_or_insert_with(|| {
            let (remote, watch) = (self.remote.clone(), Arc::clone(&self.watch));
            Box::pin(async move {
                remote.ask(|_| async move { watch.lock().await.changed().await }).await
            })
        });
        let heard = pending.await;
        self.pending = None;
        if heard.is_err() {
            // Perhaps there was news: whoever waits looks for itself.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The laws that need a network, or a store that can be disturbed; the rest holds over the same memory without one.
macro_rules! laws {
    ($($module:ident { $($law:ident,)* })*) => {
        $($(
            #[test]
            fn $law() {
                solocron_testkit::keep_alone::<Store>(|store| {
                    Box::pin(solocron_testkit::laws::$module::$law(store))
                });
            }
        )*)*
    };
}

laws! {
    network {
        a_claim_is_safe_wherever_its_reply_is_cut,
        a_claim_is_safe_wherever_its_request_is_cut,
        a_release_is_done_wherever_its_reply_is_cut,
        a_late_command_leaves_nothing_behind,
        a_holder_that_is_cut_off_is_told_before_its_successor,
        a_store_that_cannot_be_reached_is_not_busy,
        a_slow_link_loses_nothing,
        a_waiter_hears_of_a_release_that_its_broken_link_missed,
    }
    failure {
        a_client_survives_a_restart_of_its_store,
        a_frozen_store_is_an_error_in_time,
        a_broken_connection_is_mended,
    }
    lost {
        a_frozen_store_is_a_loss_in_time,
        a_broken_connection_is_no_loss,
        a_restart_makes_no_second_holder,
    }
    fencing {
        a_fence_grows_over_a_restart,
    }
    marks {
        a_mark_survives_a_restart,
        no_tick_of_before_a_restart_is_granted_again,
        no_tick_of_before_a_loss_is_granted_again,
    }
}
