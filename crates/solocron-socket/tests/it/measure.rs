//! The figures of `docs/design/0006-socket.md`:
//!
//! ```sh
//! cargo test --release -p solocron-socket --test it -- --ignored --nocapture --test-threads=1 measure
//! ```

#![expect(clippy::print_stdout, reason = "figures are printed")]

use std::time::{Duration, Instant};

use solocron::jiff::Timestamp;
use solocron::lock::{LockBackend, MarkAfter};

use crate::child::{says, start};
use crate::{Place, plain, win};

fn print(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let [p50, p90, p99] = [at(0.5), at(0.9), at(0.99)];
    println!(
        "{what:52} p50 {p50:>10.1?}  p90 {p90:>10.1?}  p99 {p99:>10.1?}  max {:>10.1?}",
        at(1.0)
    );
    p50
}

fn places() -> [(&'static str, Place); 3] {
    [
        ("abstract", Place::new()),
        ("abstract, state_dir", Place::new().with_state()),
        ("port", Place::new().on_ports()),
    ]
}

#[tokio::test]
#[ignore = "prints figures"]
async fn what_a_lock_costs() {
    for (what, place) in places() {
        let backend = place.open();
        let mut times = Vec::new();
        for _ in 0..3_000 {
            let begun = Instant::now();
            let grant = win(&backend, &plain("shared")).await;
            backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            times.push(begun.elapsed());
        }
        print(&format!("take + release, {what}"), times.split_off(300));
    }
}

/// `waiters` processes that hand the lock on, each holding it for a while: from each release to the next win.
fn relay(place: &Place, waiters: usize, hold_us: u64) -> Vec<Duration> {
    let rounds = (600 / waiters).max(8);
    let part = format!("relay {rounds} {hold_us}");
    let mut fleet: Vec<_> = (0..waiters).map(|_| start(place, &part, "shared")).collect();
    for member in &mut fleet {
        assert_eq!(says(member), "ready");
    }
    for member in &mut fleet {
        member.send("go").unwrap();
    }
    let mut times: Vec<(i128, i128)> = Vec::new();
    for member in &mut fleet {
        loop {
            let said = says(member);
            let Some((taken, released)) = said.split_once(' ') else { break };
            times.push((taken.parse().unwrap(), released.parse().unwrap()));
        }
    }
    times.sort_unstable();
    assert!(times.windows(2).all(|pair| pair[0].1 <= pair[1].0), "never two at once");
    // Not the first and the last ones, when not everybody waits.
    let all = times.len();
    let middle = &times[all / 10..all - all / 5];
    middle.windows(2).map(|pair| Duration::from_nanos((pair[1].0 - pair[0].1) as u64)).collect()
}

#[test]
#[ignore = "prints figures"]
fn how_soon_a_lock_changes_hands() {
    for (what, place) in places() {
        let mut medians = Vec::new();
        for waiters in [2, 8, 64] {
            let times = relay(&place, waiters, 1_000);
            medians.push(print(&format!("hand-over, {what}, {waiters} processes"), times));
        }
        println!("{what}: 64 to 2: {:.2}", medians[2].as_secs_f64() / medians[0].as_secs_f64());
    }
}

#[test]
#[ignore = "prints figures"]
fn how_soon_a_killed_holder_is_followed() {
    for (what, place) in places() {
        for waiters in [1, 16] {
            let mut times = Vec::new();
            for _ in 0..30 {
                let mut holder = start(&place, "hold", "shared");
                says(&mut holder);
                let mut fleet: Vec<_> =
                    (0..waiters).map(|_| start(&place, "wait", "shared")).collect();
                for member in &mut fleet {
                    assert_eq!(says(member), "ready");
                    member.send("take").unwrap();
                }
                std::thread::sleep(Duration::from_millis(100)); // they wait by now; a figure, not a claim
                let killed = Timestamp::now().as_nanosecond();
                holder.kill().unwrap();
                let first =
                    fleet.iter_mut().map(|member| says(member).parse::<i128>().unwrap()).min();
                times.push(Duration::from_nanos((first.unwrap() - killed) as u64));
            }
            print(&format!("kill -9 to won, {what}, {waiters} waiting"), times);
        }
    }
}
