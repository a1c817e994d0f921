//! No password reaches a log line, an error or a `Debug`.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use solocron::lock::LockBackend;
use solocron_redis::RedisBackend;
use solocron_testkit::server::RedisServer;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::{attempt, client, must, plain, win};

const SECRET: &str = "kingfisher-7731";

/// Keeps every event, at every level.
struct Everything;

static SAID: Mutex<String> = Mutex::new(String::new());

struct Words<'a>(&'a mut String);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Words(&mut SAID.lock().unwrap_or_else(PoisonError::into_inner)));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Words(&mut SAID.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn nothing_that_can_be_read_holds_a_password() {
    tracing::subscriber::set_global_default(Everything).unwrap();
    let mut read = String::new();
    let mut hear = |what: &dyn fmt::Debug| read.push_str(&format!("{what:?}\n{what:#?}\n"));
    let with_password = |server: &RedisServer| format!("redis://app:{SECRET}@{}", server.address());

    let good = RedisServer::builder().user("app", SECRET, "~* &* +@all").start();
    let builder = client(&with_password(&good));
    hear(&builder);
    hear(&builder.clone().credentials("app", SECRET));
    let backend = builder.build().unwrap();
    hear(&backend);
    let grant = win(&backend, &plain("report")).await;
    hear(&grant);
    hear(&backend.watch(&crate::key("report")).await.is_ok());
    must(&good, &["ACL", "SETUSER", "app", "off"]);
    must(&good, &["CLIENT", "KILL", "USER", "app"]);
    for _ in 0..3 {
        hear(&attempt(&backend, &plain("other")).await);
    }
    hear(&backend);

    // A server that repeats what it does not know, arguments and all.
    let without = |commands: &str| {
        let file = crate::config_file(commands);
        RedisServer::builder()
            .user("app", SECRET, "~* &* +@all")
            .set("include", file.to_str().unwrap())
            .start()
    };
    let old = without("rename-command HELLO \"\"");
    hear(&attempt(&client(&with_password(&old)).build().unwrap(), &plain("report")).await);
    let older = without("rename-command HELLO \"\"\nrename-command AUTH \"\"");
    let backend = client(&with_password(&older)).build().unwrap();
    let error = attempt(&backend, &plain("report")).await.unwrap_err();
    hear(&error);
    hear(&error.to_string());
    hear(&solocron::Error::Backend { doing: "x", key: None, source: error });

    for url in [
        format!("redis://:{SECRET}@host:99999/"),
        format!("http://:{SECRET}@host"),
        format!("redis://:{SECRET}@h/x"),
    ] {
        let error = RedisBackend::open(&url).unwrap_err();
        hear(&error.to_string());
        hear(&error);
    }
    assert!(!read.contains(SECRET), "{read}");
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(said.contains("redis"), "it logs something: {said}");
    assert!(!said.contains(SECRET), "{said}");
}
