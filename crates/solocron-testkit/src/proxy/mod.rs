//! A TCP proxy that makes trouble.

mod answers;
mod connection;
mod relay;

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::relay::{Order, Relay};

/// Which way bytes go through a [`Proxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the clients to the server: requests.
    Up,
    /// From the server to the clients: answers.
    Down,
}

/// A TCP proxy on a free port of the loopback interface, in front of one server. It passes every byte on as it came, until it is
/// told otherwise.
///
/// A fault is in force when the method returns. Only the proxy's own thread touches its sockets, so nothing of a connection that is
/// cut gets through afterwards. Like the network it stands for, it loses bytes only together with their connection: what a
/// [`black_hole`](Self::black_hole) swallowed comes out when it ends, unless the connection was [severed](Self::sever) in between.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
/// use solocron_testkit::server::{Direction, Proxy};
///
/// # fn main() -> std::io::Result<()> {
/// let server = TcpListener::bind("127.0.0.1:0")?;
/// let proxy = Proxy::start(server.local_addr()?);
/// proxy.cut_after(Direction::Down, 3);
///
/// let mut client = TcpStream::connect(proxy.address())?;
/// server.accept()?.0.write_all(b"answer")?;
/// let mut got = String::new();
/// client.read_to_string(&mut got)?;
/// assert_eq!(got, "ans");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: Sender<Order>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy in front of `upstream`, which need not be there yet: as long as it is not, connections are reset.
    ///
    /// # Panics
    ///
    /// If there is no free port, or no thread can be started.
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let (wake, woken) = UnixStream::pair().expect("there are descriptors left");
        let (orders, inbox) = mpsc::channel();
        let mut relay = Relay::new(upstream, woken, inbox);
        let address = relay.address();
        let thread = thread::Builder::new().name(format!("proxy {}", address.port()));
        let thread = thread.spawn(move || relay.run()).expect("the operating system gives threads");
        Self { address, orders, wake, thread: Some(thread) }
    }

    /// Where it listens. Stays the same for its whole life.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections once (RST, both ways), with what they held. Clients may connect again.
    pub fn sever(&self) {
        self.ask(Relay::sever);
    }

    /// `true`: nothing listens here any more, so connecting is refused. Connections that stand are not touched.
    pub fn refuse(&self, refuse: bool) {
        self.ask(move |relay| relay.refuse(refuse));
    }

    /// Bytes that come from now on take this much longer. Their order stays.
    pub fn delay(&self, direction: Direction, by: Duration) {
        self.ask(move |relay| relay.faults.at(direction).delay = by);
    }

    /// `true`: no byte gets through, and no end of a connection. What comes is held, and passed on when this ends: a request may so
    /// arrive long after its client has given up.
    pub fn black_hole(&self, direction: Direction, hole: bool) {
        self.ask(move |relay| relay.faults.at(direction).hole = hole);
    }

    /// Cuts one connection after `bytes` more bytes in this direction: the one on which the next byte comes. The receiver gets
    /// exactly these bytes and then the end of the stream; nothing gets through the other way any more. After 0 bytes: the
    /// connection is cut when there would be a first one.
    ///
    /// Replaces an earlier cut in this direction that has not happened. Is forgotten if that connection ends by itself.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.ask(move |relay| relay.faults.cut_after(direction, bytes));
    }

    /// Passes the next request on, swallows its answer, then cuts the connection: whatever was asked for was done, and nobody hears
    /// of it. An answer is known by its first byte; on HTTP/2, where a server also speaks unasked, by the end of its stream.
    pub fn drop_reply(&self) {
        self.ask(|relay| relay.faults.drop_reply());
    }

    /// Ends all faults: nothing is delayed, held, refused or about to be cut. What was held is passed on.
    pub fn heal(&self) {
        self.ask(Relay::heal);
    }

    /// Leads connections that come from now on to another server, as a failover does.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.ask(move |relay| relay.redirect(upstream));
    }

    /// How many bytes were passed on in this direction, over all connections that ever were.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.ask(move |relay| relay.faults.at(direction).passed)
    }

    /// How many bytes came in this direction and wait here.
    #[must_use]
    pub fn held(&self, direction: Direction) -> usize {
        self.ask(move |relay| relay.held(direction))
    }

    /// How many connections stand.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.ask(|relay| relay.connections())
    }

    /// How many connections were accepted, ever.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.ask(|relay| relay.accepted())
    }

    /// How many connections [`cut_after`](Self::cut_after) and [`drop_reply`](Self::drop_reply) have cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.ask(|relay| relay.faults.cuts)
    }

    /// Lets the proxy's thread do something, and waits for its answer.
    fn ask<T: Send + 'static>(&self, what: impl FnOnce(&mut Relay) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |relay| {
            let _ = answer.send(what(relay));
        });
        self.orders.send(order).expect("the proxy's thread lives as long as the proxy");
        // A full pipe wakes as well as one more byte.
        let _ = (&self.wake).write(&[0]);
        answered.recv().expect("the proxy's thread lives as long as the proxy")
    }
}

impl Drop for Proxy {
    /// Resets what stands.
    fn drop(&mut self) {
        let stop: Order = Box::new(Relay::stop);
        let _ = self.orders.send(stop);
        let _ = (&self.wake).write(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic of it has been printed, and was seen by whoever asked
        }
    }
}
