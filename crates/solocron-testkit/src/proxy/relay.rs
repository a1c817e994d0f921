//! The proxy's thread: it owns every socket and every fault.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Direction;
use super::connection::{Connection, State, reset};
use crate::server::Port;

/// Something for the thread to do.
pub(super) type Order = Box<dyn FnOnce(&mut Relay) + Send>;

/// What is wrong with the network.
#[derive(Debug, Default)]
pub(super) struct Faults {
    up: Fault,
    down: Fault,
    /// The connection whose answer is to be swallowed; none yet while its request has not come.
    swallow: Option<Option<u64>>,
    pub(super) cuts: u64,
}

/// What is wrong in one direction, and what went through it.
#[derive(Debug, Default)]
pub(super) struct Fault {
    pub(super) delay: Duration,
    pub(super) hole: bool,
    cut: Option<Cut>,
    pub(super) passed: u64,
}

#[derive(Debug)]
struct Cut {
    left: u64,
    on: Option<u64>,
}

/// What may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    All,
    Only(u64),
    Swallow,
}

impl Faults {
    pub(super) fn at(&mut self, direction: Direction) -> &mut Fault {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    pub(super) fn hole(&self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.up.hole,
            Direction::Down => self.down.hole,
        }
    }

    pub(super) fn cut_after(&mut self, direction: Direction, left: u64) {
        self.at(direction).cut = Some(Cut { left, on: None });
    }

    pub(super) fn drop_reply(&mut self) {
        self.swallow = Some(None);
    }

    /// What may go through now on this connection, which has something to pass on.
    pub(super) fn pass(&mut self, id: u64, direction: Direction) -> Pass {
        match (direction, &mut self.swallow) {
            (Direction::Up, Some(on @ None)) => *on = Some(id),
            (Direction::Down, Some(Some(on))) if *on == id => return Pass::Swallow,
            _ => {}
        }
        let Some(cut) = &mut self.at(direction).cut else { return Pass::All };
        if *cut.on.get_or_insert(id) == id { Pass::Only(cut.left) } else { Pass::All }
    }

    /// Counts what went through. `true`: this was the last of it, and the connection is to be cut.
    pub(super) fn passed(&mut self, id: u64, direction: Direction, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let fault = self.at(direction);
        fault.passed += bytes;
        let Some(cut) = fault.cut.as_mut().filter(|cut| cut.on == Some(id)) else { return false };
        cut.left -= bytes;
        if cut.left > 0 {
            return false;
        }
        fault.cut = None;
        self.cuts += 1;
        true
    }

    /// The answer that was to be swallowed is.
    pub(super) fn swallowed(&mut self) {
        self.swallow = None;
        self.cuts += 1;
    }

    /// The connection is over: what was meant for it is no more.
    fn forget(&mut self, id: u64) {
        for fault in [&mut self.up, &mut self.down] {
            if fault.cut.as_ref().is_some_and(|cut| cut.on == Some(id)) {
                fault.cut = None;
            }
        }
        if self.swallow == Some(Some(id)) {
            self.swallow = None;
        }
    }
}

#[derive(Debug)]
pub(super) struct Relay {
    listener: Option<TcpListener>,
    port: Port,
    upstream: SocketAddr,
    connections: Vec<Connection>,
    accepted: u64,
    pub(super) faults: Faults,
    woken: UnixStream,
    orders: Receiver<Order>,
    stopped: bool,
}

impl Relay {
    pub(super) fn new(upstream: SocketAddr, woken: UnixStream, orders: Receiver<Order>) -> Self {
        woken.set_nonblocking(true).expect("a socket can be made so");
        let (port, listener) = loop {
            let port = Port::claim();
            if let Ok(listener) = listen(&port) {
                break (port, Some(listener));
            }
        };
        let (connections, accepted, faults) = (Vec::new(), 0, Faults::default());
        Self {
            listener,
            port,
            upstream,
            connections,
            accepted,
            faults,
            woken,
            orders,
            stopped: false,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn run(&mut self) {
        while !self.stopped {
            let (accept, readable) = self.wait();
            self.obey();
            if accept {
                self.accept();
            }
            self.serve(&readable);
        }
        self.sever();
    }

    /// Waits until something can be done. Answers with whether somebody connects, and with which sides of which connections can be
    /// read.
    fn wait(&self) -> (bool, Vec<(u64, [bool; 2])>) {
        let now = Instant::now();
        let mut fds = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.listener.as_ref().map(|at| PollFd::new(at.as_fd(), PollFlags::POLLIN)));
        let mut owners = Vec::new();
        for connection in &self.connections {
            for (side, (stream, flags)) in
                connection.interests(&self.faults, now).into_iter().enumerate()
            {
                if !flags.is_empty() {
                    owners.push((connection.id, side, fds.len()));
                    fds.push(PollFd::new(stream.as_fd(), flags));
                }
            }
        }
        let due = self.connections.iter().filter_map(|it| it.next_due(&self.faults)).min();
        // Rounded up, so that what is due is due when this wakes.
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            let wait = due.saturating_duration_since(now) + Duration::from_micros(999);
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("a proxy cannot poll: {error}"),
        }
        let ready = |at: usize| fds[at].revents().is_some_and(|flags| !flags.is_empty());
        let mut readable: Vec<(u64, [bool; 2])> = Vec::new();
        for (id, side, at) in owners {
            if readable.last().is_none_or(|(last, _)| *last != id) {
                readable.push((id, [false; 2]));
            }
            if let Some((_, sides)) = readable.last_mut() {
                sides[side] = ready(at);
            }
        }
        (self.listener.is_some() && ready(1), readable)
    }

    fn obey(&mut self) {
        let mut buffer = [0; 64];
        while matches!((&self.woken).read(&mut buffer), Ok(read) if read == buffer.len()) {}
        while let Ok(order) = self.orders.try_recv() {
            order(self);
        }
    }

    fn accept(&mut self) {
        while let Some(Ok((client, _))) = self.listener.as_ref().map(TcpListener::accept) {
            self.accepted += 1;
            match TcpStream::connect_timeout(&self.upstream, Duration::from_secs(1)) {
                Ok(server) => {
                    let connection = Connection::new(self.accepted, client, server);
                    self.connections.push(connection.expect("sockets can be made so"));
                }
                Err(_) => reset(&client),
            }
        }
    }

    fn serve(&mut self, readable: &[(u64, [bool; 2])]) {
        let now = Instant::now();
        for mut connection in std::mem::take(&mut self.connections) {
            let id = connection.id;
            let sides =
                readable.iter().find(|(of, _)| *of == id).map_or([false; 2], |(_, sides)| *sides);
            match connection.serve(&mut self.faults, sides, now) {
                State::Stands => self.connections.push(connection),
                State::Over => self.faults.forget(id),
                State::Broken => {
                    self.faults.forget(id);
                    connection.reset();
                }
            }
        }
    }

    pub(super) fn sever(&mut self) {
        self.accept(); // who is connected but not accepted yet is connected
        for connection in self.connections.drain(..) {
            self.faults.forget(connection.id);
            connection.reset();
        }
    }

    pub(super) fn refuse(&mut self, refuse: bool) {
        if refuse {
            self.accept();
            self.listener = None;
        } else if self.listener.is_none() {
            // The port is ours; but a connection may have it from before we had.
            let deadline = Instant::now() + Duration::from_secs(5);
            self.listener = Some(loop {
                match listen(&self.port) {
                    Ok(listener) => break listener,
                    Err(error) if Instant::now() > deadline => {
                        panic!("a proxy cannot listen again: {error}")
                    }
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            });
        }
    }

    pub(super) fn heal(&mut self) {
        for fault in [&mut self.faults.up, &mut self.faults.down] {
            (fault.delay, fault.hole, fault.cut) = (Duration::ZERO, false, None);
        }
        self.faults.swallow = None;
        self.refuse(false);
    }

    pub(super) fn redirect(&mut self, upstream: SocketAddr) {
        self.accept();
        self.upstream = upstream;
    }

    pub(super) fn held(&self, direction: Direction) -> usize {
        self.connections.iter().map(|connection| connection.held(direction)).sum()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }
}

fn listen(port: &Port) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(port.address())?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
