//! Whoever is in the way is named, and what is wrong is said with what to do.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::Command;

use solocron::lock::{LockBackend, Locks, MarkAfter, Reply};
use solocron::{Error, Kind};
use solocron_socket::SocketBackend;
use solocron_testkit::fleet::{Member, as_child, reply, this_test};

use crate::child::{command, kill, says, start};
use crate::{PATIENCE, Place, attempt, free_port, key, plain, skip, win};

/// What a stranger does with whoever connects.
#[derive(Clone, Copy)]
enum Manners {
    Talks(&'static [u8]),
    HangsUp,
    SaysNothing,
}

fn entertain(mut guest: impl Read + Write, manners: Manners) {
    match manners {
        Manners::Talks(words) => {
            let _ = guest.write_all(words);
            let _ = guest.read(&mut [0; 64]);
        }
        Manners::HangsUp => {}
        Manners::SaysNothing => drop(guest.read(&mut [0; 64])),
    }
}

fn named() -> String {
    format!("process {} (", std::process::id())
}

/// Both what talks, and another version of the protocol.
const STRANGERS: [(Manners, Kind); 5] = [
    (Manners::Talks(b"220 mail.example ESMTP\r\n"), Kind::Misconfigured),
    (Manners::Talks(b"solocron/1 nonsense\n"), Kind::Misconfigured),
    (Manners::Talks(b"solocron/2 namespace=x\n"), Kind::Misconfigured),
    (Manners::HangsUp, Kind::Misconfigured),
    (Manners::SaysNothing, Kind::Unavailable),
];

#[tokio::test]
async fn a_stranger_on_an_abstract_name_is_named_and_never_busy() {
    for (manners, kind) in STRANGERS {
        let place = Place::new();
        let backend = place.open();
        let name = format!("{}/0", backend.address(&key("a")).unwrap().trim_start_matches('@'));
        let squatter =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        std::thread::spawn(move || {
            for guest in squatter.incoming() {
                entertain(guest.unwrap(), manners);
            }
        });
        let error = attempt(&backend, &plain("a")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(&named()) && text.contains("user "), "{text}");
        win(&backend, &plain("b")).await;
    }
}

#[tokio::test]
async fn a_stranger_on_a_port_is_named_and_never_busy() {
    for (manners, kind) in STRANGERS {
        let place = Place::new().on_ports();
        let port = place.ports.as_ref().unwrap().of(&key("a"));
        let stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
        std::thread::spawn(move || {
            for guest in stranger.incoming() {
                entertain(guest.unwrap(), manners);
            }
        });
        let error = attempt(&place.open(), &plain("a")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("port {port}")) && text.contains(&named()), "{text}");
        // A user who waits is told the same, where waiting cannot mend it.
        if kind == Kind::Misconfigured {
            let locks = Locks::new(place.open()).unwrap();
            let told = locks.lock("a", PATIENCE).await.unwrap_err().to_string();
            assert!(told.contains(&named()), "{told}");
        }
    }
}

#[tokio::test]
async fn an_outgoing_connection_on_a_port_is_named() {
    let place = Place::new().on_ports();
    let port = place.ports.as_ref().unwrap().of(&key("a"));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.connect(&server.local_addr().unwrap().into()).unwrap();
    let _outgoing = TcpStream::from(socket);
    let error = attempt(&place.open(), &plain("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let text = error.to_string();
    assert!(text.contains(&named()) && text.contains("outgoing connection"), "{text}");
}

#[test]
fn squats() {
    as_child(|name, mut parent| {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let _squatter = UnixListener::bind_addr(&address).unwrap();
        reply("ready").unwrap();
        parent.next();
    });
}

/// A process of another user, and the program that it runs: a copy that everybody can reach.
fn as_nobody(name: &str, command: &Command) -> io::Result<(Member, tempfile::TempPath)> {
    let copy =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempfile().unwrap();
    fs::copy(command.get_program(), copy.path()).unwrap();
    let path = copy.into_temp_path();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut copied = Command::new(&*path);
    copied.args(command.get_args()).uid(65_534).gid(65_534).current_dir("/");
    for (name, value) in command.get_envs() {
        copied.env(name, value.unwrap());
    }
    Member::start(name, copied).map(|member| (member, path))
}

#[tokio::test]
async fn a_user_whom_a_holder_of_root_turns_away_is_told_so() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can start a process of another user");
    }
    let place = Place::new();
    let _held = win(&place.open(), &plain("a")).await;
    let (mut asker, _program) = match as_nobody("asker", &command(&place, "try", "a")) {
        Ok(asker) => asker,
        Err(error) => return skip(&format!("cannot start a process of another user: {error}")),
    };
    let said = says(&mut asker);
    assert!(said.starts_with("Denied") && said.contains("turned away"), "{said}");
    assert!(said.contains("of user 0") && said.contains("as one user"), "{said}");
}

#[tokio::test]
async fn a_name_squatted_by_another_user_is_an_error_that_names_him() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can start a process of another user");
    }
    let place = Place::new();
    let backend = place.open();
    let name = format!("{}/0", backend.address(&key("a")).unwrap().trim_start_matches('@'));
    let (mut squatter, _program) =
        match as_nobody("squatter", &this_test("bad::squats", &name).unwrap()) {
            Ok(squatter) => squatter,
            Err(error) => return skip(&format!("cannot start a process of another user: {error}")),
        };
    assert_eq!(says(&mut squatter), "ready");
    let error = attempt(&backend, &plain("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let text = error.to_string();
    assert!(text.contains(&format!("process {} (", squatter.pid())), "{text}");
    assert!(text.contains("of user 65534") && text.contains("namespace"), "{text}");
    kill(&mut squatter);
    win(&backend, &plain("a")).await;
}

#[tokio::test]
async fn two_locks_on_one_port_are_an_error_that_names_both() {
    let place = Place::new().on_ports();
    let port = place.ports.as_ref().unwrap().of(&key("a"));
    let other = |name: &str, namespace: &str| {
        SocketBackend::builder(namespace).port(name, port).build().unwrap()
    };
    let told = |error: solocron::BackendError, words: [&str; 2]| {
        assert_eq!(error.kind(), Kind::Misconfigured);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let held = win(&place.open(), &plain("a")).await;
    let error = attempt(&other("b", &place.namespace), &plain("b")).await.unwrap_err();
    told(error, ["\"a\"", "\"b\""]);
    drop(held);
    let mut holder = start(&place, "hold", "a");
    says(&mut holder);
    let error = attempt(&other("b", &place.namespace), &plain("b")).await.unwrap_err();
    told(error, ["\"a\"", "\"b\""]);
    let error = attempt(&other("a", "another"), &plain("a")).await.unwrap_err();
    told(error, [&place.namespace, "another"]);
    // The other way round, one handle that knows of both says so at once.
    let both = SocketBackend::builder("x").port("a", port).port("b", port).build().unwrap_err();
    assert!(both.to_string().contains(&port.to_string()), "{both}");
}

#[test]
fn what_cannot_work_is_refused_when_it_is_built() {
    let port = free_port();
    let refused = |builder: solocron_socket::SocketBuilder| match builder.build() {
        Err(Error::Invalid(invalid)) => (invalid.what(), invalid.to_string()),
        other => panic!("{other:?}"),
    };
    let new = SocketBackend::builder;
    let long = "x".repeat(33);
    for namespace in ["", "a b", "a/b", "ä", &long] {
        assert_eq!(refused(new(namespace)).0, "namespace");
    }
    for (builder, words) in [
        (new("x").port("a", 0), "name one"),
        (new("x").port("a", 50_000).port("b", port), "outgoing"),
        (new("x").port("a", port).port("a", port + 1), "already"),
    ] {
        let (what, text) = refused(builder);
        assert!(what == "port" && text.contains(words), "{text}");
    }
    assert!(new("x").port("", port).build().unwrap_err().to_string().contains("empty"));
    new("x").port("a", 50_000).allow_ephemeral_ports(true).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let told = |path: &std::path::Path, words: &str| {
        let (what, text) = refused(new("x").state_dir(path));
        assert!(what == "state directory" && text.contains(words), "{text}");
    };
    told(&dir.path().join("no/parent"), "parent");
    fs::write(dir.path().join("file"), "").unwrap();
    told(&dir.path().join("file"), "not a directory");
    new("x").state_dir(&state).build().unwrap();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    std::os::unix::fs::symlink(&state, dir.path().join("link")).unwrap();
    told(&dir.path().join("link"), "symbolic link");
    for mode in [0o777, 0o770] {
        fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
        told(&state, "may write");
    }
}

#[tokio::test]
async fn a_lock_without_a_port_is_told_so() {
    let backend = SocketBackend::builder("x").port("a", free_port()).build().unwrap();
    let error = attempt(&backend, &plain("b")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Misconfigured);
    assert!(error.to_string().contains("SocketBuilder::port"), "{error}");
    assert!(backend.watch(&key("b")).await.is_err() && backend.address(&key("b")).is_err());
}

#[tokio::test]
async fn a_corrupt_record_is_an_error_frees_the_address_and_stays_as_it_is() {
    let place = Place::new().with_state();
    let backend = place.open();
    let path = backend.state_path(&key("a")).unwrap();
    for garbage in [vec![1; 8192], b"not a record".to_vec()] {
        fs::write(&path, &garbage).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for _ in 0..2 {
            let error = attempt(&backend, &plain("a")).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.to_string().contains("remove it"), "{error}");
        }
        let error = backend.set_note(&key("a"), 0, b"").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(fs::read(&path).unwrap(), garbage);
    }
    fs::remove_file(&path).unwrap();
    win(&backend, &plain("a")).await;
}

#[tokio::test]
async fn a_state_directory_that_goes_away_is_told_and_frees_the_address() {
    let place = Place::new().with_state();
    let backend = place.open();
    fs::remove_dir_all(place.state_dir().unwrap()).unwrap();
    for _ in 0..2 {
        let error = attempt(&backend, &plain("a")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Misconfigured);
        assert!(error.to_string().contains("is gone"), "{error}");
    }
    let stateless = SocketBackend::new(&*place.namespace).unwrap();
    win(&stateless, &plain("a")).await;
}

/// What a user of another uid learns of a lock by connecting to it: nothing. Ours learn who holds it.
#[tokio::test]
async fn a_person_can_read_who_holds_a_port() {
    let place = Place::new().on_ports();
    let port = place.ports.as_ref().unwrap().of(&key("nightly report"));
    let _held = win(&place.open(), &plain("nightly report")).await;
    let said = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 4096];
        let count = TcpStream::connect(("127.0.0.1", port)).unwrap().read(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    });
    let said = said.await.unwrap();
    assert!(said.starts_with("solocron/1 ") && said.ends_with('\n'), "{said}");
    assert!(said.contains(" key=nightly%20report ") && said.contains(" node=node "), "{said}");
}

/// Both are backends of this process, where no banner is read.
#[tokio::test]
async fn two_locks_of_one_process_on_one_port_are_told_apart_by_namespace_and_directory() {
    let (one, two) = (Place::new().on_ports().with_state(), Place::new().with_state());
    let port = one.ports.as_ref().unwrap().of(&key("a"));
    let held = win(&one.open(), &plain("a")).await;
    let other = SocketBackend::builder("another").port("a", port).build().unwrap();
    let dir = two.state_dir().unwrap();
    let elsewhere =
        SocketBackend::builder(&*one.namespace).port("a", port).state_dir(dir).build().unwrap();
    for (backend, words) in [(other, [&*one.namespace, "another"]), (elsewhere, ["directory"; 2])] {
        for error in [
            attempt(&backend, &plain("a")).await.unwrap_err(),
            backend.revoke(&key("a"), plain("a").nonce, MarkAfter::Undo).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Misconfigured, "{error}");
            assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        }
    }
    drop(held);
}

/// A thousand guests that stay, and none that speaks: the holder is not disturbed, and the lock is free when it is given up.
#[tokio::test]
async fn guests_that_stay_do_not_keep_a_lock() {
    let place = Place::new();
    let backend = place.open();
    let held = win(&backend, &plain("a")).await;
    let name = format!("{}/0", backend.address(&key("a")).unwrap().trim_start_matches('@'));
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let guests = tokio::task::spawn_blocking(move || {
        let connect = |_| std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
        (0..300).map(connect).collect::<Vec<_>>()
    });
    let guests = guests.await.unwrap();
    assert!(matches!(attempt(&backend, &plain("a")).await.unwrap(), Reply::Busy { .. }));
    drop(held);
    win(&backend, &plain("a")).await;
    drop(guests);
}
