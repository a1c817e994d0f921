//! Options, checked in one place before anything is changed.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use solocron::Invalid;
use solocron::lock::files::directory;

use crate::backend::FlockBackend;

/// What a claimed tick outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Every death of a process, and every orderly restart of the machine. The default: a claim costs no disk access.
    ///
    /// After a restart of the machine, orderly or not, the last writes may be missing from a file, and nobody can tell. So ticks that
    /// were due before this boot began are not claimed any more where they are not known to be claimed: skipped rather than repeated.
    #[default]
    Process,
    /// A power loss as well: each claim waits for the disk (`fdatasync`, 0.1 to 10 ms). Ticks that were missed while the machine was
    /// down are caught up as the job's policy says. Set it in every process of the directory.
    Sync,
}

/// Options of a [`FlockBackend`].
///
/// ```
/// use solocron_flock::{Durability, FlockBackend};
/// # let tmp = tempfile::tempdir().unwrap();
/// # let dir = tmp.path().join("locks");
/// let backend = FlockBackend::builder().dir(dir).durability(Durability::Sync).build()?;
/// # Ok::<(), solocron::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct FlockBuilder {
    dir: Option<PathBuf>,
    network: bool,
    shared: bool,
    durability: Durability,
}

impl FlockBuilder {
    /// Where the lock files stand. All processes that share locks name the same directory. Without it:
    /// [`FlockBackend::default_dir`] of the program's name.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Accepts a directory on a network file system. Default: refused.
    ///
    /// There a lock may be held on two hosts at once, or be lost with the connection and nobody told; with it, nothing that this
    /// crate promises holds beyond one host.
    #[must_use]
    pub fn allow_network_filesystem(mut self, allow: bool) -> Self {
        self.network = allow;
        self
    }

    /// Accepts a directory that its group may write to, and lock files of other users in it; files get mode 0660. Default: refused.
    ///
    /// Everybody in that group can then hold every lock and rewrite every mark.
    #[must_use]
    pub fn allow_shared_directory(mut self, allow: bool) -> Self {
        self.shared = allow;
        self
    }

    /// What a claimed tick outlives. Default: [`Durability::Process`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Checks the directory, and makes it with mode 0700 (0770 if shared) where it is missing.
    ///
    /// # Errors
    ///
    /// [`solocron::Error::Invalid`], saying what to do, where the directory's parent is missing; where the directory is a file or a
    /// symbolic link, belongs to another user than this process's or root, may be written by others, is read-only, or lies on a
    /// network file system. Nothing has changed then.
    pub fn build(self) -> solocron::Result<FlockBackend> {
        let dir = match self.dir {
            Some(dir) => dir,
            None => FlockBackend::default_dir(&program())?,
        };
        let (dir, rights) = directory::prepare("lock directory", &dir, self.network, self.shared)?;
        Ok(FlockBackend::new(dir, rights, self.durability))
    }
}

fn program() -> String {
    std::env::args_os()
        .next()
        .and_then(|path| {
            Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned())
        })
        .unwrap_or_default()
}

impl FlockBackend {
    /// Where the locks of `app` belong: the first of
    ///
    /// 1. `$RUNTIME_DIRECTORY` (systemd's `RuntimeDirectory=`; the first, if it names several),
    /// 2. `$XDG_RUNTIME_DIR/app`,
    /// 3. `/run/app`, for root,
    /// 4. `$XDG_STATE_HOME/app`, else `~/.local/state/app`.
    ///
    /// Never `/tmp`: files there are deleted by age, and names there can be taken by anybody. The first three are emptied when the
    /// machine restarts, the first one also when the service does unless `RuntimeDirectoryPreserve=` is set: marks that shall outlive
    /// that need a directory under `/var/lib`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where `app` is not a plain file name, or none of the four is there.
    pub fn default_dir(app: &str) -> Result<PathBuf, Invalid> {
        default_dir(
            app,
            |name| std::env::var_os(name).map(PathBuf::from),
            nix::unistd::geteuid().is_root(),
        )
    }
}

fn default_dir(
    app: &str,
    var: impl Fn(&str) -> Option<PathBuf>,
    root: bool,
) -> Result<PathBuf, Invalid> {
    if app.is_empty() || app.starts_with('.') || app.contains(['/', '\0']) {
        let why = "give a plain file name: it becomes the name of the lock directory";
        return Err(Invalid::new("app", app, why));
    }
    // The XDG specification: what is not absolute is to be ignored.
    let var = |name: &str| var(name).filter(|path| path.is_absolute());
    if let Some(list) = var("RUNTIME_DIRECTORY") {
        let list = list.into_os_string();
        let first = list.as_encoded_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        return Ok(PathBuf::from(std::ffi::OsString::from_vec(first.to_vec())));
    }
    if let Some(dir) = var("XDG_RUNTIME_DIR") {
        return Ok(dir.join(app));
    }
    if root {
        return Ok(Path::new("/run").join(app));
    }
    if let Some(dir) = var("XDG_STATE_HOME") {
        return Ok(dir.join(app));
    }
    match var("HOME") {
        Some(home) => Ok(home.join(".local/state").join(app)),
        None => Err(Invalid::new(
            "lock directory",
            app,
            "neither RUNTIME_DIRECTORY, XDG_RUNTIME_DIR, XDG_STATE_HOME nor HOME is set: name a directory",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(vars: &[(&str, &str)], root: bool) -> String {
        let var = |name: &str| {
            vars.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
        };
        default_dir("app", var, root)
            .map_or_else(|error| error.to_string(), |dir| dir.display().to_string())
    }

    #[test]
    fn the_default_directory_is_never_tmp() {
        let all = [
            ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("XDG_STATE_HOME", "/state"),
            ("HOME", "/home/x"),
        ];
        assert_eq!(choose(&all, false), "/run/a");
        assert_eq!(choose(&all[1..], true), "/run/user/7/app");
        assert_eq!(choose(&all[2..], true), "/run/app");
        assert_eq!(choose(&all[2..], false), "/state/app");
        assert_eq!(choose(&all[3..], false), "/home/x/.local/state/app");
        assert_eq!(
            choose(&[("XDG_STATE_HOME", "relative"), all[3]], false),
            "/home/x/.local/state/app"
        );
        assert!(choose(&[], false).contains("name a directory"));
        for name in ["", "..", "a/b", ".hidden"] {
            assert!(default_dir(name, |_| None, true).is_err(), "{name}");
        }
    }
}
