//! The laws that every backend must keep: on abstract sockets and on ports, with a memory and without.

use solocron::lock::LockKey;
use solocron_socket::SocketBackend;
use solocron_testkit::Harness;

use crate::child::{kill, says, start};
use crate::{Place, key};

macro_rules! harness {
    ($name:ident, $place:expr) => {
        struct $name(Place);

        impl Harness for $name {
            type Backend = SocketBackend;

            async fn start() -> Self {
                let place: Place = $place;
                drop(place.open());
                Self(place)
            }

            fn connect(&self) -> SocketBackend {
                self.0.open()
            }

            async fn forget(&self) -> bool {
                let Some(dir) = self.0.state_dir() else { return false };
                for entry in std::fs::read_dir(dir).unwrap() {
                    std::fs::remove_file(entry.unwrap().path()).unwrap();
                }
                true
            }

            async fn replace(&self, key: &LockKey) -> bool {
                let Some(path) = self.0.open().state_path(key) else { return false };
                let copy = path.with_extension("copy");
                std::fs::copy(&path, &copy).unwrap();
                std::fs::rename(copy, path).unwrap();
                true
            }

            async fn hold_and_die(&self, key: &LockKey) -> bool {
                let mut holder = start(&self.0, "hold", key.as_str());
                says(&mut holder);
                kill(&mut holder);
                true
            }
        }
    };
}

harness!(Abstract, Place::new());
harness!(AbstractWithState, Place::new().with_state());
harness!(Ports, Place::new().on_ports());
harness!(PortsWithState, Place::new().on_ports().with_state());

solocron_testkit::conformance!(abstract_names, Abstract);
solocron_testkit::conformance!(abstract_names_with_state, AbstractWithState);
solocron_testkit::conformance!(ports, Ports);
solocron_testkit::conformance!(ports_with_state, PortsWithState);

/// A name of a key is what a person sees.
#[test]
fn a_lock_says_where_it_stands() {
    let place = Place::new();
    let at = place.open().address(&key("nightly report")).unwrap();
    assert!(at.starts_with(&format!("@solocron/{}/nightly_report-", place.namespace)), "{at}");
}
