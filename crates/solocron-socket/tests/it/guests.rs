//! Whoever connects to a lock can neither stop its holder nor use up its descriptors.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use solocron::lock::{Keeper, Reply};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::child::{says, start};
use crate::{PATIENCE, Place, attempt, key, plain, win};

/// A connection to the lock "a".
fn connect(place: &Place) -> UnixStream {
    let names = place.open().address(&key("a")).unwrap();
    let name = format!("{}/0", names.trim_start_matches('@'));
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
}

#[tokio::test]
async fn a_guest_that_never_stops_talking_is_hung_up_on_and_delays_no_lease() {
    for place in [Place::new(), Place::new().on_ports()] {
        let backend = place.open();
        let held = win(&backend, &plain("a")).await;
        let mut guest: Box<dyn Write + Send> = match &place.ports {
            Some(ports) => {
                Box::new(TcpStream::connect(("127.0.0.1", ports.of(&key("a")))).unwrap())
            }
            None => Box::new(connect(&place)),
        };
        let (tell, hung_up) = oneshot::channel();
        std::thread::spawn(move || {
            let words = vec![0; 1 << 20];
            while guest.write_all(&words).is_ok() {}
            let _ = tell.send(());
        });
        timeout(PATIENCE, hung_up).await.expect("it is hung up on").unwrap();
        // Renewals run there.
        let (tell, told) = oneshot::channel();
        Keeper::thread().unwrap().spawn(async move { tell.send(()).unwrap() });
        timeout(PATIENCE, told).await.expect("the keeper's thread goes on").unwrap();
        assert!(matches!(attempt(&backend, &plain("a")).await.unwrap(), Reply::Busy { .. }));
        drop(held);
    }
}

#[tokio::test]
async fn guests_get_a_quarter_of_the_descriptors_and_the_others_are_told_who_holds() {
    let place = Place::new();
    let mut holder = start(&place, "hold 64", "a");
    says(&mut holder);
    let guests: Vec<_> = (0..40)
        .map(|_| {
            let mut guest = BufReader::new(connect(&place));
            let mut said = String::new();
            guest.read_line(&mut said).unwrap();
            (guest, said)
        })
        .collect();
    assert!(guests.iter().all(|(_, said)| said.contains(" key=a ")), "{guests:?}");
    let kept = guests.iter().filter(|(_, said)| !said.contains(" full=")).count();
    assert_eq!(kept, 16);
    let busy = attempt(&place.open(), &plain("a")).await;
    assert!(matches!(busy, Ok(Reply::Busy { holder: Some(_) })), "{busy:?}");
    holder.send("release").unwrap();
    assert_eq!(says(&mut holder), "released");
}
