//! Four processes under faults, over a server that is flushed, restarted, frozen and full, each behind a proxy of its own that is
//! cut, severed and slow.
#![cfg(target_os = "linux")]

use std::time::Duration;

use solocron_redis::RedisBackend;
use solocron_testkit::Dice;
use solocron_testkit::chaos::{self, Chaos, Failover, Hits, Store, StoreFault};
use solocron_testkit::server::{Direction, Proxy, RedisServer};

/// As small as is sensible on a loaded machine.
const TTL: Duration = Duration::from_millis(1_200);

const BOTH_WAYS: [Direction; 2] = [Direction::Up, Direction::Down];

#[test]
fn is_a_node() {
    chaos::as_node::<Server>();
}

/// A server that keeps nothing on disk, and a way to it for each node.
struct Server {
    redis: RedisServer,
    ways: Vec<Proxy>,
}

impl Server {
    fn start() -> Self {
        let redis = RedisServer::start();
        let ways = (0..chaos::NODES).map(|_| Proxy::start(redis.address())).collect();
        Self { redis, ways }
    }

    fn memory(&self, limit: &str) {
        self.redis.command(&["CONFIG", "SET", "maxmemory", limit]);
    }

    fn hole(&self, node: usize, hole: bool, directions: &[Direction]) {
        directions.iter().for_each(|direction| self.ways[node].black_hole(*direction, hole));
    }

    fn delay(&self, node: usize, by: Duration) {
        BOTH_WAYS.iter().for_each(|direction| self.ways[node].delay(*direction, by));
    }
}

impl Store for Server {
    type Backend = RedisBackend;

    async fn open(address: String) -> RedisBackend {
        RedisBackend::builder(&address).namespace("chaos").build().expect("a good url")
    }

    fn address(&self, node: usize) -> String {
        format!("redis://{}", self.ways[node].address())
    }

    fn faults(&self) -> Vec<StoreFault> {
        // Nothing is granted for the longest ttl after a loss of memory, which is noticed within a second.
        let loss = |kind, lasts_ms| {
            let loss = StoreFault::new(kind, Hits::Everybody, lasts_ms).forgets();
            loss.aftermath(TTL + Duration::from_secs(1))
        };
        let node = |kind, lasts_ms| StoreFault::new(kind, Hits::Node, lasts_ms);
        vec![
            loss("flush", 0..1),
            loss("restart", 50..800),
            StoreFault::new("freeze", Hits::Everybody, 100..2_000),
            StoreFault::new("full", Hits::Everybody, 100..1_000),
            node("cut", 200..3_000),
            node("mute", 200..2_000),
            node("sever", 0..1),
            node("drop", 300..301),
            node("slow", 300..2_000),
        ]
    }

    fn make(&mut self, kind: &str, node: usize, dice: &mut Dice) {
        match kind {
            "flush" => drop(self.redis.command(&["FLUSHALL"])),
            "restart" => self.redis.kill(),
            "freeze" => self.redis.freeze(),
            "full" => self.memory("1"),
            "cut" => self.hole(node, true, &BOTH_WAYS),
            "mute" => self.hole(node, true, &[Direction::Down]),
            "sever" => self.ways[node].sever(),
            "drop" => self.ways[node].drop_reply(),
            _ => self.delay(node, Duration::from_millis(10 + dice.below(140))),
        }
    }

    fn heal(&mut self, kind: &str, node: usize) {
        match kind {
            "restart" => self.redis.restart(),
            "freeze" => self.redis.thaw(),
            "full" => self.memory("0"),
            "cut" | "mute" => {
                // What a partition held back is mostly gone with its connections.
                self.ways[node].sever();
                self.ways[node].heal();
            }
            _ => self.ways[node].heal(),
        }
    }
}

#[test]
fn a_fleet_under_faults_keeps_its_promises() {
    Chaos::new("redis", "is_a_node").ttl(TTL).run(&mut Server::start()).assert();
}

#[test]
fn a_killed_holder_is_followed_within_a_ttl() {
    let ttl = Duration::from_secs(1);
    Failover::new("redis", "is_a_node").ttl(ttl).run(&mut Server::start()).assert_within(ttl);
}
