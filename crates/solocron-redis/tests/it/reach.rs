//! Ways to the server: unix sockets, TLS, users with few rights, old protocols, replicas, a server without our scripts.

use std::time::Duration;

use solocron::lock::{LockBackend, LockOptions, Locks, MarkAfter, Renewal, Reply};
use solocron::{Clock, Kind, SystemClock};
use solocron_redis::RedisBackend;
use solocron_testkit::server::{Proxy, RedisServer};

use crate::{PATIENCE, attempt, calls, client, enroll, key, must, open, plain, until, win};

/// Everything that a program does with locks, once.
pub(crate) async fn works(backend: &RedisBackend) {
    let options = LockOptions::default().ttl(Duration::from_secs(60));
    let locks = Locks::builder(backend.clone()).options(options).build().unwrap();
    let guard = locks.lock("worked", PATIENCE).await.unwrap();
    let waiting = tokio::spawn({
        let locks = Locks::builder(backend.clone()).options(options).build().unwrap();
        async move { locks.lock("worked", PATIENCE).await }
    });
    let mut watch = backend.watch(&key("watched")).await.unwrap().unwrap();
    enroll(backend, "worked").await;
    let request = plain("watched");
    let grant = win(backend, &request).await;
    let renewed = backend.renew(&[&grant.lease], SystemClock.lease_now()).await.remove(0).unwrap();
    assert!(matches!(renewed, Renewal::Extended(_)));
    assert_eq!(locks.holders("w").await.unwrap().unwrap().len(), 2);
    let note = locks.set_note(&key("watched"), 0, b"x").await.unwrap();
    assert_eq!(note.version, 1);
    backend.revoke(&request.key, request.nonce, MarkAfter::Done).await.unwrap();
    tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
    guard.release().await.unwrap();
    waiting.await.unwrap().unwrap().release().await.unwrap();
    backend.epoch().await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_a_way() {
    let server = crate::builder().unix_socket().start();
    works(&client(&server.url()).connect().await.unwrap()).await;
}

/// The rights that docs/backends/redis.md names are enough, and each of them is needed.
#[tokio::test]
async fn the_documented_rights_are_enough_and_none_is_for_nothing() {
    let documented = include_str!("../../../../docs/backends/redis.md");
    let line = documented
        .lines()
        .find(|line| line.starts_with("ACL SETUSER"))
        .expect("the page has the rule");
    let rules = line.replace("NAMESPACE", crate::NAMESPACE);
    let rules: Vec<_> = rules
        .split_whitespace()
        .skip(3)
        .filter(|word| !word.starts_with('>') && *word != "on")
        .collect();
    let server = crate::builder().user("app", "hunter2", &rules.join(" ")).start();
    let backend = client(&server.url_as("app", "hunter2")).connect().await.unwrap();
    works(&backend).await;
    for forbidden in [
        &["FLUSHALL"][..],
        &["KEYS", "*"],
        &["GET", "other"],
        &["CONFIG", "GET", "*"],
        &["SET", "other", "1"],
        &["DEL", "{test}:x"],
    ] {
        let mut words = vec!["ACL", "DRYRUN", "app"];
        words.extend(forbidden);
        let answer = server.command(&words).to_string();
        assert!(answer.contains("no permissions"), "{forbidden:?}: {answer}");
    }
    // Without these it does with less, or as well on a good day: see the page.
    let spare = ["+pubsub|numsub", "+info", "+ping"];
    for right in rules.iter().filter(|rule| rule.starts_with('+') && !spare.contains(rule)) {
        must(&server, &["FLUSHALL"]);
        let others: Vec<_> = rules.iter().filter(|rule| *rule != right).copied().collect();
        let server = crate::builder().user("app", "hunter2", &others.join(" ")).start();
        let url = server.url_as("app", "hunter2");
        let trial = tokio::spawn(async move {
            let backend = client(&url).connect().await.unwrap();
            tokio::time::timeout(Duration::from_secs(3), works(&backend)).await.unwrap();
        });
        assert!(trial.await.is_err(), "{right} is not needed");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_the_scripts_is_told_them() {
    let server = crate::start();
    let backend = open(&server);
    works(&backend).await;
    must(&server, &["SCRIPT", "FLUSH"]);
    let grant = win(&backend, &plain("after")).await;
    must(&server, &["SCRIPT", "FLUSH"]);
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let before = calls(&server, "eval");
    win(&backend, &plain("later")).await;
    assert_eq!(calls(&server, "eval"), before + 1, "told once more");
    win(&backend, &plain("and later")).await;
    assert_eq!(calls(&server, "eval"), before + 1, "and then known");
}

/// A server that does not know HELLO gets RESP2 and a second connection for messages.
#[tokio::test]
async fn without_resp3_there_is_a_second_connection() {
    let old = crate::config_file("rename-command HELLO \"\"");
    let server = crate::builder()
        .user("app", "hunter2", "~* &* +@all")
        .set("include", old.to_str().unwrap())
        .start();
    let backend = client(&server.url_as("app", "hunter2")).connect().await.unwrap();
    works(&backend).await;
    let clients = || {
        must(&server, &["CLIENT", "LIST"])
            .to_string()
            .lines()
            .filter(|line| line.contains("user=app"))
            .count()
    };
    assert_eq!(clients(), 2);
    // Both are missed when they break.
    let mut watch = backend.watch(&key("report")).await.unwrap().unwrap();
    must(&server, &["CLIENT", "KILL", "TYPE", "pubsub"]);
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("a new connection is news");
    until("two connections", async || clients() == 2).await;
    must(&server, &["CLIENT", "KILL", "USER", "app"]);
    until("a grant", async || attempt(&backend, &plain("report")).await.is_ok()).await;
}

#[tokio::test]
async fn a_grant_that_too_few_replicas_have_is_given_back() {
    let primary = RedisServer::start();
    let link = Proxy::start(primary.address());
    let _replica = RedisServer::builder().replica_at(link.address()).start();
    let limit = Duration::from_millis(500);
    let backend =
        client(&primary.url()).replicas(1).request_timeout(limit).connect().await.unwrap();
    // The primary counts on a replica only when that has said a first word.
    until("the replica", async || attempt(&backend, &plain("first")).await.is_ok()).await;
    works(&backend).await;
    link.black_hole(solocron_testkit::server::Direction::Down, true);
    let request = plain("report");
    let error = attempt(&backend, &request).await.unwrap_err();
    // The primary has it: whoever asks sends the same again, or revokes it.
    assert_eq!(
        (error.kind(), error.effect()),
        (Kind::Unavailable, solocron::Effect::Unknown),
        "{error}"
    );
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    link.heal();
    until("the same grant", async || {
        matches!(attempt(&backend, &request).await, Ok(Reply::Won(_)))
    })
    .await;
}

/// The script was carried out all the same, so the outcome is not known to be nothing.
#[tokio::test]
async fn a_grant_is_not_handed_out_where_nobody_may_wait_for_replicas() {
    let server = crate::builder().user("app", "hunter2", "~* &* +@all -wait").start();
    let backend = client(&server.url_as("app", "hunter2")).replicas(1).connect().await.unwrap();
    let request = plain("report");
    let error = attempt(&backend, &request).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (Kind::Unavailable, solocron::Effect::Unknown),
        "{error}"
    );
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    let other = open(&server);
    assert!(matches!(attempt(&other, &plain("report")).await, Ok(Reply::Busy { .. })));
    backend.revoke(&request.key, request.nonce, MarkAfter::Undo).await.unwrap();
    win(&other, &plain("report")).await;
}

/// A runtime that asks much gets a connection of its own, and takes nobody along when it ends.
#[test]
fn a_runtime_that_ends_takes_no_other_one_along() {
    let server = crate::builder().user("app", "hunter2", "~* &* +@all").start();
    let backend = client(&server.url_as("app", "hunter2")).build().unwrap();
    let clients = || {
        let list = must(&server, &["CLIENT", "LIST"]).to_string();
        list.lines().filter(|line| line.contains("user=app")).count()
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asks_much = async || {
        let mut turns = 0;
        until("a connection of its own", async || {
            let grant = win(&backend, &plain("report")).await;
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            turns += 1;
            clients() == 2 && turns > 20
        })
        .await;
    };
    for _ in 0..3 {
        let here = runtime();
        here.block_on(asks_much());
        drop(here);
        let other = runtime();
        other.block_on(async {
            until("its end", async || clients() == 1).await;
            win(&backend, &plain("other")).await;
            let holder = backend.holders("other").await.unwrap().unwrap().remove(0);
            let nonce = holder.nonce.unwrap();
            backend.revoke(&key("other"), nonce, MarkAfter::Undo).await.unwrap();
        });
    }
    // Where it breaks, the session is there.
    let here = runtime();
    here.block_on(async {
        asks_much().await;
        let connections = must(&server, &["CLIENT", "LIST"]).to_string();
        let own = connections.lines().rfind(|line| line.contains("user=app")).unwrap();
        let id = own.split_once("id=").unwrap().1.split(' ').next().unwrap();
        must(&server, &["CLIENT", "KILL", "ID", id]);
        until("another grant", async || {
            matches!(attempt(&backend, &plain("after")).await, Ok(Reply::Won(_)))
        })
        .await;
    });
}

/// It says of each lock that it takes no writes, and of nothing else: the connection is given up, and the next one may lead elsewhere.
#[tokio::test]
async fn a_demoted_primary_is_left() {
    let server = crate::start();
    let proxy = Proxy::start(server.address());
    let backend = client(&crate::through(&proxy, &server)).connect().await.unwrap();
    works(&backend).await;
    let connections = proxy.accepted();
    must(&server, &["REPLICAOF", "127.0.0.1", "1"]);
    let error = attempt(&backend, &plain("report")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    until("another connection", async || proxy.accepted() > connections).await;
    must(&server, &["REPLICAOF", "NO", "ONE"]);
    until("a grant", async || {
        matches!(attempt(&backend, &plain("report")).await, Ok(Reply::Won(_)))
    })
    .await;
}

/// Packets vanish without a word: the connection is given up and made again.
#[tokio::test]
async fn a_connection_into_nothing_is_replaced() {
    let server = crate::start();
    let proxy = Proxy::start(server.address());
    let limit = Duration::from_millis(200);
    let backend =
        client(&crate::through(&proxy, &server)).request_timeout(limit).connect().await.unwrap();
    let accepted = proxy.accepted();
    proxy.black_hole(solocron_testkit::server::Direction::Down, true);
    let error = attempt(&backend, &plain("report")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (Kind::Timeout, solocron::Effect::Unknown),
        "{error}"
    );
    until("a new connection", async || {
        let _ = attempt(&backend, &plain("report")).await;
        proxy.accepted() > accepted
    })
    .await;
    proxy.heal();
    until("a grant", async || attempt(&backend, &plain("other")).await.is_ok()).await;
}

/// Such a runtime can have no connection of its own, which is for those that ask much.
#[test]
fn a_runtime_that_drives_no_io_asks_over_the_connection_of_the_keeper() {
    let server = crate::start();
    let backend = open(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut last = None;
    for _ in 0..100 {
        let fence = runtime.block_on(async {
            let lease = win(&backend, &plain("often")).await;
            let fence = lease.fence;
            backend.release(&lease.lease, MarkAfter::Done).await.unwrap();
            fence
        });
        assert!(Some(fence) > last.replace(fence));
    }
}

/// The caller's runtime ends; the connection lives on, for another one.
#[test]
fn a_runtime_that_ends_takes_no_connection_with_it() {
    let server = crate::start();
    let backend = open(&server);
    let run = |work: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { win(&backend, &plain(work)).await.fence })
    };
    let first = run("one");
    let connections = || {
        must(&server, &["INFO", "stats"])
            .to_string()
            .lines()
            .find(|line| line.starts_with("total_connections"))
            .map(str::to_owned)
    };
    let _ = connections();
    assert!(run("two") > first);
    let clients = must(&server, &["CLIENT", "LIST"])
        .to_string()
        .lines()
        .filter(|line| line.contains("lib-name") || line.contains("resp=3"))
        .count();
    assert_eq!(clients, 1);
}

#[cfg(feature = "tls")]
mod tls {
    use solocron::Error;
    use solocron_redis::RedisTls;

    use super::*;

    fn read(path: std::path::PathBuf) -> Vec<u8> {
        std::fs::read(path).unwrap()
    }

    #[tokio::test]
    async fn a_certificate_of_a_known_authority_is_trusted() {
        let server = crate::builder().tls().start();
        let tls = RedisTls::new().authority(read(server.ca_file()));
        works(&client(&server.url()).tls(tls).connect().await.unwrap()).await;
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_where_it_is_asked_for() {
        let server = crate::builder().client_certificates().start();
        let authority = RedisTls::new().authority(read(server.ca_file()));
        let whole =
            authority.clone().identity(read(server.certificate_file()), read(server.key_file()));
        works(&client(&server.url()).tls(whole).connect().await.unwrap()).await;
        let without = client(&server.url()).tls(authority).connect().await;
        assert!(matches!(without, Err(Error::Backend { .. })), "{without:?}");
    }

    #[tokio::test]
    async fn a_stranger_is_not_trusted_and_nothing_falls_back_to_plain_text() {
        let (server, other) = (crate::builder().tls().start(), crate::builder().tls().start());
        for tls in [RedisTls::new(), RedisTls::new().authority(read(other.ca_file()))] {
            match client(&server.url()).tls(tls).connect().await {
                Err(Error::Backend { source, .. }) => {
                    assert_eq!(source.kind(), Kind::Misconfigured, "{source}");
                    assert!(source.to_string().contains("authority"), "{source}");
                }
                other => panic!("{other:?}"),
            }
        }
        let plain = format!("redis://{}", server.address());
        assert!(client(&plain).connect().await.is_err(), "plain text to a TLS port");
        let unencrypted = crate::start();
        let url = format!("rediss://{}", unencrypted.address());
        let tls = RedisTls::new().authority(read(server.ca_file()));
        assert!(client(&url).tls(tls).connect().await.is_err(), "TLS to a plain port");
    }

    #[test]
    fn what_is_no_certificate_is_refused_at_once() {
        let tls = RedisTls::new().authority("not a certificate");
        let built = client("rediss://localhost").tls(tls.clone()).build();
        assert!(matches!(built, Err(Error::Invalid(_))), "{built:?}");
        let tls = RedisTls::new().identity("x", "hunter2");
        let built = client("rediss://localhost").tls(tls.clone()).build();
        assert!(matches!(&built, Err(Error::Invalid(_))), "{built:?}");
        assert!(!format!("{built:?}{tls:?}").contains("hunter2"));
    }
}
