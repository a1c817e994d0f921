//! Four processes under faults, over a cluster of three members that are killed, stopped and outvoted, each process behind proxies
//! of its own that are cut, severed and slow.
#![cfg(target_os = "linux")]

use std::time::Duration;

use solocron_etcd::EtcdBackend;
use solocron_testkit::Dice;
use solocron_testkit::chaos::{self, Chaos, Failover, Hits, Store, StoreFault};
use solocron_testkit::server::{Direction, EtcdCluster, Proxy};

const MEMBERS: usize = 3;

const TTL: Duration = Duration::from_secs(3);

/// A leader is missed after a second, and there is a new one half a second later; on a busy machine it takes longer.
const ELECTION: Duration = Duration::from_secs(2);

const BOTH_WAYS: [Direction; 2] = [Direction::Up, Direction::Down];

#[test]
fn is_a_node() {
    chaos::as_node::<Cluster>();
}

/// Three members, and a way to each of them for each node.
struct Cluster {
    etcd: EtcdCluster,
    ways: Vec<Vec<Proxy>>,
    /// The members that are dead or stopped.
    down: Vec<usize>,
}

impl Cluster {
    fn start() -> Self {
        let etcd = EtcdCluster::start(MEMBERS);
        let ways = || (0..MEMBERS).map(|member| Proxy::start(etcd.address(member))).collect();
        let ways = (0..chaos::NODES).map(|_| ways()).collect();
        Self { etcd, ways, down: Vec::new() }
    }

    fn kill(&mut self, members: impl IntoIterator<Item = usize>) {
        for member in members {
            self.etcd.kill(member);
            self.down.push(member);
        }
    }

    fn hole(&self, node: usize, directions: &[Direction]) {
        for way in &self.ways[node] {
            directions.iter().for_each(|direction| way.black_hole(*direction, true));
        }
    }
}

impl Store for Cluster {
    type Backend = EtcdBackend;

    async fn open(address: String) -> EtcdBackend {
        EtcdBackend::builder("chaos", address.split(' ')).build().expect("good endpoints")
    }

    fn address(&self, node: usize) -> String {
        let endpoints = self.ways[node].iter().map(|way| format!("http://{}", way.address()));
        endpoints.collect::<Vec<_>>().join(" ")
    }

    fn faults(&self) -> Vec<StoreFault> {
        // Each change of the leader gives every lease its whole time again, those of the dead as well.
        let all = |kind, lasts_ms| {
            let fault = StoreFault::new(kind, Hits::Everybody, lasts_ms).aftermath(ELECTION);
            fault.apart(TTL + Duration::from_secs(2))
        };
        let node = |kind, lasts_ms| StoreFault::new(kind, Hits::Node, lasts_ms);
        vec![
            all("member", 300..2_000),
            all("leader-kill", 300..2_000),
            all("leader-stop", 300..3_000),
            all("quorum", 200..1_500),
            node("cut", 200..4_000),
            node("mute", 200..2_000),
            node("half", 200..4_000),
            node("sever", 0..1),
            node("slow", 300..2_000),
        ]
    }

    fn make(&mut self, kind: &str, node: usize, dice: &mut Dice) {
        let any = dice.below(MEMBERS as u64) as usize;
        let slow = Duration::from_millis(10 + dice.below(140));
        match kind {
            "member" => self.kill([any]),
            "leader-kill" => self.kill([self.etcd.leader()]),
            "leader-stop" => {
                let leader = self.etcd.leader();
                self.etcd.freeze(leader);
                self.down.push(leader);
            }
            "quorum" => self.kill((0..MEMBERS).filter(|member| *member != any)),
            "cut" => self.hole(node, &BOTH_WAYS),
            "mute" => self.hole(node, &[Direction::Down]),
            // From the members that it may be talking to, but for one.
            "half" => {
                let ways = self.ways[node].iter().enumerate().filter(|(member, _)| *member != any);
                for (_, way) in ways {
                    way.black_hole(Direction::Up, true);
                    way.black_hole(Direction::Down, true);
                }
            }
            "sever" => self.ways[node].iter().for_each(Proxy::sever),
            _ => {
                for way in &self.ways[node] {
                    BOTH_WAYS.iter().for_each(|direction| way.delay(*direction, slow));
                }
            }
        }
    }

    fn heal(&mut self, kind: &str, node: usize) {
        let down = std::mem::take(&mut self.down);
        match kind {
            "leader-stop" => down.into_iter().for_each(|member| self.etcd.thaw(member)),
            "member" | "leader-kill" | "quorum" => {
                down.into_iter().for_each(|member| self.etcd.restart(member));
            }
            _ => {
                self.down = down;
                for way in &self.ways[node] {
                    // What a partition held back is mostly gone with its connections.
                    if matches!(kind, "cut" | "mute" | "half") {
                        way.sever();
                    }
                    way.heal();
                }
            }
        }
    }
}

#[test]
fn a_fleet_under_faults_keeps_its_promises() {
    // A change of the leader begins every ttl anew.
    let outlives = TTL * 2 + ELECTION + Duration::from_secs(1);
    let chaos = Chaos::new("etcd", "is_a_node").ttl(TTL).settle(Duration::from_secs(4));
    chaos.outlives(outlives).run(&mut Cluster::start()).assert();
}

/// The session lives a second longer than its locks, and etcd looks every half second which leases are over.
#[test]
fn a_killed_holder_is_followed_within_a_ttl_and_a_moment() {
    let ttl = Duration::from_secs(2);
    let taken_over = Failover::new("etcd", "is_a_node").ttl(ttl).run(&mut Cluster::start());
    taken_over.assert_within(ttl + Duration::from_millis(1_500));
}
