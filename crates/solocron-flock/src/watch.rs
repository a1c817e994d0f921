//! Waiting for a key: asks the bell of whoever holds it, again for every news that the waiter has taken.
//!
//! It runs on the keeper's thread: the caller's runtime may have no IO driver, and may be blocked by a job.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::libc::MSG_NOSIGNAL;
use socket2::SockRef;
use solocron::lock::files::slots::{self, Content, Of};
use solocron::lock::files::{self, Rights};
use solocron::lock::{Keeper, LockKey, Nonce, Watch};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use crate::bell::{self, Question};

/// What a waiter holds. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct BellWatch {
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

/// A key whose holder may be asked.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) key: LockKey,
    pub(crate) path: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) rights: Rights,
    /// When the wait began.
    pub(crate) since: u64,
}

enum Heard {
    /// Its holder gave it up, or died.
    Free,
    /// Nothing: nobody holds it, or its holder cannot be reached.
    Nothing,
}

impl BellWatch {
    pub(crate) fn begin(wanted: Wanted) -> io::Result<Self> {
        let calls = Arc::new(Calls::default());
        let (hang_up, hung_up) = oneshot::channel::<()>();
        let listening = listen(wanted, Arc::clone(&calls));
        Keeper::thread()?.spawn(async move {
            tokio::select! {
                biased;
                _ = hung_up => {}
                () = listening => {}
            }
        });
        Ok(Self { calls, told: false, _hang_up: hang_up })
    }
}

#[async_trait]
impl Watch for BellWatch {
    async fn changed(&mut self) {
        if std::mem::take(&mut self.told) {
            self.calls.more.notify_one();
        }
        self.calls.news.notified().await;
        self.told = true;
    }
}

async fn listen(wanted: Wanted, calls: Arc<Calls>) {
    let mut pause = Pause::default();
    loop {
        match wanted.hear().await {
            Heard::Free => pause = Pause::default(),
            Heard::Nothing => sleep(pause.next()).await,
        }
        calls.news.notify_one();
        calls.more.notified().await;
    }
}

impl Wanted {
    /// Returns at once where there is nobody to ask.
    async fn hear(&self) -> Heard {
        self.ask().await.unwrap_or(Heard::Nothing)
    }

    async fn ask(&self) -> Option<Heard> {
        let stream = bell::connect(&self.dir, self.bell()?).await.ok()?;
        let question = Question { key: self.key.hash128(), since: self.since }.to_bytes();
        SockRef::from(&stream).send_with_flags(&question, MSG_NOSIGNAL).ok()?;
        let mut said = [0; 16];
        // One byte: waiting. Then nothing but the end; whatever says more is no bell.
        let kept = bell::receive(&stream, &mut said).await == 1;
        (kept && bell::receive(&stream, &mut said).await == 0).then_some(Heard::Free)
    }

    fn bell(&self) -> Option<u128> {
        let opened = files::open(&self.path, self.rights, false).ok()??;
        match slots::read(&opened.file, Of::Key(&self.key)) {
            Ok(Ok(Content::Record { stamp, .. })) => Some(stamp.tag).filter(|bell| *bell != 0),
            _ => None,
        }
    }
}

/// 1 ms doubling to 100 ms, each up to a half longer.
#[derive(Debug, Default)]
pub(crate) struct Pause(u32);

impl Pause {
    pub(crate) fn next(&mut self) -> Duration {
        let step = Duration::from_millis(100.min(1 << self.0));
        self.0 = (self.0 + 1).min(7);
        let random = (Nonce::random().as_u128() & 0xff) as u32;
        step + step * random / 512
    }
}
