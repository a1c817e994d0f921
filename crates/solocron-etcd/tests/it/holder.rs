//! A process that holds a lock until it is killed.

use std::time::Duration;

use solocron::lock::{LockOptions, Locks};
use solocron_etcd::EtcdBackend;
use solocron_testkit::fleet::{Member, as_child, reply, this_test};

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts one, and returns when it holds the lock. It dies with what this returns.
pub(crate) fn start(endpoint: &str, namespace: &str, key: &str, ttl: Duration) -> Member {
    let role = format!("{endpoint} {namespace} {} {key}", ttl.as_secs());
    let mut holder =
        Member::start("holder", this_test("holder::is_a_holder", &role).unwrap()).unwrap();
    holder.expect("held", PATIENCE).unwrap();
    holder
}

#[test]
fn is_a_holder() {
    as_child(|role, mut parent| {
        let mut words = role.splitn(4, ' ');
        let (endpoint, namespace) = (words.next().unwrap(), words.next().unwrap());
        let ttl = Duration::from_secs(words.next().unwrap().parse().unwrap());
        let key = words.next().unwrap().to_owned();
        let backend = EtcdBackend::builder(namespace, [endpoint]).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let locks =
                Locks::builder(backend).options(LockOptions::default().ttl(ttl)).build().unwrap();
            let guard = locks.lock(key, PATIENCE).await.unwrap();
            reply(format_args!("held {}", guard.fence())).unwrap();
            parent.next();
            guard.release().await.unwrap();
            reply("released").unwrap();
        });
    });
}
