//! Wrong addresses, wrong users, full and foreign servers: called by their name, never "busy", never "won".

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use solocron::lock::{LockBackend, MarkAfter, Renewal, Reply};
use solocron::{BackendError, Effect, Kind};
use solocron_etcd::EtcdBackend;
use solocron_testkit::server::{EtcdBuilder, EtcdServer};

use crate::client::{attempt, claim, due_tick, key, locks, now, plain, soon, until, win};
use crate::store::{Store, base64};

const LONG: Duration = Duration::from_secs(60);

fn at(endpoint: &str) -> EtcdBackend {
    EtcdBackend::builder("test", [endpoint]).build().unwrap()
}

/// What an acquisition fails with.
async fn refusal(backend: &EtcdBackend) -> BackendError {
    let begun = Instant::now();
    let error = attempt(backend, &plain("lock", LONG)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "bounded: {:?}", begun.elapsed());
    error
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_and_comes_back() {
    let store = Store::alone();
    let backend = at(&store.server.endpoint());
    store.server.kill();
    let error = refusal(&backend).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Unavailable, Effect::None), "{error}");
    assert!(error.to_string().contains(&store.server.endpoint()), "{error}");
    assert!(backend.holders("").await.is_err() && backend.watch(&key("lock")).now_or_err().await);
    store.server.restart();
    let guard = locks(&backend, 10).lock("lock", LONG).await.expect("it is back");
    // Down while the lock is held, for less than its ttl.
    store.server.kill();
    let error = attempt(&backend, &plain("other", Duration::from_secs(10))).await.unwrap_err();
    assert!(error.kind().is_transient(), "{error:?}");
    store.server.restart();
    guard.check().unwrap();
    guard.release().await.unwrap();
}

/// A watch on a server that is down waits for it; its caller does not.
trait NowOrErr {
    async fn now_or_err(self) -> bool;
}

impl<T, F: Future<Output = Result<T, BackendError>>> NowOrErr for F {
    async fn now_or_err(self) -> bool {
        !matches!(tokio::time::timeout(Duration::from_millis(300), self).await, Ok(Ok(_)))
    }
}

/// A server that says `greeting` to everybody.
fn stranger(greeting: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(greeting);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            std::thread::spawn(move || stream.read_to_end(&mut Vec::new()));
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn what_is_no_etcd_is_misconfigured() {
    for greeting in [
        &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
        b"-ERR unknown command 'PRI'\r\n-ERR unknown command 'SM'\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\nxxxxxxxxxxxxxxxxxxxxxxx",
    ] {
        let error = refusal(&at(&stranger(greeting))).await;
        assert_eq!(error.kind(), Kind::Misconfigured, "{error}");
        assert!(error.to_string().contains("port"), "{error}");
    }
}

#[tokio::test]
async fn one_that_accepts_and_says_nothing_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = at(&format!("http://{}", listener.local_addr().unwrap()));
    let error = refusal(&backend).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Timeout, Effect::None), "{error}");
    let error = attempt(&backend, &claim("job", solocron::lock::Mark::from_millis(1))).await;
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Timeout, Effect::None), "{error}");
}

fn user(store: &Store, name: &str, password: &str) -> EtcdBackend {
    EtcdBackend::builder(&store.namespace, [store.server.endpoint()])
        .user(name, password)
        .build()
        .unwrap()
}

/// A server with users, one of whom is `app`, whose role may read and write below `prefix`.
pub(crate) fn with_users(builder: EtcdBuilder, prefix: &str, password: &str) -> Store {
    let store = Store::on(Arc::new(builder.users("root-secret").start()));
    let ask = |path: &str, json: String| store.server.command(path, &json).unwrap();
    ask("/v3/auth/role/add", r#"{"name": "solocron"}"#.to_owned());
    // The range of a prefix ends where its last byte is one higher.
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let (from, to) = (base64(prefix.as_bytes()), base64(&end));
    let permission = format!(
        r#"{{"name": "solocron", "perm": {{"permType": "READWRITE", "key": "{from}", "range_end": "{to}"}}}}"#
    );
    ask("/v3/auth/role/grant", permission);
    ask("/v3/auth/user/add", format!(r#"{{"name": "app", "password": "{password}"}}"#));
    ask("/v3/auth/user/grant", r#"{"user": "app", "role": "solocron"}"#.to_owned());
    store
}

#[tokio::test]
async fn wrong_users_are_denied() {
    let store = with_users(EtcdServer::builder(), "solocron/", "app-secret");
    for (name, password) in [("app", "wrong"), ("nobody", "app-secret"), ("app", "")] {
        let error = refusal(&user(&store, name, password)).await;
        assert_eq!((error.kind(), error.effect()), (Kind::Denied, Effect::None), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let error = refusal(&at(&store.server.endpoint())).await;
    assert_eq!(error.kind(), Kind::Denied, "a user is asked for: {error}");
    win(&user(&store, "app", "app-secret"), &plain("lock", LONG)).await;
    // A user where there are none.
    let open = Store::alone();
    let error = refusal(&user(&open, "app", "app-secret")).await;
    assert_eq!(error.kind(), Kind::Misconfigured, "{error}");
}

#[tokio::test]
async fn the_role_in_the_docs_is_all_that_is_needed() {
    let store = with_users(EtcdServer::builder(), "solocron/test/", "app-secret");
    let backend = user(&store, "app", "app-secret");
    let tick = due_tick(&backend, "job").await;
    let mut watch = backend.watch(&key("job")).await.unwrap().unwrap();
    let grant = win(&backend, &claim("job", tick)).await;
    backend.renew(&[&grant.lease], now()).await.remove(0).unwrap();
    assert_eq!(backend.holders("").await.unwrap().unwrap().len(), 1);
    backend.set_note(&key("job"), 0, b"note").await.unwrap();
    backend.epoch().await.unwrap();
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    soon("the news", watch.changed()).await;
    backend.revoke(&key("job"), solocron::lock::Nonce::random(), MarkAfter::Undo).await.unwrap();
    // And no more: a namespace beside it is not theirs.
    let beside = EtcdBackend::builder("other", [store.server.endpoint()]).user("app", "app-secret");
    let error = refusal(&beside.build().unwrap()).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Denied, Effect::None), "{error}");
    assert!(error.to_string().contains("role"), "{error}");
}

#[tokio::test]
async fn a_permission_that_is_taken_away_is_denied_and_not_a_loss_of_time() {
    let store = with_users(EtcdServer::builder(), "solocron/", "app-secret");
    let backend = user(&store, "app", "app-secret");
    let grant = win(&backend, &plain("lock", LONG)).await;
    let role = r#"{"name": "app", "role": "solocron"}"#;
    store.server.command("/v3/auth/user/revoke", role).unwrap();
    let error = refusal(&backend).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Denied, Effect::None), "{error}");
    let error = backend.release(&grant.lease, MarkAfter::Done).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    store.server.command("/v3/auth/user/grant", &role.replace("name", "user")).unwrap();
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
}

#[tokio::test]
async fn a_token_that_expired_is_renewed() {
    let store =
        with_users(EtcdServer::builder().set("auth-token-ttl", "1"), "solocron/", "app-secret");
    let backend = user(&store, "app", "app-secret");
    let grant = win(&backend, &plain("held", LONG)).await;
    let mut watch = backend.watch(&key("held")).await.unwrap().unwrap();
    for _ in 0..2 {
        // Unused for longer than it lives.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let other = win(&backend, &plain("other", LONG)).await;
        backend.release(&other.lease, MarkAfter::Done).await.unwrap();
    }
    // Also where the watch and the beats have to be opened again with it.
    store.server.restart();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let renewed =
        until("a beat", || async { backend.renew(&[&grant.lease], now()).await.remove(0).ok() })
            .await;
    assert!(matches!(renewed, Renewal::Extended(_)), "{renewed:?}");
    until("a release", || async { backend.release(&grant.lease, MarkAfter::Done).await.ok() })
        .await;
    soon("the news", watch.changed()).await;
}

#[tokio::test]
async fn a_full_server_grants_nothing_and_harms_no_holder() {
    const QUOTA: u64 = 4 << 20;
    let store = Store::on(Arc::new(EtcdServer::builder().quota(QUOTA).start()));
    let backend = store.connect();
    let grant = win(&backend, &plain("held", Duration::from_secs(5))).await;
    let filling = base64(&vec![b'x'; 1 << 20]);
    let full = (0..20).any(|n| {
        let put = format!(
            r#"{{"key": "{}", "value": "{filling}"}}"#,
            base64(format!("fill-{n}").as_bytes())
        );
        store.server.command("/v3/kv/put", &put).is_err()
    });
    assert!(full, "the quota is reached");
    let error = refusal(&backend).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Unavailable, Effect::None), "{error}");
    assert!(error.to_string().contains("alarm disarm"), "it says what to do: {error}");
    let renewed = backend.renew(&[&grant.lease], now()).await.remove(0);
    assert!(matches!(renewed, Ok(Renewal::Extended(_))), "{renewed:?}");
    backend.release(&grant.lease, MarkAfter::Done).await.expect("deleting is allowed");
    assert!(!store.is_held(&key("held")));
    // What the message says: compact, defragment, disarm.
    let ask = |path: &str, json: &str| store.server.command(path, json).unwrap();
    let end = base64(b"fill.");
    ask(
        "/v3/kv/deleterange",
        &format!(r#"{{"key": "{}", "range_end": "{end}"}}"#, base64(b"fill-")),
    );
    ask(
        "/v3/kv/compaction",
        &format!(r#"{{"revision": "{}", "physical": true}}"#, store.revision()),
    );
    ask("/v3/maintenance/defragment", "{}");
    let alarms = ask("/v3/maintenance/alarm", r#"{"action": "GET"}"#);
    let (_, member) = alarms.split_once(r#""memberID":""#).expect("the alarm is on");
    let member = member.split('"').next().unwrap();
    let disarm =
        format!(r#"{{"action": "DEACTIVATE", "alarm": "NOSPACE", "memberID": "{member}"}}"#);
    ask("/v3/maintenance/alarm", &disarm);
    let guard = locks(&backend, 10).lock("lock", LONG).await.expect("there is room again");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn what_somebody_else_put_in_our_place_is_corrupt_and_not_busy() {
    let store = Store::shared();
    let backend = store.connect();
    let theirs = win(&backend, &plain("theirs", LONG)).await;
    let (lease, real) =
        (store.session_of(&key("theirs")), store.value(&store.lock_key(&key("theirs"))));
    let cases = [
        ("text", "hello", lease.as_str()),
        ("newer", "solocron lock 2\n", &lease),
        ("of another key", &real, &lease),
        ("for ever", &real.replace("theirs", "for ever"), "0"),
    ];
    for (name, value, lease) in cases {
        store.put(&store.lock_key(&key(name)), value, lease);
        let error = attempt(&backend, &plain(name, LONG)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.effect()),
            (Kind::Corrupt, Effect::None),
            "{name}: {error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
    for (name, value, kind) in
        [("record", "hello, world", Kind::Misconfigured), ("short", "x", Kind::Corrupt)]
    {
        store.put(&store.state_key(&key(name)), value, "0");
        let error = attempt(&backend, &plain(name, LONG)).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{name}: {error}");
    }
    // Nobody else is hurt.
    backend.renew(&[&theirs.lease], now()).await.remove(0).unwrap();
    let fine = attempt(&backend, &plain("fine", LONG)).await.unwrap();
    assert!(matches!(fine, Reply::Won(_)), "{fine:?}");
}

#[tokio::test]
async fn a_cluster_that_was_restored_from_a_backup_is_another_epoch() {
    let store = Store::alone();
    let backend = store.connect();
    let grant = win(&backend, &plain("lock", LONG)).await;
    due_tick(&backend, "job").await;
    let before = backend.epoch().await.unwrap();
    store.server.restart();
    until("the server", || async { backend.holders("").await.ok() }).await;
    assert_eq!(backend.epoch().await.unwrap(), before, "a restart is no loss");
    store.server.wipe();
    let after = until("news of the loss", || async {
        let _ = backend.holders("").await;
        backend.epoch().await.ok().filter(|epoch| *epoch != before)
    })
    .await;
    assert_ne!(after, before);
    soon("the loss", backend.lost(&grant.lease)).await;
    // What was seen before is not believed any more.
    let error = attempt(&backend, &claim("job", solocron::lock::Mark::from_millis(1))).await;
    assert_eq!(error.unwrap_err().kind(), Kind::NotEnrolled);
    let guard = locks(&backend, 10).lock("lock", LONG).await.expect("it works");
    guard.release().await.unwrap();
}
