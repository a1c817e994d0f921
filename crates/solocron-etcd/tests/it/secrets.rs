//! No text that comes out of this crate holds a password.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use solocron::lock::{LockBackend, MarkAfter};
use solocron_etcd::EtcdBackend;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::bad::with_users;
use crate::client::{attempt, claim, due_tick, key, locks, now, plain, win};

const CANARY: &str = "canary-3c6ef372";

/// Everything that is said, at every level.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = writeln!(self.0.lock().unwrap(), "{field}={value:?}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
#[test]
fn no_log_error_or_debug_text_holds_a_password() {
    let log = Log::default();
    // For this test's threads and the keeper's alike, which is why it runs in a process of its own.
    if std::env::var_os("SOLOCRON_CANARY").is_none() {
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "secrets::no_log_error_or_debug_text_holds_a_password"])
            .env("SOLOCRON_CANARY", "1")
            .output()
            .unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
        return;
    }
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut texts = runtime.block_on(use_it());
    let logged = log.0.lock().unwrap().clone();
    assert!(logged.contains("changing the etcd member"), "the log is on");
    texts.push(logged);
    for text in texts {
        let at = text.find(CANARY);
        assert!(at.is_none(), "{:?}", at.map(|at| &text[at.saturating_sub(200)..at]));
    }
}

/// Logs in, works, fails; answers with everything that can be printed.
async fn use_it() -> Vec<String> {
    let store = with_users(solocron_testkit::server::EtcdServer::builder(), "solocron/", CANARY);
    let url = |password: &str| {
        let endpoint = store.server.endpoint();
        let host = endpoint.strip_prefix("http://").unwrap();
        format!("etcd://app:{password}@{host}/{}", store.namespace)
    };
    let backend = EtcdBackend::from_url(&url(CANARY)).unwrap();
    let tick = due_tick(&backend, "job").await;
    let grant = win(&backend, &claim("job", tick)).await;
    let mut texts = vec![format!("{backend:?} {grant:?}")];
    texts.push(format!("{:?}", backend.renew(&[&grant.lease], now()).await));
    texts.push(format!("{:?}", backend.watch(&key("job")).await.is_ok()));
    texts.push(format!("{:?}", backend.release(&grant.lease, MarkAfter::Done).await));
    let node = locks(&backend, 10);
    texts.push(format!("{node:?} {:?}", node.try_lock("lock").await));
    // Wrong ones.
    let wrong = EtcdBackend::from_url(&url(&format!("{CANARY}-wrong"))).unwrap();
    texts.push(format!(
        "{wrong:?} {:?}",
        attempt(&wrong, &plain("lock", Duration::from_secs(9))).await
    ));
    for bad in
        [url(CANARY).replace("etcd://", "http://"), url(CANARY).replace(&store.namespace, "")]
    {
        let error = EtcdBackend::from_url(&bad).unwrap_err();
        texts.push(format!("{error} {error:?}"));
    }
    // And none at all.
    store.server.kill();
    let error = attempt(&backend, &plain("other", Duration::from_secs(9))).await.unwrap_err();
    texts.push(format!("{error} {error:?}"));
    texts
}
