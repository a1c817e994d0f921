//! A fleet of real processes, for tests that kill them. Linux only.
//!
//! The harness starts each [`Member`] with pipes for its input and output and talks to it in lines:
//! commands down, replies up. It stops, continues and kills by process id, and only ids of children
//! it has not reaped yet, so no signal ever meets a stranger. Dropping a member kills it. When the
//! harness itself is killed, its end of the pipe closes, and a member that listens exits by itself.
//!
//! Not promised: a stopped member whose harness is killed sees its input close only when somebody
//! continues it, and nobody looks after what a member starts in its turn.
//!
//! A program that starts copies of itself:
//!
//! ```no_run
//! use std::time::Duration;
//! use solocron_testkit::fleet::{self, Fleet};
//!
//! fn main() -> std::io::Result<()> {
//!     fleet::as_child(|role, parent| {
//!         fleet::reply(format_args!("ready {role}")).expect("the parent listens");
//!         for command in parent {
//!             fleet::reply(format_args!("did {command}")).expect("the parent listens");
//!         }
//!     });
//!     let mut fleet = Fleet::new();
//!     fleet.start("a", fleet::this_program("node")?)?;
//!     fleet["a"].expect("ready", Duration::from_secs(10))?;
//!     fleet["a"].send("work")?;
//!     fleet["a"].kill()
//! }
//! ```
//!
//! A test does the same with [`this_test`]. A child that runs on tokio calls [`role`] and [`hear`]
//! instead of [`as_child`].

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::{Index, IndexMut};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{self, Id, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// The exit code of a child whose parent is gone.
pub const ORPHANED: i32 = 86;

/// Tells a child which part to play.
const ROLE: &str = "SOLOCRON_FLEET_ROLE";
/// Set for a child inside libtest, whose output begins with lines that are not ours.
const SAYS_HELLO: &str = "SOLOCRON_FLEET_HELLO";
const HELLO: &str = "=== solocron fleet ===";

/// Members by name. Dropping it kills them all.
#[derive(Debug, Default)]
pub struct Fleet {
    members: BTreeMap<String, Member>,
}

impl Fleet {
    /// A fleet without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a member. A member of the same name is killed first, so that a name has one process
    /// at a time.
    ///
    /// # Errors
    ///
    /// Those of [`Member::start`].
    pub fn start(&mut self, name: impl Into<String>, command: Command) -> io::Result<&mut Member> {
        let name = name.into();
        drop(self.members.remove(&name));
        let member = Member::start(&name, command)?;
        Ok(self.members.entry(name).or_insert(member))
    }

    /// All members, by name.
    pub fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.values_mut()
    }

    /// Tells every member to end, then waits for each at most `timeout`. Members that are stopped
    /// stay so, and time out.
    ///
    /// # Errors
    ///
    /// The first one of [`Member::wait`]; the rest of the members is still there.
    pub fn shut_down(&mut self, timeout: Duration) -> io::Result<BTreeMap<String, ExitStatus>> {
        for member in self.members().filter(|member| member.status.is_none()) {
            member.terminate()?;
        }
        self.members
            .iter_mut()
            .map(|(name, member)| Ok((name.clone(), member.wait(timeout)?)))
            .collect()
    }
}

/// # Panics
///
/// If there is no member of this name.
impl Index<&str> for Fleet {
    type Output = Member;

    fn index(&self, name: &str) -> &Member {
        self.members.get(name).unwrap_or_else(|| panic!("the fleet has no member `{name}`"))
    }
}

/// # Panics
///
/// If there is no member of this name.
impl IndexMut<&str> for Fleet {
    fn index_mut(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).unwrap_or_else(|| panic!("the fleet has no member `{name}`"))
    }
}

/// One child process. Dropping it kills and reaps it, whatever state it is in.
#[derive(Debug)]
pub struct Member {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    last_said: Option<String>,
    exited: Receiver<()>,
    watch: Option<JoinHandle<()>>,
    /// Known once it was reaped; from then on its id belongs to nobody.
    status: Option<ExitStatus>,
}

impl Member {
    /// Starts a process with pipes for input and output. Its stderr is what `command` says: this
    /// process's own, if nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Command::spawn`] and of starting threads.
    pub fn start(name: impl Into<String>, mut command: Command) -> io::Result<Self> {
        let name = name.into();
        let says_hello =
            command.get_envs().any(|(key, value)| key == SAYS_HELLO && value.is_some());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| {
                io::Error::new(error.kind(), format!("failed to start member `{name}`: {error}"))
            })?;
        let input = child.stdin.take();
        let stdout = child.stdout.take().expect("it was piped above");
        let pid = pid_of(&child);

        let (said, output) = mpsc::channel();
        let (exits, exited) = mpsc::channel();
        // Made before the threads: if one cannot be started, dropping the member reaps the child.
        let mut member =
            Self { name, child, input, output, last_said: None, exited, watch: None, status: None };
        thread::Builder::new().name(format!("hear {pid}")).spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let mut greeted = !says_hello;
            for line in lines {
                if greeted {
                    if said.send(line).is_err() {
                        break;
                    }
                } else {
                    greeted = line == HELLO;
                }
            }
        })?;
        member.watch =
            Some(thread::Builder::new().name(format!("watch {pid}")).spawn(move || {
                // Only looks: the exit status stays with the kernel, and the id stays taken, until
                // the member reaps it.
                let _ = wait_for(pid, WaitPidFlag::WEXITED);
                let _ = exits.send(());
            })?);
        Ok(member)
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id. Belongs to nobody once [`wait`](Self::wait) has returned a status.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes one line to its input. A stopped member reads it when it goes on.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::BrokenPipe`] if it is dead, or after [`hang_up`](Self::hang_up).
    pub fn send(&mut self, line: impl Display) -> io::Result<()> {
        let text = format!("{line}\n");
        let sent = match &mut self.input {
            Some(input) => input.write_all(text.as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(|error| {
            self.failed(error.kind(), format_args!("failed to send `{line}`: {error}"))
        })
    }

    /// The next line of its output; waits for it at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`], or [`io::ErrorKind::UnexpectedEof`] if its output is closed and
    /// all lines were taken.
    pub fn recv(&mut self, timeout: Duration) -> io::Result<String> {
        self.next_line(Instant::now() + timeout, format_args!("waited {timeout:?} for a line"))
    }

    /// Takes lines until one begins with `prefix`, and returns the rest of that one without the
    /// space before it. Waits at most `timeout` for all of this. The lines before it are gone.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    pub fn expect(&mut self, prefix: &str, timeout: Duration) -> io::Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let what = format_args!("waited {timeout:?} for a line that begins with `{prefix}`");
            if let Some(rest) = self.next_line(deadline, what)?.strip_prefix(prefix) {
                return Ok(rest.trim_start().to_owned());
            }
        }
    }

    /// Stops it (SIGSTOP). After `Ok` the kernel has stopped all its threads: it does nothing until
    /// [`cont`](Self::cont).
    ///
    /// # Errors
    ///
    /// Those of [`kill`](Self::kill); [`io::ErrorKind::BrokenPipe`] if it exits before it can be
    /// stopped.
    pub fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        match wait_for(pid_of(&self.child), WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED)? {
            WaitStatus::Stopped(..) => Ok(()),
            other => Err(self.failed(
                io::ErrorKind::BrokenPipe,
                format_args!("wanted to stop it, but: {other:?}"),
            )),
        }
    }

    /// Lets it go on after [`stop`](Self::stop) (SIGCONT). No effect on a running member.
    ///
    /// # Errors
    ///
    /// Those of [`kill`](Self::kill).
    pub fn cont(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it (SIGKILL), stopped or not. [`wait`](Self::wait) says when it is dead.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it was already reaped.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGKILL)
    }

    /// Asks it to end (SIGTERM). A stopped member hears of it when it goes on.
    ///
    /// # Errors
    ///
    /// Those of [`kill`](Self::kill).
    pub fn terminate(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Closes its input, as the death of this process would. A member that listens exits with
    /// [`ORPHANED`].
    pub fn hang_up(&mut self) {
        self.input = None;
    }

    /// Waits until it is dead, at most `timeout`, and reaps it. Returns the same status again when
    /// called again.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`].
    pub fn wait(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        if self.exited.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            return Err(self
                .failed(io::ErrorKind::TimedOut, format_args!("waited {timeout:?} for its exit")));
        }
        self.reap()
    }

    /// Whether the kernel says that it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state() == Some('T')
    }

    /// Whether it has not died yet.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.state(), None | Some('Z' | 'X'))
    }

    /// The letter of its state in `/proc`.
    fn state(&self) -> Option<char> {
        if self.status.is_some() {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        // The second word is the program's name in parentheses, and may hold anything.
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn next_line(&mut self, deadline: Instant, what: fmt::Arguments<'_>) -> io::Result<String> {
        match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.last_said = Some(line.clone());
                Ok(line)
            }
            Err(RecvTimeoutError::Timeout) => Err(self.failed(io::ErrorKind::TimedOut, what)),
            Err(RecvTimeoutError::Disconnected) => Err(self.failed(
                io::ErrorKind::UnexpectedEof,
                format_args!("{what}, but its output is closed"),
            )),
        }
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if let Some(status) = self.status {
            let what = format_args!("wanted to send {signal}, but it is gone: {status}");
            return Err(self.failed(io::ErrorKind::NotFound, what));
        }
        signal::kill(pid_of(&self.child), signal)?;
        Ok(())
    }

    /// Takes the exit status from the kernel; blocks until there is one.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        if let Some(watch) = self.watch.take() {
            let _ = watch.join(); // it must not look at an id that is free
        }
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    fn failed(&self, kind: io::ErrorKind, what: fmt::Arguments<'_>) -> io::Error {
        let last = match &self.last_said {
            Some(line) => format!("it last said `{line}`"),
            None => "it had said nothing".to_owned(),
        };
        io::Error::new(kind, format!("member `{}` (pid {}): {what}; {last}", self.name, self.pid()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.status.is_none() {
            // SIGKILL needs no SIGCONT: it also ends a stopped process.
            let _ = self.kill();
            let _ = self.reap();
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("the kernel's ids fit"))
}

/// Waits for a change of a child without taking it from the kernel.
fn wait_for(pid: Pid, changes: WaitPidFlag) -> nix::Result<WaitStatus> {
    loop {
        match wait::waitid(Id::Pid(pid), changes | WaitPidFlag::WNOWAIT) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// A command that starts the running program again, without arguments, as a child with this role.
///
/// # Errors
///
/// Those of [`env::current_exe`].
pub fn this_program(role: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.env(ROLE, role).env_remove(SAYS_HELLO);
    Ok(command)
}

/// A command that starts the running test binary again, as a child with this role. It runs only the
/// test named `entry` (its path inside the binary), which does nothing but call [`as_child`].
///
/// # Errors
///
/// Those of [`env::current_exe`].
pub fn this_test(entry: &str, role: &str) -> io::Result<Command> {
    let mut command = this_program(role)?;
    // Two threads: with one, libtest writes the test's name without a line's end before it runs.
    command
        .args([entry, "--exact", "--include-ignored", "--nocapture", "--test-threads=2"])
        .env(SAYS_HELLO, "1");
    Ok(command)
}

/// The role of this process, if it was started as a child.
#[must_use]
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// In a child, plays its role and exits with 0 when that returns. Returns at once where there is no
/// role.
///
/// # Panics
///
/// If `play` panics; the process then ends as its `main` or its test harness has it.
pub fn as_child(play: impl FnOnce(&str, Parent)) {
    if let Some(role) = role() {
        play(&role, parent());
        process::exit(0);
    }
}

/// Hears the parent from now on. Call it, or [`hear`], once in a child.
#[must_use]
pub fn parent() -> Parent {
    let (heard, commands) = mpsc::channel();
    hear(move |command| {
        let _ = heard.send(command); // a child may stop to listen
    });
    Parent { commands }
}

/// The parent, as its child hears it: an iterator of its commands, one a line. It waits for the
/// next one and never ends, since the process exits when the parent is gone.
#[derive(Debug)]
pub struct Parent {
    commands: Receiver<String>,
}

impl Iterator for Parent {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.commands.recv().ok()
    }
}

/// Calls `on_command` with each line of the parent, on a thread of its own, and exits the process
/// with [`ORPHANED`] when the parent is gone. A panic of `on_command` ends the process too. Needs
/// no runtime: in a tokio program, let it send into a tokio channel.
///
/// # Panics
///
/// If no thread can be started.
pub fn hear(mut on_command: impl FnMut(String) + Send + 'static) {
    if env::var_os(SAYS_HELLO).is_some() && reply(HELLO).is_err() {
        process::exit(ORPHANED);
    }
    let listen = move || {
        let _exit = ExitAtEnd;
        io::stdin().lines().map_while(Result::ok).for_each(&mut on_command);
    };
    thread::Builder::new()
        .name("hear the parent".to_owned())
        .spawn(listen)
        .expect("a child can start one thread");
}

/// Ends the process with the thread that hears the parent, however that ends: nobody else would
/// notice that the parent is gone.
struct ExitAtEnd;

impl Drop for ExitAtEnd {
    fn drop(&mut self) {
        const PANICKED: i32 = 101; // what Rust's own runtime says
        process::exit(if thread::panicking() { PANICKED } else { ORPHANED });
    }
}

/// Exits the process with [`ORPHANED`] when the parent is gone, and ignores its commands.
///
/// # Panics
///
/// If no thread can be started.
pub fn exit_when_parent_dies() {
    hear(drop);
}

/// Says one line to the parent, at once.
///
/// # Errors
///
/// Those of writing to stdout; [`io::ErrorKind::BrokenPipe`] if the parent is gone.
pub fn reply(line: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
