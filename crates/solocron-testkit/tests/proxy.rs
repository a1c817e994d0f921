//! The proxy's faults do what they say, to the byte.
#![cfg(target_os = "linux")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use solocron_testkit::server::Direction::{Down, Up};
use solocron_testkit::server::{Proxy, RedisServer, Value};

const SOON: Duration = Duration::from_secs(20);

/// A server that a test speaks for, and a proxy in front of it.
struct Line {
    server: TcpListener,
    proxy: Proxy,
}

impl Line {
    fn new() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap());
        Self { server, proxy }
    }

    /// Both ends of a connection through the proxy.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.address()).unwrap();
        let (server, _) = self.server.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        (client, server)
    }
}

/// Exactly these bytes come next.
fn gets(mut stream: &TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

/// Everything until the stream ends in good order.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    got
}

fn is_reset(mut stream: &TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Nothing comes, for a moment.
fn is_silent(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_read_timeout(Some(SOON)).unwrap();
    read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_byte_passes_both_ways_and_is_counted() {
    let line = Line::new();
    let (mut client, mut server) = line.connect();
    // More than any buffer on the way holds, of a length that no buffer has.
    let bulk: Vec<u8> =
        (0..5_000_011_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&bulk).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        assert!(rest(&server) == bulk, "not what was sent");
    });
    // Half of it is closed; the other half still works.
    server.write_all(b"answer").unwrap();
    gets(&client, b"answer");
    assert_eq!((line.proxy.bytes(Up), line.proxy.bytes(Down)), (bulk.len() as u64, 6));
    drop(server);
    assert_eq!(rest(&client), b"");
    until("an end", || line.proxy.connections() == 0);
    assert_eq!(line.proxy.accepted(), 1);
}

#[test]
fn severed_connections_are_reset_on_both_sides_and_new_ones_work() {
    let line = Line::new();
    let pairs = [line.connect(), line.connect()];
    assert_eq!(line.proxy.connections(), 2);
    line.proxy.sever();
    for (client, server) in &pairs {
        assert!(is_reset(client) && is_reset(server));
    }
    let (client, mut server) = line.connect();
    server.write_all(b"again").unwrap();
    gets(&client, b"again");
}

#[test]
fn a_refusal_touches_new_connections_only() {
    let line = Line::new();
    let (client, mut server) = line.connect();
    for _ in 0..3 {
        line.proxy.refuse(true);
        let refused = TcpStream::connect(line.proxy.address()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        server.write_all(b"x").unwrap();
        gets(&client, b"x");
        line.proxy.refuse(false);
        drop(line.connect());
    }
}

#[test]
fn a_dead_server_is_a_reset() {
    let line = Line::new();
    drop(line.server);
    let client = TcpStream::connect(line.proxy.address()).unwrap();
    assert!(is_reset(&client));
}

#[test]
fn a_delay_is_in_one_direction_and_keeps_the_order() {
    const LATE: Duration = Duration::from_millis(80);
    let line = Line::new();
    let (mut client, mut server) = line.connect();
    line.proxy.delay(Down, LATE);
    let begun = Instant::now();
    client.write_all(b"request").unwrap();
    gets(&server, b"request");
    server.write_all(b"slow, ").unwrap();
    until("bytes on their way", || line.proxy.held(Down) > 0);
    line.proxy.delay(Down, Duration::ZERO);
    server.write_all(b"then quick").unwrap();
    gets(&client, b"slow, then quick");
    assert!(begun.elapsed() >= LATE);
}

#[test]
fn a_black_hole_holds_what_comes_and_gives_it_back() {
    for direction in [Up, Down] {
        let line = Line::new();
        let (client, server) = line.connect();
        let (mut from, to) = if direction == Up { (&client, &server) } else { (&server, &client) };
        line.proxy.black_hole(direction, true);
        from.write_all(b"late").unwrap();
        until("held bytes", || line.proxy.held(direction) == 4);
        assert!(is_silent(to));
        // The other direction is open.
        let (mut back, there) = (to, from);
        back.write_all(b"back").unwrap();
        gets(there, b"back");
        // Neither does the end of the connection get through.
        from.shutdown(Shutdown::Write).unwrap();
        assert!(is_silent(to));
        assert_eq!(line.proxy.bytes(direction), 0);
        line.proxy.black_hole(direction, false);
        assert_eq!(rest(to), b"late");
        assert_eq!((line.proxy.held(direction), line.proxy.bytes(direction)), (0, 4));
    }
}

#[test]
fn what_a_severed_connection_held_is_lost() {
    let line = Line::new();
    let (mut client, server) = line.connect();
    line.proxy.black_hole(Up, true);
    client.write_all(b"lost").unwrap();
    until("held bytes", || line.proxy.held(Up) == 4);
    line.proxy.sever();
    line.proxy.heal();
    assert!(is_reset(&server));
    assert_eq!((line.proxy.held(Up), line.proxy.bytes(Up)), (0, 0));
}

#[test]
fn a_cut_comes_after_exactly_so_many_bytes() {
    let answer = b"0123456789";
    for direction in [Up, Down] {
        for bytes in 0..=answer.len() {
            // Whole, and byte by byte.
            for size in [answer.len(), 1] {
                let line = Line::new();
                let (client, server) = line.connect();
                let (mut from, to) =
                    if direction == Up { (&client, &server) } else { (&server, &client) };
                line.proxy.cut_after(direction, bytes as u64);
                for piece in answer.chunks(size) {
                    // An error: it is cut already.
                    if from.write_all(piece).is_err() {
                        break;
                    }
                }
                assert_eq!(rest(to), answer[..bytes]);
                until("the cut", || line.proxy.cuts() == 1);
                assert_eq!(line.proxy.bytes(direction), bytes as u64);
                // The sender's side is over as well, and the next connection is whole.
                until("the other end", || !matches!((&*from).read(&mut [0]), Ok(1..)));
                let (client, mut server) = line.connect();
                server.write_all(answer).unwrap();
                gets(&client, answer);
            }
        }
    }
}

#[test]
fn a_cut_counts_on_the_connection_that_has_the_next_byte() {
    let line = Line::new();
    let (idle, (client, mut server)) = (line.connect(), line.connect());
    line.proxy.cut_after(Down, 2);
    server.write_all(b"1").unwrap();
    gets(&client, b"1");
    let mut other = &idle.1;
    other.write_all(b"not counted").unwrap();
    gets(&idle.0, b"not counted");
    server.write_all(b"23").unwrap();
    assert_eq!(rest(&client), b"2");
    other.write_all(b"alive").unwrap();
    gets(&idle.0, b"alive");
}

#[test]
fn a_cut_is_forgotten_with_its_connection_or_by_healing() {
    let line = Line::new();
    line.proxy.cut_after(Down, 5);
    let (client, mut server) = line.connect();
    server.write_all(b"123").unwrap();
    gets(&client, b"123");
    drop((client, server));
    until("an end", || line.proxy.connections() == 0);
    let (client, mut server) = line.connect();
    server.write_all(b"123456").unwrap();
    gets(&client, b"123456");

    line.proxy.cut_after(Down, 0);
    line.proxy.heal();
    server.write_all(b"7").unwrap();
    gets(&client, b"7");
    assert_eq!(line.proxy.cuts(), 0);
}

#[test]
fn a_dropped_reply_was_asked_for_and_never_heard() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.address());
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.write_all(b"INCR a\r\n").unwrap();
    gets(&client, b":1\r\n");
    proxy.drop_reply();
    client.write_all(b"INCR a\r\n").unwrap();
    assert_eq!(rest(&client), b"");
    assert_eq!(redis.command(&["GET", "a"]), Value::Bulk(b"2".into()));
    assert_eq!((proxy.bytes(Up), proxy.bytes(Down), proxy.cuts()), (16, 4, 1));
}

#[test]
fn a_frozen_server_hears_what_was_sent_when_it_thaws() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.address());
    redis.freeze();
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.write_all(b"SET a 1\r\n").unwrap();
    assert!(is_silent(&client));
    drop(client);
    redis.thaw();
    until("a late command", || redis.command(&["GET", "a"]) == Value::Bulk(b"1".into()));
}

#[test]
fn new_connections_follow_a_redirection() {
    let (line, other) = (Line::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (client, mut server) = line.connect();
    line.proxy.redirect(other.local_addr().unwrap());
    server.write_all(b"as before").unwrap();
    gets(&client, b"as before");
    let client = TcpStream::connect(line.proxy.address()).unwrap();
    other.accept().unwrap().0.write_all(b"elsewhere").unwrap();
    gets(&client, b"elsewhere");
}

#[test]
fn dropping_a_proxy_resets_its_connections_and_frees_its_port() {
    let line = Line::new();
    let (client, server) = line.connect();
    let address = line.proxy.address();
    drop(line.proxy);
    assert!(is_reset(&client) && is_reset(&server));
    assert!(TcpStream::connect(address).is_err());
}
