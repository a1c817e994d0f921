//! The bell: one unix socket per process and lock directory, on which waiters of *all* its locks are rung.
//!
//! ```text
//!   waiter                                            holder's process (keeper thread)
//!     reads the record: key held, bell B
//!     connect bells/B.sock ─ hash of the key, waiting since ──►  held here? ── no ──► close
//!                          ◄─── 1 byte: waiting ─────────────     yes: keep the connection
//!                                       ...
//!                                                               release: LOCK_UN, then shutdown of the kept connections,
//!                                                               of the one that waited longest first
//!     end of file ◄────────────────────────────────────────     death: the kernel closes them, after the lock
//!     tries the lock
//! ```
//!
//! Nothing polls, nobody blocks a thread, and taking and releasing a lock that nobody waits for costs nothing extra. The design and
//! its figures: `docs/design/0003-flock-bell.md`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use solocron::lock::{Keeper, Nonce};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::consume_budget;
use tokio::time::{sleep, timeout};

use crate::home::{Home, shut};

/// Where bells hang, within the lock directory: in a directory of their own, so that they do not change its time of modification.
pub(crate) const BELLS: &str = "bells";

/// The longest path that a socket address holds, `sockaddr_un.sun_path` without its final zero.
const LONGEST_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A process's bell, if it could have one.
#[derive(Debug)]
pub(crate) struct Bell(u128);

impl Bell {
    /// Binds the socket and begins to listen.
    pub(crate) fn hang(home: &Arc<Home>) -> Self {
        let id = Nonce::random().as_u128();
        match Self::try_hang(id, home) {
            Ok(()) => Self(id),
            Err(error) => {
                tracing::warn!(dir = %home.dir.display(), %error, "no bell: waiters of this process's locks poll");
                Self(0)
            }
        }
    }

    /// 0 where there is none.
    pub(crate) fn id(&self) -> u128 {
        self.0
    }

    fn try_hang(id: u128, home: &Arc<Home>) -> io::Result<()> {
        let keeper = Keeper::thread()?;
        let bells = home.dir.join(BELLS);
        let mode = home.rights.directory_mode();
        match std::fs::DirBuilder::new().mode(mode).create(&bells) {
            Ok(()) => {
                // Whatever the umask says; but a group that is passed on (setgid) goes on being passed on.
                let passed_on = std::fs::metadata(&bells)?.mode() & 0o2000;
                std::fs::set_permissions(&bells, PermissionsExt::from_mode(mode | passed_on))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let place = Place::open(&bells)?;
        let (unborn, name) = (format!("{id:032x}.new"), file_name(id));
        // Bound under another name: a sweeper must never meet a socket that does not listen yet.
        let listener = StdListener::bind(place.address(&unborn)?)?;
        std::fs::set_permissions(bells.join(&unborn), PermissionsExt::from_mode(mode & 0o666))?;
        std::fs::rename(bells.join(&unborn), bells.join(&name))?;
        listener.set_nonblocking(true)?;
        let home = Arc::clone(home);
        keeper.spawn(async move {
            match UnixListener::from_std(listener) {
                Ok(listener) => {
                    tokio::spawn(sweep(bells, name));
                    serve(&listener, &home).await;
                }
                Err(error) => tracing::warn!(%error, "the bell cannot ring: waiters poll"),
            }
        });
        Ok(())
    }
}

/// The directory of the bells, held open: its descriptor makes a short address of a path that is too long for one.
struct Place {
    path: PathBuf,
    dir: File,
}

impl Place {
    fn open(path: &Path) -> io::Result<Self> {
        let dir = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
            .open(path)?;
        Ok(Self { path: path.to_owned(), dir })
    }

    fn address(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        if path.as_os_str().len() <= LONGEST_PATH {
            return Ok(path);
        }
        if cfg!(target_os = "linux") {
            return Ok(PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd())));
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket"))
    }
}

fn file_name(id: u128) -> String {
    format!("{id:032x}.sock")
}

/// Connects to the bell `id` of the lock directory `dir`.
pub(crate) async fn connect(dir: &Path, id: u128) -> io::Result<UnixStream> {
    connect_to(&dir.join(BELLS), &file_name(id)).await
}

async fn connect_to(bells: &Path, name: &str) -> io::Result<UnixStream> {
    let path = bells.join(name);
    if path.as_os_str().len() <= LONGEST_PATH {
        return UnixStream::connect(path).await;
    }
    let place = Place::open(bells)?;
    UnixStream::connect(place.address(name)?).await
}

/// Takes in waiters for as long as this process lives.
async fn serve(listener: &UnixListener, home: &Arc<Home>) {
    loop {
        match listener.accept().await {
            // Whoever is turned away polls.
            Ok((stream, _)) => {
                let Some(guest) = home.guests.admit() else { continue };
                let home = Arc::clone(home);
                tokio::spawn(async move {
                    attend(&home, stream).await;
                    drop(guest);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; whoever connected waits in the queue.
                tracing::debug!(%error, "the bell takes in no waiters for now");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One waiter, from its question until it is rung or hangs up.
async fn attend(home: &Arc<Home>, stream: UnixStream) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let Ok(Some(Question { key, since })) = timeout(PATIENCE, question(&stream)).await else {
        return;
    };
    let stream = Arc::new(stream);
    let Some(waiter) = home.keep_waiting(key, since, &stream) else { return };
    // It hangs up, or our own shutdown ends this; and one that goes on talking is no waiter.
    receive(&stream, &mut [0; 16]).await;
    shut(&stream);
    home.hung_up(key, waiter);
}

/// What a waiter asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    /// Hash of the key.
    pub(crate) key: u128,
    /// Since when it waits, in nanoseconds of the lease clock, which all processes of a host share.
    pub(crate) since: u64,
}

impl Question {
    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..].copy_from_slice(&self.since.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; 24]) -> Self {
        let (mut key, mut since) = ([0; 16], [0; 8]);
        key.copy_from_slice(&bytes[..16]);
        since.copy_from_slice(&bytes[16..]);
        Self { key: u128::from_le_bytes(key), since: u64::from_le_bytes(since) }
    }
}

async fn question(stream: &UnixStream) -> Option<Question> {
    let mut bytes = [0; 24];
    let mut filled = 0;
    while filled < bytes.len() {
        match receive(stream, &mut bytes[filled..]).await {
            0 => return None,
            count => filled += count,
        }
    }
    Some(Question::from_bytes(bytes))
}

/// What came in; 0 at the end of the connection, however it ended. A peer that never stops sending takes its turns like any other.
pub(crate) async fn receive(stream: &UnixStream, into: &mut [u8]) -> usize {
    loop {
        if stream.readable().await.is_err() {
            return 0;
        }
        match stream.try_read(into) {
            Ok(count) => {
                // Neither of the two above yields, and whoever calls this in a loop would never let go of the keeper's thread.
                consume_budget().await;
                return count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return 0,
        }
    }
}

/// Removes the bells of processes that are gone: their names are random and never used again.
async fn sweep(bells: PathBuf, own: String) {
    let Ok(entries) = std::fs::read_dir(&bells) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| *name != own) else { continue };
        let dead = if name.ends_with(".sock") {
            connect_to(&bells, name)
                .await
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        } else {
            // One that was never born; give a slow birth a minute.
            name.ends_with(".new")
                && entry
                    .metadata()
                    .and_then(|found| found.modified())
                    .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(60)))
        };
        if dead && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::debug!(%error, name, "cannot remove the bell of a dead process");
        }
    }
}
