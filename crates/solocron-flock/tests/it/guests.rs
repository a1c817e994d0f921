//! Whoever connects to a bell can neither stop its process nor use up its descriptors.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use solocron::lock::Keeper;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::child::{Child, start};
use crate::{Dir, PATIENCE, key, plain, win};

/// A waiter for the lock "shared", kept or turned away. The directory has one bell.
fn wait(dir: &Dir) -> (UnixStream, bool) {
    let bell = std::fs::read_dir(dir.path().join("bells")).unwrap().next().unwrap().unwrap().path();
    let mut stream = UnixStream::connect(bell).unwrap();
    // One that is turned away may be so before it can ask.
    let kept = stream.write_all(&key("shared").hash128().to_le_bytes()).is_ok()
        && stream.write_all(&[0; 8]).is_ok()
        && stream.read(&mut [0; 4]).is_ok_and(|count| count == 1);
    (stream, kept)
}

#[tokio::test]
async fn a_waiter_that_never_stops_talking_is_hung_up_on_and_delays_no_lease() {
    let dir = Dir::new();
    let held = win(&dir.open(), &plain("shared")).await;
    let (mut waiter, kept) = wait(&dir);
    assert!(kept);
    let (tell, hung_up) = oneshot::channel();
    std::thread::spawn(move || {
        let words = vec![0; 1 << 20];
        while waiter.write_all(&words).is_ok() {}
        let _ = tell.send(());
    });
    timeout(PATIENCE, hung_up).await.expect("it is hung up on").unwrap();
    // Renewals run there.
    let (tell, told) = oneshot::channel();
    Keeper::thread().unwrap().spawn(async move { tell.send(()).unwrap() });
    timeout(PATIENCE, told).await.expect("the keeper's thread goes on").unwrap();
    assert!(wait(&dir).1);
    drop(held);
}

#[tokio::test]
async fn waiters_get_a_quarter_of_the_descriptors() {
    let dir = Dir::new();
    let mut holder = start("hold-with 64", &dir.path());
    assert_eq!(holder.says(), "held");
    let waiters: Vec<_> = (0..40).map(|_| wait(&dir)).collect();
    assert_eq!(waiters.iter().filter(|(_, kept)| *kept).count(), 16);
    holder.send("enough").unwrap();
    holder.ends();
}
