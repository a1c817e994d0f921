//! A server as a child process that never outlives this one.
//!
//! ```text
//!   this process ──spawn──► sh ──fork──► watchdog: waits for a line or the end of its input
//!        │                  └──exec──► the server, under the same process id
//!        └── leash: the watchdog's input
//!              a line: the server was ended by its owner
//!              another line: its directory is its owner's again
//!              the end: this process is dead, however it died; the watchdog does what was not said to be done: it kills the server
//!                       and removes its directory
//! ```
//!
//! The watchdog is there before the server is, so there is no moment at which a killed test leaves one behind. The server is our
//! own child: its id stays taken until we reap it, so no signal of ours meets a stranger. Both are in a process group of their own,
//! so Ctrl-C reaches only the test, and through its death the rest.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{self, Id, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// `$0` is the server's directory, the rest is its command line. The input of a background command would be `/dev/null`, so the
/// leash moves to another descriptor; the server itself does not get it. The kernel hangs up on a group of processes whose parent has
/// died while one of them was stopped (setpgid(2), "orphaned process group"), which the watchdog must survive to end the stopped one.
const LEASHED: &str = r#"
exec 3<&0
{
  trap '' HUP INT TERM
  read -r _ <&3 || kill -9 $$
  read -r _ <&3 || for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$0" && break; sleep 0.2; done
} &
exec "$@" </dev/null 3<&-
"#;

/// How often a condition is looked at that the system has no event for.
pub(crate) const GLANCE: Duration = Duration::from_millis(2);

/// One running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    leash: ChildStdin,
    log: PathBuf,
    /// Known once it was reaped; from then on its id belongs to nobody.
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with its output appended to `log.txt` in `dir`, which is removed if this process is killed.
    ///
    /// # Panics
    ///
    /// If no process can be started. A missing program is only found out by the shell: see [`Self::ended`].
    pub(crate) fn start(program: &Path, arguments: &[String], dir: &Path) -> Self {
        let log = dir.join("log.txt");
        let open = || File::options().create(true).append(true).open(&log);
        let output = open().expect("the server's directory can be written");
        let errors = output.try_clone().expect("there are descriptors left");
        let mut child = Command::new("sh")
            .args(["-c", LEASHED])
            .arg(dir)
            .arg(program)
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .expect("there is a shell, and room for a process");
        let leash = child.stdin.take().expect("it is piped");
        Self { child, leash, log, status: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_some() {
            return self.status;
        }
        match wait::waitid(
            self.id(),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT,
        ) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
            _ => Some(self.reap()),
        }
    }

    /// What it has written.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| format!("its log {} cannot be read: {error}", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Stops it (SIGSTOP). It does nothing from the moment this returns until [`thaw`](Self::thaw).
    pub(crate) fn freeze(&mut self) {
        self.signal(Signal::SIGSTOP);
        if self.status.is_some() {
            return;
        }
        let changes = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while wait::waitid(self.id(), changes) == Err(Errno::EINTR) {}
    }

    /// Lets it go on.
    pub(crate) fn thaw(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills it (SIGKILL), stopped or not. It is gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.reap();
    }

    /// Asks it to end (SIGTERM), and kills it if it has not done so within `patience`. It is gone when this returns.
    pub(crate) fn terminate(&mut self, patience: Duration) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
        let deadline = Instant::now() + patience;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                return self.kill();
            }
            thread::sleep(GLANCE);
        }
    }

    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = signal::kill(self.raw(), signal); // an error: it is dead already
        }
    }

    /// Calls the watchdog off the process, which must come first, and takes the exit status.
    fn reap(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        self.say_done();
        *self.status.insert(self.child.wait().expect("it is our child"))
    }

    fn say_done(&mut self) {
        let _ = self.leash.write_all(b"\n"); // an error: no watchdog, since somebody ended it
    }

    fn raw(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's ids fit"))
    }

    fn id(&self) -> Id<'static> {
        Id::Pid(self.raw())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.say_done();
    }
}

/// The program, as a path: found on `PATH` if it has no directory.
pub(crate) fn find(program: &str) -> io::Result<PathBuf> {
    if program.contains('/') {
        return Path::new(program).canonicalize();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|at| at.is_file());
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}
