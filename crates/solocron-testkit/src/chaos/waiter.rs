//! A child that takes one lock when told to, and holds it for as long as it lives.

use std::time::Duration;

use solocron::lock::{LockOptions, Locks, NodeId, TryLock};

use super::node::{Role, tell};
use super::store::Store;
use crate::fleet::Parent;
use crate::history::monotonic_ns;

/// The lock.
pub(super) const KEY: &str = "failover";

/// Longer than any take-over.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn wait_when_told<S: Store>(role: Role, parent: Parent) {
    let locks = Locks::builder(S::open(role.address).await)
        .options(LockOptions::default().ttl(role.ttl))
        .node(NodeId::named(&format!("{}/{}", role.node, std::process::id())))
        .build()
        .expect("the options suit this backend");
    let (heard, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || parent.for_each(|command| drop(heard.send(command))));
    let mut held = Vec::new();
    while let Some(command) = commands.recv().await {
        assert_eq!(command, "lock", "no other command");
        let guard = match locks.try_lock(KEY).await {
            Ok(TryLock::Won(guard)) => guard,
            _ => {
                tell("waits");
                locks.lock(KEY, PATIENCE).await.expect("the holder dies, and the store answers")
            }
        };
        tell(format_args!("won {} {}", monotonic_ns(), guard.fence()));
        held.push(guard);
    }
}
