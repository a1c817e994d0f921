//! Which member is asked, for how long, and when it is left.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::Client;
use solocron::{Clock, LeaseInstant, SystemClock};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::probe::{self, Stranger};
use super::{At, Fault, Wire, connect};

/// One member of the cluster.
pub(super) struct Member {
    endpoint: String,
    /// Shared and not cloned: a clone copies a client of every one of etcd's services.
    client: Mutex<Option<Arc<Client>>>,
    /// Whoever connects to it.
    connecting: Arc<tokio::sync::Mutex<()>>,
    /// When it last answered: nanoseconds of the lease clock.
    heard: AtomicU64,
}

/// Its client holds the password, and prints it.
impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Member {
    pub(super) fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            client: Mutex::default(),
            connecting: Arc::default(),
            heard: AtomicU64::new(0),
        }
    }

    fn connected(&self) -> Option<Arc<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, client: Option<Arc<Client>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn was_heard_since(&self, sent: LeaseInstant) -> bool {
        self.heard.load(Ordering::Relaxed) >= nanos(sent)
    }
}

/// A call that is under way. Dropped without an answer after it could have had one, the member is left, as after a timeout.
struct Pending<'a> {
    wire: &'a Wire,
    at: At,
    sent: LeaseInstant,
    settled: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        /// Whoever drops a call earlier has changed his mind.
        const PATIENCE: Duration = Duration::from_millis(100);
        if !self.settled && SystemClock.lease_now().saturating_since(self.sent) >= PATIENCE {
            self.wire.leave_silent(self.at, self.sent);
        }
    }
}

impl Wire {
    pub(super) fn endpoint(&self, at: At) -> &str {
        &self.members[at.member].endpoint
    }

    /// The client of this member; connects if there is none.
    ///
    /// Whoever gives up waiting finds it the next time: logging in is slow by intent (bcrypt), and slower on a busy server.
    pub(super) async fn client(&self, at: At) -> Result<Arc<Client>, Fault> {
        const LOGIN: u32 = 6;
        let member = &self.members[at.member];
        if let Some(client) = member.connected() {
            return Ok(client);
        }
        let limit = self.config.request_timeout * LOGIN;
        let connecting = async {
            let first = Arc::clone(&member.connecting).lock_owned().await;
            if let Some(client) = member.connected() {
                return Ok(client);
            }
            let (config, member) = (self.config.clone(), Arc::clone(member));
            let endpoint = member.endpoint.clone();
            let (tell, told) = oneshot::channel();
            self.keeper.spawn(async move {
                let client = timeout(limit, connect::connect(&config, &member.endpoint)).await;
                let client = match client {
                    Ok(client) => {
                        client.map(Arc::new).map_err(|error| Fault::of(&error, &member.endpoint))
                    }
                    Err(_) => Err(Fault::timeout(&member.endpoint, limit)),
                };
                if let Ok(client) = &client {
                    member.hold(Some(Arc::clone(client)));
                }
                let _ = tell.send(client);
                drop(first);
            });
            told.await.unwrap_or_else(|_| Err(Fault::no_keeper(&endpoint)))
        };
        // Whatever goes wrong: the request itself is not sent.
        self.limited(at, limit, connecting).await.map_err(Fault::without_effect)
    }

    /// Waits for an answer of this member, for as long as one may take; leaves it if none comes.
    pub(super) async fn bounded<T>(
        &self,
        at: At,
        answer: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let answer = self.limited(at, self.config.request_timeout, answer).await;
        if answer.as_ref().err().is_none_or(|fault| !fault.elsewhere) {
            let now = nanos(SystemClock.lease_now());
            self.members[at.member].heard.fetch_max(now, Ordering::Relaxed);
        }
        answer
    }

    async fn limited<T>(
        &self,
        at: At,
        limit: Duration,
        answer: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let sent = SystemClock.lease_now();
        let mut pending = Pending { wire: self, at, sent, settled: false };
        let answer = timeout(limit, answer).await;
        pending.settled = true;
        match answer {
            Ok(answer) => answer.inspect_err(|fault| {
                if fault.elsewhere {
                    self.leave(at);
                }
            }),
            Err(_) => {
                self.leave_silent(at, sent);
                Err(Fault::timeout(self.endpoint(at), limit))
            }
        }
    }

    /// A connection broke over which nothing was ever answered: perhaps this is no etcd.
    pub(super) async fn explained(&self, at: At, fault: Fault) -> Fault {
        let never_heard = self.members[at.member].heard.load(Ordering::Relaxed) == 0;
        if !fault.broken || !never_heard {
            return fault;
        }
        let endpoint = self.endpoint(at);
        match probe::greet(endpoint, self.config.request_timeout).await {
            Stranger::Says(what) => Fault::foreign(endpoint, &what),
            Stranger::Unknown => fault.never_heard(),
        }
    }

    /// Leaves a member that has not said anything to anybody since `sent`. One that answers others is only slow.
    fn leave_silent(&self, at: At, sent: LeaseInstant) {
        if !self.members[at.member].was_heard_since(sent) {
            self.leave(at);
        }
    }

    /// From now on the next member is asked; this one, when its turn comes again, over a fresh connection.
    pub(super) fn leave(&self, at: At) {
        let left = self.at.send_if_modified(|now| {
            let same = *now == at;
            if same {
                now.member = (at.member + 1) % self.members.len();
                now.moves += 1;
            }
            same
        });
        if left {
            self.members[at.member].hold(None);
            tracing::debug!(
                from = self.endpoint(at),
                to = self.endpoint(*self.at.borrow()),
                "changing the etcd member"
            );
        }
    }
}

fn nanos(at: LeaseInstant) -> u64 {
    u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX)
}
