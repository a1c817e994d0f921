//! A process that holds a lock until it is killed.

use std::time::Duration;

use solocron::lock::{LockBackend, MarkAfter};
use solocron_etcd::EtcdBackend;
use solocron_testkit::fleet::{Member, as_child, reply, this_test};

use crate::client::{PATIENCE, now, plain, win};
use crate::store::patient;

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
        let backend = patient(EtcdBackend::builder(namespace, [endpoint])).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let request = plain(&key, ttl);
            let grant = win(&backend, &request).await;
            reply(format_args!("held {}", grant.fence)).unwrap();
            let renewing = async {
                loop {
                    tokio::time::sleep(ttl / 4).await;
                    backend.renew(&[&grant.lease], now()).await.remove(0).unwrap();
                }
            };
            let ended = tokio::task::spawn_blocking(move || parent.next());
            tokio::select! {
                () = renewing => {}
                _ = ended => {}
            }
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            reply("released").unwrap();
        });
    });
}
