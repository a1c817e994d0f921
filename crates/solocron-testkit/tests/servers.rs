//! Real servers start, answer, and are gone with the test.
#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, thread};

use solocron_testkit::fleet::{self, Member};
use solocron_testkit::server::{
    Direction, EtcdCluster, EtcdServer, EtcdVersion, Proxy, RedisCluster, RedisServer, Value,
};

const SOON: Duration = Duration::from_secs(30);

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

/// What the process does that [`a_server_is_gone_after_its_test_was_killed`] kills.
#[test]
fn keep_servers() {
    fleet::as_child(|_, parent| {
        let redis = RedisServer::start();
        let etcd = EtcdServer::start();
        redis.freeze();
        fleet::reply(format_args!("{} {}", redis.pid(), etcd.pid())).unwrap();
        fleet::reply(redis.socket_path().display()).unwrap();
        let down = RedisServer::start();
        down.kill();
        fleet::reply(down.socket_path().display()).unwrap();
        parent.for_each(drop);
    });
}

#[test]
fn a_server_is_gone_after_its_test_was_killed() {
    let command = fleet::this_test("keep_servers", "keep").unwrap();
    let mut test = Member::start("a test", command).unwrap();
    let pids: Vec<u32> =
        test.recv(SOON).unwrap().split(' ').map(|pid| pid.parse().unwrap()).collect();
    let paths = [(); 2].map(|()| PathBuf::from(test.recv(SOON).unwrap()));
    let any_is_left = || paths.iter().any(|path| path.parent().unwrap().exists());
    assert!(paths.iter().all(|path| path.exists()) && !pids.iter().copied().any(is_gone));
    test.kill().unwrap();
    let deadline = Instant::now() + SOON;
    while !pids.iter().copied().all(is_dead) || any_is_left() {
        assert!(
            Instant::now() < deadline,
            "{pids:?} of a killed test live on, or one of {paths:?} does"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let start = || RedisServer::builder().set("no-such-option", "1").start();
    let panic = catch_unwind(start).expect_err("it cannot start");
    let why = panic.downcast_ref::<String>().expect("a text");
    assert!(why.contains("no-such-option") && why.contains("ended with"), "{why}");
    let start = || EtcdServer::builder().set("no-such-option", "1").start();
    let panic = catch_unwind(start).expect_err("it cannot start");
    let why = panic.downcast_ref::<String>().expect("a text");
    assert!(why.contains("no-such-option") && why.contains("ended with"), "{why}");
}

/// Gone, or left for its new parent to bury.
fn is_dead(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
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

#[test]
fn a_password_and_users_are_asked_for() {
    let redis =
        RedisServer::builder().password("secret").user("app", "word", "~app:* +get +set").start();
    let address = redis.address();
    assert_eq!(redis.url(), format!("redis://:secret@{address}"));
    assert_eq!(redis.url_as("app", "word"), format!("redis://app:word@{address}"));
    assert_eq!(redis.command(&["SET", "a", "1"]), ok(), "who drives it knows the password");
    assert_eq!(raw(&redis, "GET a\r\n"), "-NOAUTH Authentication required.");
    assert_eq!(raw(&redis, "AUTH app word\r\nSET app:a 1\r\n"), "+OK+OK");
    let denied = raw(&redis, "AUTH app word\r\nGET a\r\n");
    assert!(denied.starts_with("+OK-NOPERM"), "{denied}");
}

/// What a client without any library gets.
fn raw(redis: &RedisServer, lines: &str) -> String {
    let mut stream = TcpStream::connect(redis.address()).unwrap();
    stream.write_all(lines.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.replace("\r\n", "")
}

#[test]
fn a_unix_socket_is_part_of_the_url_where_it_is_asked_for() {
    let redis = RedisServer::builder().unix_socket().password("secret").start();
    let path = redis.socket_path();
    assert_eq!(redis.url(), format!("redis+unix://{}?pass=secret", path.display()));
    assert!(path.exists());
}

#[test]
fn a_replica_follows_its_master_and_lags_behind_a_black_hole() {
    let master = RedisServer::builder().password("secret").start();
    let near = RedisServer::builder().replica_of(&master).start();
    let proxy = Proxy::start(master.address());
    let far =
        RedisServer::builder().replica_at(proxy.address()).set("masterauth", "secret").start();
    master.command(&["SET", "a", "1"]);
    assert_eq!(master.command(&["WAIT", "2", "20000"]), Value::Int(2));
    assert_eq!(far.command(&["GET", "a"]), Value::Bulk(b"1".into()));
    assert_eq!(near.command(&["SET", "a", "2"]).error_code(), Some("READONLY"));

    proxy.black_hole(Direction::Down, true);
    master.command(&["SET", "a", "2"]);
    assert_eq!(master.command(&["WAIT", "2", "50"]), Value::Int(1));
    assert_eq!(far.command(&["REPLICAOF", "NO", "ONE"]), ok());
    proxy.heal();
    assert_eq!(
        far.command(&["GET", "a"]),
        Value::Bulk(b"1".into()),
        "promoted without the last write"
    );
}

#[test]
fn a_cluster_shares_its_slots() {
    let cluster = RedisCluster::start(3);
    assert_eq!(cluster.urls().len(), 3);
    let owners: Vec<_> =
        cluster.nodes().iter().map(|node| node.command(&["SET", "a", "1"])).collect();
    assert_eq!(owners.iter().filter(|answer| **answer == ok()).count(), 1, "{owners:?}");
    assert_eq!(owners.iter().filter(|answer| answer.error_code() == Some("MOVED")).count(), 2);
    assert_eq!(cluster.node_of("a").command(&["GET", "a"]), Value::Bulk(b"1".into()));
}

#[test]
fn the_other_version_is_another_version() {
    let versions = [EtcdVersion::Debian, EtcdVersion::Distro].map(|version| {
        let etcd = EtcdServer::builder().version(version).start();
        etcd.command("/v3/maintenance/status", "{}").expect("it tells")
    });
    assert!(versions[0].contains(r#""version":"3."#), "{}", versions[0]);
    assert!(versions[1].contains(r#""version":"3.5."#), "{}", versions[1]);
}

#[test]
fn an_etcd_with_users_refuses_strangers_and_remembers_them() {
    let etcd = EtcdServer::builder().users("secret").start();
    etcd.command("/v3/auth/user/add", r#"{"name":"app","password":"word"}"#).expect("root may");
    etcd.restart(); // which forgets every login
    etcd.command("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#).expect("root may");
    let answer = post(&etcd, "/v3/kv/range", r#"{"key":"YQ=="}"#);
    assert!(answer.contains("user name is empty"), "{answer}");
    let answer = post(&etcd, "/v3/auth/authenticate", r#"{"name":"app","password":"word"}"#);
    assert!(answer.contains("token"), "{answer}");
}

fn post(etcd: &EtcdServer, path: &str, json: &str) -> String {
    let mut stream = TcpStream::connect(etcd.address()).unwrap();
    let length = json.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + json).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_quota_is_an_alarm() {
    let etcd = EtcdServer::builder().quota(1 << 20).start();
    // 96 KiB of base64 each, and never the same key.
    let value = "A".repeat(128 * 1024);
    let refused = (0..100).find_map(|n| {
        let put = format!(r#"{{"key":"QUFB{n:04}","value":"{value}"}}"#);
        etcd.command("/v3/kv/put", &put).err()
    });
    assert!(refused.as_ref().is_some_and(|why| why.contains("space")), "{refused:?}");
}

#[test]
fn a_frozen_member_is_silent_and_a_thawed_one_speaks() {
    let etcd = EtcdCluster::start(3);
    let leader = etcd.leader();
    etcd.freeze(leader);
    assert_ne!(etcd.leader(), leader);
    etcd.thaw(leader);
    etcd.kill(leader);
    etcd.wipe();
    assert!(etcd.leader() < etcd.len());
}

#[cfg(feature = "tls")]
mod tls {
    use std::process::{Command, Stdio};

    use super::*;

    /// What openssl's client says of a server, with these certificates, when it sends nothing.
    fn openssl(address: std::net::SocketAddr, arguments: &[&std::path::Path]) -> (bool, String) {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-verify_return_error",
            "-brief",
            "-connect",
            &address.to_string(),
        ]);
        let names = ["-CAfile", "-cert", "-key"];
        for (name, file) in names.iter().zip(arguments) {
            command.arg(name).arg(file);
        }
        let output = command.stdin(Stdio::null()).output().expect("openssl is there");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn a_server_with_tls_shows_a_certificate_of_its_authority() {
        let redis = RedisServer::builder().tls().start();
        let etcd = EtcdServer::builder().tls().start();
        assert!(redis.url().starts_with("rediss://") && etcd.endpoint().starts_with("https://"));
        assert_eq!(redis.command(&["PING"]), Value::Simple("PONG".into()));
        etcd.command("/v3/kv/range", r#"{"key":"YQ=="}"#).expect("it reads");
        for (address, own, other) in [
            (redis.address(), redis.ca_file(), etcd.ca_file()),
            (etcd.address(), etcd.ca_file(), redis.ca_file()),
        ] {
            let (verified, said) = openssl(address, &[&own]);
            assert!(verified, "{said}");
            assert!(!openssl(address, &[&other]).0, "verified by another authority");
        }
    }

    #[test]
    fn clients_must_show_a_certificate_where_that_is_asked_for() {
        let redis = RedisServer::builder().client_certificates().start();
        let etcd = EtcdServer::builder().client_certificates().start();
        etcd.command("/v3/kv/range", r#"{"key":"YQ=="}"#).expect("who drives it needs none");
        let http = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
        for (address, question, ca, certificate, key) in [
            (
                redis.address(),
                "PING\r\n",
                redis.ca_file(),
                redis.certificate_file(),
                redis.key_file(),
            ),
            (etcd.address(), http, etcd.ca_file(), etcd.certificate_file(), etcd.key_file()),
        ] {
            let (welcome, said) = openssl(address, &[&ca, &certificate, &key]);
            assert!(welcome, "{said}");
            // With TLS 1.3 the refusal comes after the handshake, so it is asked for an answer.
            assert!(speaks(address, question, &[&ca, &certificate, &key]));
            assert!(!speaks(address, question, &[&ca]));
        }
    }

    /// Whether it answers.
    fn speaks(address: std::net::SocketAddr, question: &str, files: &[&std::path::Path]) -> bool {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-no_ign_eof", "-connect", &address.to_string()]);
        for (name, file) in ["-CAfile", "-cert", "-key"].iter().zip(files) {
            command.arg(name).arg(file);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is there");
        let mut input = child.stdin.take().unwrap();
        let _ = input.write_all(question.as_bytes()); // an error: refused already
        let mut first = [0];
        let answered = child.stdout.take().unwrap().read(&mut first).unwrap() == 1;
        drop(input);
        let _ = child.kill();
        child.wait().unwrap();
        answered
    }
}
