//! Waiting for a key: in the line first, and then at the holder's door, until the connection ends.
//!
//! It runs on the keeper's thread: the caller's runtime may have no IO driver, and may be blocked by a job.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use solocron::lock::{Keeper, LockKey, Nonce, Watch};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use crate::addr::Address;
use crate::ask::{Found, ask};
use crate::banner::Banner;
#[cfg(target_os = "linux")]
use crate::line::{Called, Place};

/// What a waiter holds. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct SocketWatch {
    calls: Arc<Calls>,
    /// The last news was taken, and no more was asked for since.
    told: bool,
    _hang_up: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Calls {
    news: Notify,
    more: Notify,
}

impl Calls {
    /// There is news; returns when more is wanted.
    async fn tell(&self) {
        self.news.notify_one();
        self.more.notified().await;
    }
}

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) key: LockKey,
    pub(crate) namespace: String,
    pub(crate) at: Address,
    /// The abstract name of its line, where there can be one.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "abstract sockets are Linux's")
    )]
    pub(crate) line: Option<String>,
}

impl SocketWatch {
    pub(crate) fn begin(wanted: Wanted) -> io::Result<Self> {
        let calls = Arc::new(Calls::default());
        let (hang_up, hung_up) = oneshot::channel::<()>();
        let waiting = wanted.wait(Arc::clone(&calls));
        Keeper::thread()?.spawn(async move {
            tokio::select! {
                biased;
                _ = hung_up => {}
                () = waiting => {}
            }
        });
        Ok(Self { calls, told: false, _hang_up: hang_up })
    }
}

#[async_trait]
impl Watch for SocketWatch {
    async fn changed(&mut self) {
        if std::mem::take(&mut self.told) {
            self.calls.more.notify_one();
        }
        self.calls.news.notified().await;
        self.told = true;
    }
}

impl Wanted {
    async fn wait(self, calls: Arc<Calls>) {
        #[cfg(target_os = "linux")]
        let _place = match &self.line {
            Some(line) => lined_up(line, &calls).await,
            None => None,
        };
        let mut pause = Pause::default();
        loop {
            match ask(&self.at, &self.namespace, &self.key).await {
                // There is no room for one more who waits: look again.
                Ok(Found::Holder(Banner { full: true, .. }, _)) => sleep(pause.next()).await,
                Ok(Found::Holder(_, stream) | Found::Stopped(stream)) => {
                    match stream.receive(&mut [0; 64]).await {
                        0 => pause = Pause::default(),
                        // A holder has said everything with its banner.
                        _ => sleep(pause.next()).await,
                    }
                }
                // Free, or about to be. The core makes a pause where that is said too often.
                Ok(Found::Nobody | Found::HungUp(_)) => {}
                // It is the attempt that says what is wrong.
                Ok(Found::Other(_)) | Err(_) => sleep(pause.next()).await,
            }
            calls.tell().await;
        }
    }
}

/// Returns when this waiter is the first in line, with its place, or when there can be no line.
///
/// Now and then it has news for no reason: the first in line, or whoever serves it, may be stopped.
#[cfg(target_os = "linux")]
async fn lined_up(line: &str, calls: &Calls) -> Option<Place> {
    const RARELY: Duration = Duration::from_secs(1);
    loop {
        let place = Place::take(line).await?;
        loop {
            tokio::select! {
                called = place.called() => match called {
                    Called::First => return Some(place),
                    Called::Full => return None,
                    Called::Ended => break,
                },
                () = sleep(RARELY + random(RARELY / 4)) => calls.tell().await,
            }
        }
    }
}

/// 1 ms doubling to 100 ms, each up to a half longer.
#[derive(Debug, Default)]
struct Pause(u32);

impl Pause {
    fn next(&mut self) -> Duration {
        let step = Duration::from_millis(100.min(1 << self.0));
        self.0 = (self.0 + 1).min(7);
        step + random(step / 2)
    }
}

fn random(most: Duration) -> Duration {
    most * ((Nonce::random().as_u128() & 0xff) as u32) / 256
}
