//! Wrong addresses, wrong passwords, servers that refuse, keys that are somebody else's: each is called by its name, says what to
//! do, and is never busy.

use std::sync::Arc;
use std::time::Duration;

use solocron::lock::{Enrolment, LockBackend, MarkAfter, Nonce, Reply};
use solocron::{BackendError, Clock, Effect, Error, Kind, SystemClock};
use solocron_redis::RedisBackend;
use solocron_testkit::server::{Proxy, RedisCluster, RedisServer, Value};

use crate::{attempt, client, enroll, key, must, now, open, plain, until, win};

fn invalid(url: &str, part: &str) {
    match RedisBackend::open(url) {
        Err(Error::Invalid(invalid)) => {
            let text = invalid.to_string();
            assert!(text.contains(part), "{url}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        other => panic!("{url}: {other:?}"),
    }
}

async fn refused(backend: &RedisBackend, kind: Kind, part: &str) -> BackendError {
    let error = attempt(backend, &plain("report")).await.expect_err("an error, never busy");
    let text = error.to_string();
    assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{text}");
    assert!(text.contains(part), "{text}");
    error
}

#[test]
fn an_url_that_cannot_be_meant_is_refused_without_repeating_its_password() {
    for url in [
        "",
        "localhost:6379",
        "http://localhost",
        "rediss://user:hunter2@host#insecure",
        "postgres://u:hunter2@h/0",
    ] {
        assert!(matches!(RedisBackend::open(url), Err(Error::Invalid(_))), "{url}");
    }
    invalid("etcd://:hunter2@host", "redis://host:port/db");
    invalid("redis://user:hunter2@host:99999", "percent-encoded");
    invalid("redis://:hunter2@host/notes", "number of the database");
    invalid("redis://:hunter2@host/-1", "numbered from 0");
    invalid("redis://:hunter2@0.0.0.0", "://");
    for namespace in ["", "with space", "br{ce", &"x".repeat(65)] {
        assert!(
            matches!(
                RedisBackend::builder("redis://h").namespace(namespace).build(),
                Err(Error::Invalid(_))
            ),
            "{namespace}"
        );
    }
    assert!(matches!(
        RedisBackend::builder("redis://h").request_timeout(Duration::ZERO).build(),
        Err(Error::Invalid(_))
    ));
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_the_feature_tls_its_url_names_it() {
    invalid("rediss://host", "feature `tls`");
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_at_the_start_and_later() {
    let server = crate::start();
    let backend = open(&server);
    win(&backend, &plain("held")).await;
    server.kill();
    until("a refusal", async || {
        attempt(&backend, &plain("report")).await.is_err_and(|error| error.effect() == Effect::None)
    })
    .await;
    refused(&backend, Kind::Unavailable, "nothing listens there").await;
    let late = open(&server);
    refused(&late, Kind::Unavailable, "nothing listens there").await;
    let begun = SystemClock.lease_now();
    assert!(matches!(RedisBackend::connect(&server.url()).await, Err(Error::Backend { .. })));
    assert!(SystemClock.lease_now().saturating_since(begun) < Duration::from_secs(20));
    server.restart();
    until("a connection", async || late.epoch().await.is_ok()).await;
    until("a connection", async || backend.epoch().await.is_ok()).await;
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_asked_for_again_only_after_a_while() {
    let server =
        RedisServer::builder().password("swordfish").user("app", "hunter2", "~* &* +@all").start();
    let address = server.address();
    for url in [
        format!("redis://{address}"),
        format!("redis://:hunter2@{address}"),
        format!("redis://app:hunter3@{address}"),
        format!("redis://nobody:hunter2@{address}"),
    ] {
        let backend = client(&url).build().unwrap();
        let error = refused(&backend, Kind::Denied, "password").await;
        assert!(!error.to_string().contains("hunter"), "{error}");
        let before = crate::calls(&server, "hello");
        for _ in 0..20 {
            refused(&backend, Kind::Denied, "password").await;
        }
        assert!(
            crate::calls(&server, "hello") <= before + 1,
            "a wrong password is not tried all the time"
        );
    }
    for good in [format!("redis://:swordfish@{address}"), format!("redis://app:hunter2@{address}")]
    {
        win(&client(&good).build().unwrap(), &plain(&good)).await;
    }
    win(
        &client(&format!("redis://{address}")).credentials("app", "hunter2").build().unwrap(),
        &plain("given"),
    )
    .await;
}

#[tokio::test]
async fn a_password_that_is_changed_under_a_client_is_denied_and_mended() {
    let server = crate::builder().user("app", "hunter2", "~* &* +@all").start();
    let backend = client(&server.url_as("app", "hunter2")).build().unwrap();
    win(&backend, &plain("before")).await;
    must(&server, &["ACL", "SETUSER", "app", "off"]);
    must(&server, &["CLIENT", "KILL", "USER", "app"]);
    until("a refusal", async || {
        attempt(&backend, &plain("report")).await.is_err_and(|error| error.kind() == Kind::Denied)
    })
    .await;
    must(&server, &["ACL", "SETUSER", "app", "on"]);
    until("a grant", async || attempt(&backend, &plain("report")).await.is_ok()).await;
}

#[tokio::test]
async fn missing_rights_are_denied() {
    // May connect, and no more.
    let server = crate::builder().user("app", "hunter2", "+info +ping").start();
    let backend = client(&server.url_as("app", "hunter2")).build().unwrap();
    refused(&backend, Kind::Denied, "docs/backends/redis.md").await;
    // May run scripts, but not touch this namespace.
    let server = crate::builder().user("app", "hunter2", "~other:* &* +@all").start();
    refused(
        &client(&server.url_as("app", "hunter2")).build().unwrap(),
        Kind::Denied,
        "docs/backends/redis.md",
    )
    .await;
}

#[tokio::test]
async fn a_database_that_is_not_there_is_misconfigured() {
    let server = crate::builder().set("databases", "2").start();
    let backend = client(&format!("{}/7", server.url().trim_end_matches('/'))).build().unwrap();
    refused(&backend, Kind::Misconfigured, "databases").await;
    win(
        &client(&format!("{}/1", server.url().trim_end_matches('/'))).build().unwrap(),
        &plain("report"),
    )
    .await;
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_unless_it_is_accepted() {
    let server =
        crate::builder().set("maxmemory", "50mb").set("maxmemory-policy", "allkeys-lru").start();
    refused(&open(&server), Kind::Misconfigured, "allkeys-lru").await;
    match client(&server.url()).connect().await {
        Err(Error::Backend { source, .. }) => assert_eq!(source.kind(), Kind::Misconfigured),
        other => panic!("{other:?}"),
    }
    let accepting = client(&server.url()).allow_eviction(true).connect().await.unwrap();
    win(&accepting, &plain("report")).await;
}

#[tokio::test]
async fn a_replica_is_unavailable() {
    let primary = crate::start();
    let replica = crate::builder().replica_of(&primary).start();
    refused(&open(&replica), Kind::Unavailable, "replica").await;
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_unavailable() {
    let (first, second) = (crate::start(), crate::start());
    let backend = open(&first);
    win(&backend, &plain("before")).await;
    let to = second.address();
    must(&first, &["REPLICAOF", &to.ip().to_string(), &to.port().to_string()]);
    refused(&backend, Kind::Unavailable, "replica").await;
    must(&first, &["REPLICAOF", "NO", "ONE"]);
    until("a connection", async || backend.epoch().await.is_ok()).await;
}

#[tokio::test]
async fn a_full_server_refuses_new_locks_and_lets_held_ones_go_on() {
    let server = crate::start();
    let backend = open(&server);
    let tick = enroll(&backend, "job").await.last.mark;
    let tick = solocron::lock::Mark::from_millis(tick.as_millis() + 1);
    crate::until_due(&backend, "job", tick).await;
    let held = win(&backend, &plain("held")).await;
    let run = win(&backend, &crate::claim("job", tick, solocron::lock::Delivery::AtMostOnce)).await;
    must(&server, &["CONFIG", "SET", "maxmemory", "1"]);
    refused(&backend, Kind::Unavailable, "maxmemory").await;
    let enrolled = backend.enroll(&[Enrolment { key: key("new"), fingerprint: 1 }]).await.remove(0);
    assert_eq!(enrolled.unwrap_err().kind(), Kind::Unavailable);
    let sent = SystemClock.lease_now();
    for renewed in backend.renew(&[&held.lease, &run.lease], sent).await {
        assert!(matches!(renewed, Ok(solocron::lock::Renewal::Extended(_))), "{renewed:?}");
    }
    for lease in [&held.lease, &run.lease] {
        assert_eq!(
            backend.release(lease, MarkAfter::Done).await.unwrap(),
            solocron::lock::Released::Done
        );
    }
    must(&server, &["CONFIG", "SET", "maxmemory", "0"]);
    assert!(enroll(&backend, "job").await.last.done);
    win(&backend, &plain("held")).await;
}

#[tokio::test]
async fn a_server_busy_with_somebodys_script_is_unavailable() {
    let server = Arc::new(crate::builder().set("busy-reply-threshold", "50").start());
    let backend = open(&server);
    win(&backend, &plain("before")).await;
    let spinning = Arc::clone(&server);
    let spinning =
        tokio::task::spawn_blocking(move || spinning.command(&["EVAL", "while true do end", "0"]));
    until("a refusal", async || {
        attempt(&backend, &plain("report")).await.is_err_and(|error| {
            assert!(error.kind().is_transient(), "{error}");
            error.to_string().contains("SCRIPT KILL")
        })
    })
    .await;
    must(&server, &["SCRIPT", "KILL"]);
    assert!(matches!(spinning.await.unwrap(), Value::Error(_)));
    until("a grant", async || attempt(&backend, &plain("report")).await.is_ok()).await;
}

#[tokio::test]
async fn a_server_that_is_loading_is_unavailable() {
    let server = Arc::new(
        crate::builder()
            .set("key-load-delay", "2000")
            .set("loading-process-events-interval-bytes", "1024")
            .start(),
    );
    for n in 0..1000 {
        must(&server, &["SET", &format!("filler-{n}"), "x"]);
    }
    must(&server, &["SAVE"]);
    let backend = open(&server);
    win(&backend, &plain("before")).await;
    let restarting = Arc::clone(&server);
    let restarting = tokio::task::spawn_blocking(move || restarting.restart());
    until("a refusal", async || {
        assert!(!restarting.is_finished(), "it loaded too quickly to be seen");
        attempt(&backend, &plain("report")).await.is_err_and(|error| {
            assert!(error.kind().is_transient(), "{error}");
            error.to_string().contains("LOADING")
        })
    })
    .await;
    restarting.await.unwrap();
    until("a connection", async || backend.epoch().await.is_ok()).await;
}

#[tokio::test]
async fn a_node_of_a_cluster_that_lacks_the_slot_is_named() {
    let cluster = RedisCluster::start(3);
    let own = cluster.node_of(&format!("{{{}}}:epoch", crate::NAMESPACE));
    for node in cluster.nodes() {
        let backend = open(node);
        if node.address() == own.address() {
            win(&backend, &plain("report")).await;
        } else {
            refused(&backend, Kind::Misconfigured, "cluster").await;
        }
    }
}

#[tokio::test]
async fn somebody_elses_key_in_our_place_is_an_error_that_names_it_and_no_other_lock_suffers() {
    let server = crate::start();
    let backend = open(&server);
    let name = |lock: &str| backend.redis_key(&key(lock));
    must(&server, &["SET", &name("string"), "x"]);
    must(&server, &["RPUSH", &name("list"), "x"]);
    must(&server, &["HSET", &name("hash"), "field", "x"]);
    must(&server, &["SET", &name("newer"), "SLR2 and so on"]);
    must(&server, &["SET", &name("short"), "SLR1"]);
    win(&backend, &plain("another name")).await;
    must(&server, &["COPY", &name("another name"), &name("collision")]);
    // Its last claim says that it is longer than the record.
    enroll(&backend, "claim").await;
    let state = server.command(&["STRLEN", &name("claim")]).as_int().unwrap() - 72 + 53;
    must(&server, &["SETRANGE", &name("claim"), &state.to_string(), "\u{7f}"]);
    let cases = [
        ("string", Kind::Misconfigured, "somebody else"),
        ("list", Kind::Misconfigured, "WRONGTYPE"),
        ("hash", Kind::Misconfigured, "WRONGTYPE"),
        ("newer", Kind::Misconfigured, "format \"2\""),
        ("collision", Kind::Corrupt, "another name"),
        ("short", Kind::Corrupt, "record"),
        ("claim", Kind::Corrupt, "record"),
    ];
    let mut requests: Vec<_> = cases
        .iter()
        .map(|(lock, ..)| crate::claim(lock, now(), solocron::lock::Delivery::AtMostOnce))
        .collect();
    requests.push(plain("good"));
    let mut answers = backend.try_acquire(&requests).await;
    assert!(matches!(answers.pop(), Some(Ok(Reply::Won(_)))), "one bad key stays one bad key");
    for (answer, (lock, kind, part)) in answers.into_iter().zip(cases) {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), kind, "{lock}: {error}");
        assert!(error.to_string().contains(part) && error.to_string().contains(lock), "{error}");
    }
    let jobs: Vec<_> =
        cases.iter().map(|(lock, ..)| Enrolment { key: key(lock), fingerprint: 1 }).collect();
    for (answer, (lock, kind, _)) in backend.enroll(&jobs).await.into_iter().zip(cases) {
        assert_eq!(answer.unwrap_err().kind(), kind, "{lock}");
    }
    for (lock, kind, _) in &cases {
        let revoked = backend.revoke(&key(lock), Nonce::random(), MarkAfter::Undo).await;
        assert_eq!(revoked.unwrap_err().kind(), *kind, "{lock}");
    }
    // Nothing of theirs was touched.
    assert_eq!(must(&server, &["GET", &name("string")]).as_str(), Some("x"));
    assert_eq!(must(&server, &["HLEN", &name("hash")]).as_int(), Some(1));
}

#[tokio::test]
async fn a_wrong_epoch_key_is_misconfigured() {
    let server = crate::start();
    must(&server, &["SET", &format!("{{{}}}:epoch", crate::NAMESPACE), "x"]);
    refused(&open(&server), Kind::Misconfigured, "namespace").await;
}

#[tokio::test]
async fn what_is_no_redis_is_misconfigured_or_unavailable_and_said_in_time() {
    // Speaks first, and nothing that redis would say.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = std::io::Write::write_all(&mut stream, b"220 mail.example ESMTP\r\n");
        }
    });
    let backend = client(&format!("redis://{address}")).build().unwrap();
    let error = attempt(&backend, &plain("report")).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error}");
    // Accepts, and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let backend = client(&format!("redis://{address}"))
        .request_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    let error = attempt(&backend, &plain("report")).await.unwrap_err();
    assert!(error.kind().is_transient() && error.effect() == Effect::None, "{error}");
}

/// Every byte of an answer may be the last one that gets through: the same nonce then finds its own grant.
#[tokio::test]
async fn a_grant_whose_answer_is_cut_off_anywhere_is_found_again() {
    use solocron_testkit::server::Direction;
    let server = crate::start();
    let proxy = Proxy::start(server.address());
    let backend = client(&crate::through(&proxy, &server)).build().unwrap();
    backend.epoch().await.unwrap();
    for cut in 0.. {
        let request = plain(&format!("lock-{cut}"));
        let passed = proxy.bytes(Direction::Down);
        proxy.cut_after(Direction::Down, cut);
        let first = attempt(&backend, &request).await;
        let (fence, whole) = match first {
            Ok(Reply::Won(grant)) => {
                (Some(grant.fence), proxy.bytes(Direction::Down) - passed < cut)
            }
            Err(error) => {
                assert_eq!(error.effect(), Effect::Unknown, "cut after {cut}: {error}");
                (None, false)
            }
            Ok(other) => panic!("cut after {cut}: {other:?}"),
        };
        let mut again = attempt(&backend, &request).await;
        if again.is_err() {
            again = attempt(&backend, &request).await;
        }
        let Ok(Reply::Won(again)) = again else { panic!("cut after {cut}: {again:?}") };
        assert!(fence.is_none_or(|fence| fence == again.fence));
        if whole {
            assert!(cut > 50, "an answer of {cut} bytes?");
            break;
        }
    }
}
