//! One connection through the proxy: two sockets, and what is on its way between them.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use nix::libc::linger;
use nix::poll::PollFlags;
use nix::sys::socket::{setsockopt, sockopt};

use super::Direction;
use super::answers::Answers;
use super::relay::{Faults, Pass};

/// How much may wait in one direction before its sender has to.
const MOST_HELD: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    client: TcpStream,
    server: TcpStream,
    up: Way,
    down: Way,
    answers: Answers,
}

/// What is on its way in one direction.
#[derive(Debug, Default)]
struct Way {
    queue: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    /// The sender has ended.
    end: Option<End>,
    /// And the receiver has been told so.
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Stands,
    /// Over, and to be dropped: each side hears the end of its stream.
    Over,
    /// Over, and to be [reset](Connection::reset).
    Broken,
}

impl Connection {
    pub(super) fn new(id: u64, client: TcpStream, server: TcpStream) -> io::Result<Self> {
        for stream in [&client, &server] {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
        }
        Ok(Self {
            id,
            client,
            server,
            up: Way::default(),
            down: Way::default(),
            answers: Answers::default(),
        })
    }

    pub(super) fn held(&self, direction: Direction) -> usize {
        match direction {
            Direction::Up => self.up.held,
            Direction::Down => self.down.held,
        }
    }

    /// The two sockets, and what to wait for on each. Nothing to wait for: not to be polled, since an error would end every poll.
    pub(super) fn interests(&self, faults: &Faults, now: Instant) -> [(&TcpStream, PollFlags); 2] {
        let side = |outgoing: &Way, incoming: &Way, direction: Direction| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, outgoing.takes());
            flags.set(PollFlags::POLLOUT, incoming.is_due(faults.hole(direction), now));
            flags
        };
        [
            (&self.client, side(&self.up, &self.down, Direction::Down)),
            (&self.server, side(&self.down, &self.up, Direction::Up)),
        ]
    }

    /// When something that is delayed can go on.
    pub(super) fn next_due(&self, faults: &Faults) -> Option<Instant> {
        [(&self.up, Direction::Up), (&self.down, Direction::Down)]
            .into_iter()
            .filter(|(_, direction)| !faults.hole(*direction))
            .filter_map(|(way, _)| way.queue.front().map(|(due, _)| *due))
            .min()
    }

    /// Reads what has come and passes on what is due.
    pub(super) fn serve(
        &mut self,
        faults: &mut Faults,
        readable: [bool; 2],
        now: Instant,
    ) -> State {
        for (way, from, direction, readable) in [
            (&mut self.up, &self.client, Direction::Up, readable[0]),
            (&mut self.down, &self.server, Direction::Down, readable[1]),
        ] {
            if readable && way.takes() {
                way.read(from, now + faults.at(direction).delay);
            }
        }
        for direction in [Direction::Up, Direction::Down] {
            match self.pass_on(faults, direction, now) {
                State::Stands => {}
                over => return over,
            }
        }
        if self.up.ended && self.down.ended { State::Over } else { State::Stands }
    }

    fn pass_on(&mut self, faults: &mut Faults, direction: Direction, now: Instant) -> State {
        let (way, mut to) = match direction {
            Direction::Up => (&mut self.up, &self.server),
            Direction::Down => (&mut self.down, &self.client),
        };
        if faults.hole(direction) {
            return State::Stands;
        }
        while let Some((due, bytes)) = way.queue.front_mut() {
            if *due > now {
                return State::Stands;
            }
            let allowed = match faults.pass(self.id, direction) {
                Pass::All => bytes.len(),
                Pass::Only(left) => {
                    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
                }
                Pass::Swallow => {
                    let answered = self.answers.answered(bytes);
                    way.held -= bytes.len();
                    way.queue.pop_front();
                    if answered {
                        faults.swallowed();
                        return State::Over;
                    }
                    continue;
                }
            };
            let written = if allowed == 0 { Ok(0) } else { to.write(&bytes[..allowed]) };
            match written {
                Ok(written) => {
                    match direction {
                        Direction::Up => self.answers.asked(&bytes[..written]),
                        Direction::Down => {
                            self.answers.answered(&bytes[..written]);
                        }
                    }
                    way.held -= written;
                    bytes.drain(..written);
                    if bytes.is_empty() {
                        way.queue.pop_front();
                    }
                    if faults.passed(self.id, direction, written) {
                        let _ = to.shutdown(Shutdown::Write); // an error: it is gone already
                        return State::Over;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return State::Stands,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return State::Broken, // the receiver is gone
            }
        }
        match way.end {
            Some(End::Reset) => State::Broken,
            Some(End::Fin) if !way.ended => {
                way.ended = true;
                let _ = to.shutdown(Shutdown::Write); // an error: it is gone already
                State::Stands
            }
            _ => State::Stands,
        }
    }

    /// Ends it so that both sides hear of a reset, and of nothing before it.
    pub(super) fn reset(self) {
        reset(&self.client);
        reset(&self.server);
    }
}

/// Makes closing the socket a reset: socket(7), SO_LINGER with a time of zero.
pub(super) fn reset(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }); // an error: it is gone
}

impl Way {
    /// Whether more may be read.
    fn takes(&self) -> bool {
        self.end.is_none() && self.held < MOST_HELD
    }

    /// Whether there is something to write.
    fn is_due(&self, hole: bool, now: Instant) -> bool {
        !hole && self.queue.front().is_some_and(|(due, _)| *due <= now)
    }

    fn read(&mut self, mut from: &TcpStream, due: Instant) {
        let mut buffer = [0; 16 * 1024];
        match from.read(&mut buffer) {
            Ok(0) => self.end = Some(End::Fin),
            Ok(read) => {
                self.held += read;
                self.queue.push_back((due, buffer[..read].to_vec()));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.end = Some(End::Reset),
        }
    }
}
