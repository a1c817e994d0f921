//! Every bad directory and every bad file is refused, by name and with what to do.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use solocron::Kind;
use solocron::lock::{LockBackend, MarkAfter, Reply};
use solocron_flock::FlockBackend;

use crate::{Dir, attempt, claim, enroll, key, mode, now, plain, skip, win};

fn refused(path: &Path) -> String {
    let error = FlockBackend::open(path).expect_err("refused").to_string();
    assert!(error.contains("lock directory") && error.contains(':'), "{error}");
    error
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn directories_that_are_none_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let missing = tmp.path().join("not").join("there");
    assert!(refused(&missing).contains("parent"));
    assert!(!tmp.path().join("not").exists(), "nothing was made");
    let file = tmp.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(refused(&file).contains("not a directory"));
    assert!(refused(&file.join("below")).contains(':'));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let dir = tmp.path().join("dir");
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o700);
    for link in ["link", "link/"] {
        let _ = symlink(&dir, tmp.path().join("link"));
        assert!(refused(&tmp.path().join(link)).contains("symbolic link"));
    }
    assert!(FlockBackend::open(&dir).is_ok());
}

#[test]
fn directories_that_others_may_write_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("locks");
    fs::create_dir(&dir).unwrap();
    for (bits, word) in [(0o777, "everybody"), (0o1777, "everybody"), (0o770, "group")] {
        chmod(&dir, bits);
        let error = refused(&dir);
        assert!(error.contains(word) && error.contains(&format!("{bits:o}")), "{error}");
    }
    let share = || FlockBackend::builder().dir(&dir).allow_shared_directory(true).build();
    assert!(share().is_ok(), "where that was asked for");
    chmod(&dir, 0o777);
    assert!(share().is_err(), "never everybody");
    chmod(&dir, 0o755);
    assert!(FlockBackend::open(&dir).is_ok(), "reading the names is harmless");
}

#[tokio::test]
async fn a_shared_directory_has_shared_files() {
    let dir = Dir::new();
    let backend =
        FlockBackend::builder().dir(dir.path()).allow_shared_directory(true).build().unwrap();
    drop(win(&backend, &plain("a")).await);
    assert_eq!((mode(&dir.path()), mode(&backend.path(&key("a")))), (0o770, 0o660));
    assert_eq!(mode(&dir.path().join("bells")), 0o770);
    let dir = Dir::new();
    fs::create_dir(dir.path()).unwrap();
    chmod(&dir.path(), 0o2770);
    let backend =
        FlockBackend::builder().dir(dir.path()).allow_shared_directory(true).build().unwrap();
    drop(win(&backend, &plain("a")).await);
    assert_eq!(mode(&dir.path().join("bells")), 0o2770, "its group is passed on");
}

#[tokio::test]
async fn what_belongs_to_another_user_is_refused() {
    if !geteuid().is_root() {
        return skip("only root can give a directory away");
    }
    let dir = Dir::new();
    let backend = dir.open();
    drop(win(&backend, &plain("a")).await);
    chown(backend.path(&key("a")), Some(65534), None).unwrap();
    let error = attempt(&backend, &plain("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("65534"), "{error}");
    chown(dir.path(), Some(65534), None).unwrap();
    assert!(refused(&dir.path()).contains("65534"));
}

#[tokio::test]
async fn lock_files_that_are_no_plain_files_are_refused() {
    let dir = Dir::new();
    let backend = dir.open();
    let target = dir.path().join("target");
    fs::write(&target, "mine").unwrap();
    symlink(&target, backend.path(&key("link"))).unwrap();
    mkfifo(&backend.path(&key("fifo")), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    fs::create_dir(backend.path(&key("dir"))).unwrap();
    for name in ["link", "fifo", "dir"] {
        let error = attempt(&backend, &plain(name)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Misconfigured, "{name}");
        let path = backend.path(&key(name)).display().to_string();
        assert!(
            error.to_string().contains(&path) && error.to_string().contains("remove"),
            "{error}"
        );
    }
    assert_eq!(fs::read(target).unwrap(), b"mine");
}

#[tokio::test]
async fn a_corrupt_file_is_an_error_and_stays_as_it_is() {
    let dir = Dir::new();
    let backend = dir.open();
    let path = backend.path(&key("a"));
    for garbage in [b"pid 4711\n".to_vec(), vec![0xff; 10_000]] {
        fs::write(&path, &garbage).unwrap();
        for request in [plain("a"), claim("a", now())] {
            let error = attempt(&backend, &request).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.to_string().contains("remove it"), "{error}");
        }
        let error = backend.set_note(&key("a"), 0, b"").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(fs::read(&path).unwrap(), garbage);
    }
    fs::copy(&path, dir.path().join("kept")).unwrap();
    fs::remove_file(&path).unwrap();
    win(&backend, &plain("a")).await;
}

#[tokio::test]
async fn a_record_under_another_name_is_refused() {
    let dir = Dir::new();
    let backend = dir.open();
    drop(win(&backend, &plain("a")).await);
    fs::copy(backend.path(&key("a")), backend.path(&key("b"))).unwrap();
    let error = attempt(&backend, &plain("b")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("\"a\""), "{error}");
    assert!(backend.holders("").await.unwrap().unwrap().is_empty(), "not counted twice");
}

#[tokio::test]
async fn half_a_file_grants_no_tick_that_may_have_been_claimed() {
    for (slot, cut) in [(0, false), (1, false), (1, true)] {
        let dir = Dir::new();
        let backend = dir.open();
        let mark = enroll(&backend, "a").await.as_millis();
        while now().as_millis() < mark + 3 {
            tokio::task::yield_now().await;
        }
        let tick = |n| claim("a", solocron::lock::Mark::from_millis(mark + n));
        let first = win(&backend, &tick(1)).await;
        backend.release(&first.lease, MarkAfter::Done).await.unwrap();
        let path = backend.path(&key("a"));
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        if cut {
            file.set_len(4096).unwrap();
        } else {
            file.write_all_at(&[0x55; 500], slot * 4096 + 100).unwrap();
        }
        for n in 1..=2 {
            assert!(
                matches!(attempt(&backend, &tick(n)).await.unwrap(), Reply::Stale { .. }),
                "slot {slot}: tick {n} came before the damage was found"
            );
        }
        // Mended: what comes due from now on is claimed again.
        let later = now().as_millis() + 2 - mark;
        while now().as_millis() < mark + later {
            tokio::task::yield_now().await;
        }
        let next = win(&backend, &tick(later)).await;
        assert!(next.fence > first.fence);
    }
}

/// A small file system of its own, gone when this is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(options: &str) -> Option<Self> {
        let tmp = tempfile::tempdir().unwrap();
        match mount(Some("tmpfs"), tmp.path(), Some("tmpfs"), MsFlags::empty(), Some(options)) {
            Ok(()) => Some(Self(tmp)),
            Err(error) => {
                skip(&format!("cannot mount a tmpfs here: {error}"));
                None
            }
        }
    }

    fn read_only(&self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, self.0.path(), None::<&str>, flags, None::<&str>).unwrap();
    }

    fn fill(&self) {
        let file = fs::File::create(self.0.path().join("ballast")).unwrap();
        let mut at = 0;
        while file.write_at(&[1; 512], at).is_ok_and(|written| written > 0) {
            at += 512;
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_when_a_file_is_made_and_never_later() {
    let Some(disk) = Mounted::new("size=64k") else { return };
    let dir = disk.0.path().join("locks");
    let backend = FlockBackend::open(&dir).unwrap();
    let mark = enroll(&backend, "old").await.as_millis();
    while now().as_millis() < mark + 2 {
        tokio::task::yield_now().await;
    }
    disk.fill();
    let error = attempt(&backend, &plain("new")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("free some space"), "{error}");
    let job = solocron::lock::Enrolment { key: key("job"), fingerprint: 7 };
    assert!(backend.enroll(&[job]).await.remove(0).is_err());
    for tick in [mark + 1, mark + 2] {
        let grant = win(&backend, &claim("old", solocron::lock::Mark::from_millis(tick))).await;
        backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    }
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    win(&backend, &plain("new")).await;
}

#[tokio::test]
async fn a_read_only_file_system_is_told() {
    let Some(disk) = Mounted::new("size=1m") else { return };
    let dir = disk.0.path().join("locks");
    let backend = FlockBackend::open(&dir).unwrap();
    drop(win(&backend, &plain("a")).await);
    disk.read_only();
    assert!(refused(&dir).contains("read-only"));
    assert!(refused(&disk.0.path().join("another")).contains("read-only"));
    let error = attempt(&backend, &plain("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Misconfigured);
    assert!(error.to_string().contains("read-only"), "{error}");
}

#[tokio::test]
async fn a_directory_that_goes_away_is_told() {
    let dir = Dir::new();
    let backend = dir.open();
    fs::remove_dir_all(dir.path()).unwrap();
    let error = attempt(&backend, &plain("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Misconfigured);
    assert!(error.to_string().contains("is gone"), "{error}");
}
