//! What it costs beside the bare requests: prints medians, asserts nothing about time. `cargo test --test it measure -- --ignored
//! --nocapture`.

use std::time::{Duration, Instant};

use etcd_client::Client;
use solocron::lock::{LockBackend, Mark, MarkAfter};
use solocron_etcd::EtcdBackend;

use crate::client::{claim, due_tick, locks, plain, win};
use crate::store::Store;

const ROUNDS: usize = 300;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
#[expect(clippy::print_stdout, reason = "it prints figures")]
async fn an_acquisition_beside_put_and_delete_and_a_hand_over_beside_one_put() {
    let store = Store::alone();
    let connect = || EtcdBackend::builder("test", [store.server.endpoint()]).build().unwrap();
    let direct = connect();
    let mut bare = Client::connect([store.server.endpoint()], None).await.unwrap();
    let mut tick = due_tick(&direct, "job").await;
    let (mut floor, mut put, mut plainly, mut claimed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        bare.put("bare", "value", None).await.unwrap();
        put.push(begun.elapsed());
        bare.delete("bare", None).await.unwrap();
        floor.push(begun.elapsed());

        let begun = Instant::now();
        let grant = win(&direct, &plain("lock", Duration::from_secs(60))).await;
        direct.release(&grant.lease, MarkAfter::Done).await.unwrap();
        plainly.push(begun.elapsed());

        let begun = Instant::now();
        let grant = win(&direct, &claim("job", tick)).await;
        direct.release(&grant.lease, MarkAfter::Done).await.unwrap();
        claimed.push(begun.elapsed());
        tick = Mark::from_millis(tick.as_millis() + 1);
    }
    let (floor, put) = (median(floor), median(put));
    for (what, times) in [("plain lock", plainly), ("claim", claimed)] {
        let time = median(times);
        println!("{what}: {time:?} of {floor:?}, {:.2}", time.as_secs_f64() / floor.as_secs_f64());
    }

    // From the release of one node to the answer of another.
    let (a, b) = (locks(&connect(), 60), locks(&connect(), 60));
    let mut hand_overs = Vec::new();
    for _ in 0..ROUNDS / 3 {
        let held = a.lock("door", Duration::from_secs(10)).await.unwrap();
        let waiting = tokio::spawn({
            let b = b.clone();
            async move {
                let guard = b.lock("door", Duration::from_secs(10)).await.unwrap();
                (Instant::now(), guard)
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let begun = Instant::now();
        held.release().await.unwrap();
        let (won, guard) = waiting.await.unwrap();
        hand_overs.push(won - begun);
        guard.release().await.unwrap();
    }
    hand_overs.sort_unstable();
    let (half, most) = (hand_overs[hand_overs.len() / 2], hand_overs[hand_overs.len() * 99 / 100]);
    println!(
        "hand-over (release included): p50 {half:?}, p99 {most:?}; put {put:?}, {:.2}",
        half.as_secs_f64() / put.as_secs_f64()
    );
}
