//! A Redis Cluster.

use super::{RedisBuilder, RedisServer};
use crate::server::resp::Value;

/// A Redis Cluster of masters that share the 16384 slots evenly.
///
/// # Panics
///
/// Where a node does not do what it should, with its log.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts so many masters (a cluster wants at least three), and waits until all of them agree that the cluster works.
    #[must_use]
    pub fn start(nodes: usize) -> Self {
        const SLOTS: usize = 16_384;
        let cluster = Self {
            nodes: (0..nodes).map(|_| RedisBuilder::default().of_cluster().start()).collect(),
        };
        let first = &cluster.nodes[0];
        let (ip, port) = (first.address().ip().to_string(), first.address().port().to_string());
        let bus = first.bus.as_ref().expect("it is a cluster's").number().to_string();
        for (number, node) in cluster.nodes.iter().enumerate() {
            let bounds = [number * SLOTS / nodes, (number + 1) * SLOTS / nodes - 1]
                .map(|slot| slot.to_string());
            node.must(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            node.must(&["CLUSTER", "ADDSLOTSRANGE", &bounds[0], &bounds[1]]);
            if number > 0 {
                node.must(&["CLUSTER", "MEET", &ip, &port, &bus]);
            }
        }
        for node in &cluster.nodes {
            node.await_cluster(nodes);
        }
        cluster
    }

    /// The nodes, each a server like any other.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The addresses of all nodes, as clients take them.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    /// The node that holds `key`.
    #[must_use]
    pub fn node_of(&self, key: &str) -> &RedisServer {
        let has =
            |node: &&RedisServer| node.command(&["EXISTS", key]).error_code() != Some("MOVED");
        self.nodes.iter().find(has).expect("every slot has its node")
    }
}

impl RedisServer {
    fn must(&self, words: &[&str]) {
        let answer = self.command(words);
        if answer != Value::Simple("OK".into()) {
            self.fail(&format!("answered {words:?} with {answer}"));
        }
    }

    fn await_cluster(&self, nodes: usize) {
        self.await_lines(
            &["CLUSTER", "INFO"],
            &[
                "cluster_state:ok",
                "cluster_slots_ok:16384",
                &format!("cluster_known_nodes:{nodes}"),
                &format!("cluster_size:{nodes}"),
            ],
        );
    }
}
