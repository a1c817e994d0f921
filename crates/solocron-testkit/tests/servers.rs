//! Real servers start, answer, and are gone with the test.
#![cfg(target_os = "linux")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use solocron_testkit::server::{EtcdCluster, EtcdServer, RedisServer, Value};

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn is_gone(pid: u32) -> bool {
    !PathBuf::from(format!("/proc/{pid}")).exists()
}

#[test]
fn a_redis_answers_and_is_gone_when_dropped() {
    let redis = RedisServer::start();
    assert_eq!(redis.command(&["SET", "a", "1"]), ok());
    assert_eq!(redis.command(&["GET", "a"]), Value::Bulk(b"1".into()));
    let (pid, path) = (redis.pid(), redis.socket_path());
    assert!(!is_gone(pid) && path.exists());
    drop(redis);
    assert!(is_gone(pid) && !path.parent().unwrap().exists());
}

#[test]
fn a_server_is_gone_after_a_panic() {
    let mut pids = Vec::new();
    let test = || {
        let redis = RedisServer::start();
        let etcd = EtcdServer::start();
        redis.freeze(); // also one that cannot hear
        pids.extend([redis.pid(), etcd.pid()]);
        panic!("as a test that fails");
    };
    assert!(catch_unwind(AssertUnwindSafe(test)).is_err());
    assert_eq!(pids.len(), 2);
    assert!(pids.into_iter().all(is_gone));
}

#[test]
fn a_redis_forgets_at_a_restart_unless_it_was_told_otherwise() {
    for keeps in [false, true] {
        let builder = RedisServer::builder();
        let redis = if keeps { builder.append_only() } else { builder }.start();
        let address = redis.address();
        for killed in [false, true] {
            redis.command(&["SET", "a", "1"]);
            if killed {
                redis.kill();
            }
            redis.restart();
            assert_eq!(redis.address(), address);
            assert_eq!(redis.command(&["GET", "a"]) != Value::Nil, keeps);
        }
    }
}

#[test]
fn an_etcd_remembers_over_a_restart_until_it_is_wiped() {
    let etcd = EtcdServer::start();
    let endpoint = etcd.endpoint();
    let read = || etcd.command("/v3/kv/range", r#"{"key":"YQ=="}"#).expect("it reads");
    etcd.command("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#).expect("it writes");
    etcd.restart();
    assert!(read().contains("MQ=="));
    etcd.kill();
    etcd.restart();
    assert!(read().contains("MQ=="));
    etcd.wipe();
    assert!(!read().contains("MQ=="));
    assert_eq!(etcd.endpoint(), endpoint);
    let refused = etcd.command("/v3/kv/put", r#"{"key":"YQ==","lease":"7"}"#);
    assert!(refused.as_ref().is_err_and(|why| why.contains("lease not found")), "{refused:?}");
}

#[test]
fn three_members_elect_another_leader() {
    let etcd = EtcdCluster::start(3);
    let old = etcd.leader();
    etcd.kill(old);
    let new = etcd.leader();
    assert_ne!(new, old);
    etcd.restart(old);
    assert_eq!(etcd.leader(), new);
}
