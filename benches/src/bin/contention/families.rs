//! What is compared with what.

use std::time::Duration;

use super::commands::Inside;

/// Subjects that are compared with each other: the floor first.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) server: Server,
    pub(crate) subjects: &'static [Subject],
    pub(crate) crowds: &'static [Crowd],
    /// Leases of the take-overs after a kill; zero where the kernel frees a lock.
    pub(crate) ttl: Duration,
}

/// What a family needs beside processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    None,
    Redis,
    Etcd,
}

impl Server {
    /// The program, and how to get it.
    pub(crate) fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::None => None,
            Self::Redis => {
                Some(("redis-server", "run scripts/setup, or apt-get install redis-server"))
            }
            Self::Etcd => Some(("etcd", "run scripts/setup, or apt-get install etcd-server")),
        }
    }

    /// The one request that hand-overs are compared with as well, measured between the rounds.
    pub(crate) fn probe(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Redis => Some("PING"),
            Self::Etcd => Some("put + delete"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The least that does the same work.
    Floor,
    Ours,
    Rival,
}

/// Who contends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Rust,
    Python,
    Node,
}

#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) by: By,
    /// Commands that its scripts call in the server.
    pub(crate) inside: &'static [Inside],
    /// Whether it is handed over, and whether its holder's death is survived.
    pub(crate) part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Both,
    Handover,
    Failover,
}

impl Subject {
    const fn new(name: &'static str, kind: Kind, by: By) -> Self {
        Self { name, kind, by, inside: &[], part: Part::Both }
    }

    const fn only(mut self, part: Part) -> Self {
        self.part = part;
        self
    }

    const fn inside(mut self, inside: &'static [Inside]) -> Self {
        self.inside = inside;
        self
    }

    pub(crate) fn is_in(&self, part: Part) -> bool {
        self.part == Part::Both || self.part == part
    }
}

/// Who wants the key, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    /// `relay`: waiters are always queued, and who gives back stays away; `storm`: he asks again at once.
    pub(crate) kind: &'static str,
    pub(crate) processes: u32,
    /// Tasks of one process.
    pub(crate) tasks: u32,
    pub(crate) hold: Duration,
    pub(crate) away: Duration,
}

impl Crowd {
    const fn new(kind: &'static str, processes: u32, tasks: u32, hold: u64, away: u64) -> Self {
        let (hold, away) = (Duration::from_millis(hold), Duration::from_millis(away));
        Self { kind, processes, tasks, hold, away }
    }

    /// What tells it from the others.
    pub(crate) fn name(self) -> String {
        format!("{} {}×{}", self.kind, self.processes, self.tasks)
    }
}

const CROWDS: &[Crowd] = &[
    Crowd::new("relay", 2, 1, 5, 2),
    Crowd::new("relay", 8, 1, 5, 10),
    Crowd::new("relay", 8, 8, 1, 10),
    Crowd::new("storm", 8, 1, 0, 0),
];

use By::{Node, Python, Rust};
use Inside::{Once, Only};
use Kind::{Floor, Ours, Rival};

pub(crate) const FAMILIES: &[Family] = &[
    Family {
        name: "flock",
        server: Server::None,
        subjects: &[
            Subject::new("blocked-flock", Floor, Rust),
            Subject::new("pipe-token", Floor, Rust).only(Part::Handover),
            Subject::new("solocron-flock", Ours, Rust),
            Subject::new("filelock", Rival, Python),
            Subject::new("portalocker", Rival, Python),
        ],
        crowds: CROWDS,
        ttl: Duration::ZERO,
    },
    Family {
        name: "socket",
        server: Server::None,
        subjects: &[
            Subject::new("backlog-eof", Floor, Rust),
            Subject::new("solocron-socket", Ours, Rust),
        ],
        crowds: CROWDS,
        ttl: Duration::ZERO,
    },
    Family {
        name: "redis",
        server: Server::Redis,
        subjects: &[
            Subject::new("blpop-token", Floor, Rust).only(Part::Handover),
            Subject::new("set-nx-pttl", Floor, Rust).only(Part::Failover),
            // Its scripts call these; none of them is sent by itself.
            Subject::new("solocron-redis", Ours, Rust).inside(&[
                Only("time"),
                Only("get"),
                Only("set"),
                Only("setrange"),
                Only("persist"),
                Only("pexpire"),
                Only("zadd"),
                Only("zrem"),
                Only("zpopmin"),
                Only("publish"),
                Only("pubsub|numsub"),
            ]),
            Subject::new("rslock", Rival, Rust).inside(&[Only("get"), Only("del")]),
            Subject::new("redis-py", Rival, Python).inside(&[Only("get"), Only("del")]),
            Subject::new("python-redis-lock", Rival, Python).inside(&[
                Once("get"),
                Only("del"),
                Only("lpush"),
                Only("pexpire"),
                Only("ttl"),
                Only("expire"),
            ]),
            Subject::new("redlock", Rival, Node).inside(&[
                Only("exists"),
                Only("set"),
                Only("get"),
                Only("del"),
            ]),
        ],
        crowds: CROWDS,
        ttl: Duration::from_secs(3),
    },
    Family {
        name: "etcd",
        server: Server::Etcd,
        subjects: &[
            Subject::new("key-and-watch", Floor, Rust).only(Part::Failover),
            Subject::new("solocron-etcd", Ours, Rust),
            Subject::new("etcd-lock-rpc", Rival, Rust),
        ],
        crowds: CROWDS,
        ttl: Duration::from_secs(3),
    },
];
