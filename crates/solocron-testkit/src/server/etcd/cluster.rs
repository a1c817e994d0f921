//! An etcd of several members.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
#[cfg(feature = "tls")]
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::builder::EtcdBuilder;
use super::member::Member;
use crate::server::http::field;
use crate::server::process::{GLANCE, Process};
use crate::server::resp::PATIENCE;
#[cfg(feature = "tls")]
use crate::server::tls;

/// An etcd of several members, numbered from 0. Otherwise as [`EtcdServer`](super::EtcdServer).
///
/// ```no_run
/// use solocron_testkit::server::EtcdCluster;
///
/// let etcd = EtcdCluster::start(3);
/// let old = etcd.leader();
/// etcd.kill(old);
/// assert_ne!(etcd.leader(), old);
/// etcd.restart(old);
/// ```
///
/// # Panics
///
/// Every method panics where a member does not do what it should, with that member's own log, and for a number that no member has.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
    setup: EtcdBuilder,
    /// How often the data was thrown away; members of different ages must not meet.
    age: AtomicU32,
    /// The login of root.
    token: Mutex<Option<String>>,
}

impl EtcdCluster {
    /// So many plain members.
    #[must_use]
    pub fn start(members: usize) -> Self {
        EtcdBuilder::default().start_cluster(members)
    }

    pub(super) fn new(setup: EtcdBuilder, members: usize) -> Self {
        assert!(members > 0, "an etcd has at least one member");
        const TRIES: usize = 5;
        for left in (0..TRIES).rev() {
            let members = (0..members).map(|number| Member::new(number, setup.has_tls())).collect();
            let (age, token) = (AtomicU32::new(0), Mutex::new(None));
            let cluster = Self { members, setup: setup.clone(), age, token };
            #[cfg(feature = "tls")]
            if setup.has_tls() {
                tls::issue(cluster.authority());
            }
            match cluster.bring_up() {
                Ok(()) => return cluster,
                Err((_, why)) if why.contains(IN_USE) && left > 0 => {}
                Err((member, why)) => cluster.fail(member, &why),
            }
        }
        unreachable!("the last try returns or panics")
    }

    /// Where clients reach each member, as `http://127.0.0.1:4711`.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// Where clients reach this member.
    #[must_use]
    pub fn endpoint(&self, member: usize) -> String {
        self.members[member].endpoint()
    }

    /// Where clients reach this member.
    #[must_use]
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].address()
    }

    /// The certificate of the authority that has signed the members' one.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        tls::ca(self.authority())
    }

    /// A certificate for clients, signed by the same authority.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        tls::client_certificate(self.authority())
    }

    /// The key that belongs to [`certificate_file`](Self::certificate_file).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        tls::client_key(self.authority())
    }

    /// How many members there are, dead or alive.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an etcd has at least one member")]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// As [`EtcdServer::command`](super::EtcdServer::command), to the first member that answers.
    ///
    /// # Errors
    ///
    /// What etcd answers where it refuses.
    pub fn command(&self, path: &str, json: &str) -> Result<String, String> {
        let mut silent = String::new();
        for (number, member) in self.members.iter().enumerate() {
            match self.ask(member, path, json, PATIENCE) {
                Ok(answer) => return answer,
                Err(error) => silent += &format!("member {number}: {error}; "),
            }
        }
        self.fail(0, &format!("did not answer {path}: {silent}"))
    }

    /// The number of the leader; waits until most members that run agree on one.
    #[must_use]
    pub fn leader(&self) -> usize {
        const BRIEFLY: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut ids = vec![None; self.members.len()];
            let mut votes = Vec::new();
            for (number, member) in self.members.iter().enumerate() {
                if let Ok(Ok(status)) = self.ask(member, "/v3/maintenance/status", "{}", BRIEFLY) {
                    ids[number] = field(&status, "member_id").map(str::to_owned);
                    votes.extend(field(&status, "leader").map(str::to_owned));
                }
            }
            let leader = (0..ids.len()).find(|number| {
                let Some(id) = &ids[*number] else { return false };
                votes.iter().filter(|vote| *vote == id).count() > self.members.len() / 2
            });
            if let Some(leader) = leader {
                return leader;
            }
            if Instant::now() > deadline {
                self.fail(0, &format!("and the others agree on no leader: of {ids:?}, {votes:?}"));
            }
            thread::sleep(GLANCE);
        }
    }

    /// Stops this member (SIGSTOP): it accepts connections and answers nothing until [`thaw`](Self::thaw).
    pub fn freeze(&self, member: usize) {
        self.with(member, Process::freeze);
    }

    /// Ends a [`freeze`](Self::freeze).
    pub fn thaw(&self, member: usize) {
        self.with(member, Process::thaw);
    }

    /// Kills this member (SIGKILL): its connections are reset and new ones refused until [`restart`](Self::restart).
    pub fn kill(&self, member: usize) {
        self.with(member, Process::kill);
    }

    /// Ends this member in good order, if it runs, and starts it again with its ports and data. If most members run then, it answers
    /// when this returns.
    pub fn restart(&self, member: usize) {
        self.with(member, |process| process.terminate(PATIENCE));
        self.spawn(member);
        if self.members.iter().filter(|member| member.runs()).count() * 2 > self.members.len() {
            self.await_member(member).unwrap_or_else(|why| self.fail(member, &why));
        }
    }

    /// Kills all members and starts them again with their ports and data: a power cut. They answer when this returns.
    pub fn restart_all(&self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
        self.bring_up().unwrap_or_else(|(member, why)| self.fail(member, &why));
    }

    /// Replaces it by an empty one at the same addresses, whose revisions begin at 1 again: what restoring a backup from before
    /// everything would do.
    pub fn wipe(&self) {
        for (number, member) in self.members.iter().enumerate() {
            self.kill(number);
            std::fs::remove_dir_all(member.data())
                .expect("the data of a dead member can be removed");
        }
        self.age.fetch_add(1, Ordering::Relaxed);
        self.bring_up().unwrap_or_else(|(member, why)| self.fail(member, &why));
    }

    /// The process id of this member.
    #[must_use]
    pub fn pid(&self, member: usize) -> u32 {
        self.with(member, |process| process.pid())
    }

    /// What this member has written to its log.
    #[must_use]
    pub fn log(&self, member: usize) -> String {
        self.members[member].log()
    }

    /// Starts all members and waits until each answers. The error: which one does not, and why.
    fn bring_up(&self) -> Result<(), (usize, String)> {
        for member in 0..self.members.len() {
            self.spawn(member);
        }
        for member in 0..self.members.len() {
            self.await_member(member).map_err(|why| (member, why))?;
        }
        self.create_root().map_err(|why| (0, why))
    }

    fn spawn(&self, number: usize) {
        let cluster: Vec<_> = self
            .members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer.address()))
            .collect();
        let member = &self.members[number];
        // The ports of the first member are ours, so no other etcd of this host has this token.
        let token =
            format!("{}-{}", self.members[0].peer.number(), self.age.load(Ordering::Relaxed));
        let authority = self.authority();
        let arguments = self.setup.arguments(member, authority, &cluster.join(","), &token);
        let program = self.setup.version.program();
        *member.process() = Some(Process::start(&program, &arguments, member.dir.path()));
    }

    /// Waits until this member answers a read that needs a leader. The error is why it never will.
    fn await_member(&self, number: usize) -> Result<(), String> {
        let member = &self.members[number];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = member.process().as_mut().and_then(Process::ended); // its log needs the process, too
            if let Some(status) = ended {
                let log = member.log();
                let why = log.lines().rev().find(|line| line.contains(IN_USE)).unwrap_or_default();
                return Err(format!("ended with {status} {why}"));
            }
            let last = match self.ask(member, "/v3/kv/range", r#"{"key":"AA=="}"#, PATIENCE) {
                Ok(Ok(_)) => return Ok(()),
                other => other,
            };
            if Instant::now() > deadline {
                return Err(format!("did not read a key within {PATIENCE:?}: {last:?}"));
            }
            thread::sleep(GLANCE);
        }
    }

    /// Switches logging in on, where it is asked for and not on yet.
    fn create_root(&self) -> Result<(), String> {
        let Some(password) = &self.setup.root_password else { return Ok(()) };
        if self.token.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let user = format!(r#"{{"name":"root","password":"{password}"}}"#);
        for (path, json) in [
            ("/v3/auth/user/add", user.as_str()),
            ("/v3/auth/role/add", r#"{"name":"root"}"#),
            ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("/v3/auth/enable", "{}"),
        ] {
            self.command(path, json).map_err(|why| format!("refused {path}: {why}"))?;
        }
        Ok(())
    }

    /// Asks one member. The outer error: it does not answer. The inner one: it refuses.
    fn ask(
        &self,
        member: &Member,
        path: &str,
        json: &str,
        patience: Duration,
    ) -> io::Result<Result<String, String>> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut logged_in = false;
        loop {
            let (status, body) = member.post(path, token.as_deref(), json, patience)?;
            if status < 300 {
                return Ok(Ok(body));
            }
            let unknown =
                body.contains("invalid auth token") || body.contains("user name is empty");
            match &self.setup.root_password {
                Some(password) if unknown && !logged_in => {
                    let login = format!(r#"{{"name":"root","password":"{password}"}}"#);
                    let (_, answer) =
                        member.post("/v3/auth/authenticate", None, &login, patience)?;
                    token = field(&answer, "token").map(str::to_owned);
                    self.token.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&token);
                    logged_in = true;
                }
                _ => return Ok(Err(body)),
            }
        }
    }

    /// Where the certificates are, if there are any.
    fn authority(&self) -> &Path {
        self.members[0].dir.path()
    }

    fn with<T>(&self, member: usize, what: impl FnOnce(&mut Process) -> T) -> T {
        what(self.members[member].process().as_mut().expect("every member was started"))
    }

    fn fail(&self, member: usize, why: &str) -> ! {
        let at = self.members[member].address();
        panic!("etcd member {member} at {at} {why}; its log:\n{}", self.log(member));
    }
}

/// What it says when somebody else has its port.
const IN_USE: &str = "address already in use";
