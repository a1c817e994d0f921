//! The laws that every backend must keep.

use std::fs;

use solocron::lock::LockKey;
use solocron_flock::FlockBackend;
use solocron_testkit::Harness;

use crate::Dir;
use crate::child::{Child, start};

struct Directory(Dir);

impl Harness for Directory {
    type Backend = FlockBackend;

    async fn start() -> Self {
        let dir = Dir::new();
        drop(dir.open());
        Self(dir)
    }

    fn connect(&self) -> FlockBackend {
        self.0.open()
    }

    async fn forget(&self) -> bool {
        for entry in fs::read_dir(self.0.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                fs::remove_file(path).unwrap();
            }
        }
        true
    }

    async fn replace(&self, key: &LockKey) -> bool {
        let path = self.0.path().join(format!("{}.lock", key.slug()));
        let copy = path.with_extension("copy");
        fs::copy(&path, &copy).unwrap();
        fs::rename(copy, path).unwrap();
        true
    }

    async fn hold_and_die(&self, key: &LockKey) -> bool {
        let mut process = start(&format!("hold {}", key.as_str()), &self.0.path());
        process.says();
        process.dies();
        true
    }
}

solocron_testkit::conformance!(Directory);
