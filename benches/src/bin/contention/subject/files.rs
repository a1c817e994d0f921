//! Floors between the processes of one host.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Contender, Place, blocking, said};

/// The floor of a file lock: a thread that waits in `flock(2)`.
pub(super) struct BlockedFlock {
    path: PathBuf,
    file: Option<File>,
}

impl BlockedFlock {
    #[expect(clippy::unnecessary_wraps, reason = "as the others")]
    pub(super) fn new(place: &Place) -> Result<Self, String> {
        let path = PathBuf::from(&place.address).join(format!("{}.floor", place.key));
        Ok(Self { path, file: None })
    }
}

#[async_trait]
impl Contender for BlockedFlock {
    async fn take(&mut self) -> Result<(), String> {
        let path = self.path.clone();
        let locked = blocking(move || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
            file.lock()?;
            Ok(file)
        });
        self.file = Some(locked.await?);
        Ok(())
    }

    async fn give(&mut self) -> Result<(), String> {
        drop(self.file.take());
        Ok(())
    }
}

/// Where the pipe of a key is.
fn pipe(place: &Place) -> PathBuf {
    PathBuf::from(&place.address).join(format!("{}.pipe", place.key))
}

/// Makes the pipe of a key, with one token in it, which is there for as long as somebody has the pipe open.
pub(crate) fn fill_pipe(place: &Place) -> Result<File, String> {
    let path = pipe(place);
    let doing = |error: &dyn std::fmt::Display| format!("make a pipe {}: {error}", path.display());
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).map_err(|error| doing(&error))?;
    let mut pipe =
        OpenOptions::new().read(true).write(true).open(&path).map_err(|error| doing(&error))?;
    pipe.write_all(&[1]).map_err(|error| doing(&error))?;
    Ok(pipe)
}

/// The floor of handing anything over between processes: one byte in a named pipe.
pub(super) struct PipeToken {
    pipe: Arc<File>,
}

impl PipeToken {
    pub(super) fn new(place: &Place) -> Result<Self, String> {
        let pipe = OpenOptions::new().read(true).write(true).open(pipe(place)).map_err(said)?;
        Ok(Self { pipe: Arc::new(pipe) })
    }
}

#[async_trait]
impl Contender for PipeToken {
    async fn take(&mut self) -> Result<(), String> {
        let pipe = Arc::clone(&self.pipe);
        blocking(move || (&*pipe).read_exact(&mut [0])).await
    }

    async fn give(&mut self) -> Result<(), String> {
        (&*self.pipe).write_all(&[1]).map_err(said)
    }
}
