//! A name is any text, and two names are two locks.

use std::time::Duration;

use solocron::Error;
use solocron::lock::{LockBackend, LockKey, Mark, MarkAfter};

use super::client::{Raw, is_free, key, node, take};
use crate::Store;
use crate::harness::skip;

/// Names that some store or file system would take for something else, or for each other.
fn strange() -> Vec<LockKey> {
    let longest = LockKey::MAX_BYTES;
    let mut names: Vec<String> = [
        "a",
        "A",
        "a ",
        " a",
        "a.",
        "a\n",
        "a\0",
        "a\0b",
        "a/b",
        "a//b",
        "a\\b",
        "a:b",
        "a_b",
        "a-b",
        "/",
        "//",
        ".",
        "..",
        "../a",
        "./a",
        "~",
        "-rf",
        "*",
        "?",
        "a*",
        "{a}",
        "{a}b",
        "{a}c",
        "{}",
        "{",
        "%2F",
        "%",
        "☾",
        "é",
        "e\u{301}",
        "ß",
        "ss",
        "İ",
        "i",
        "con",
        "CON",
        "nul",
        "\u{feff}a",
        "\u{200b}a",
        "\"",
        "'",
        "`",
        "$(a)",
        "a;b",
        "a,b",
        "#",
        "a#0",
        "a#1",
        "1",
        "01",
        "true",
    ]
    .map(str::to_owned)
    .into();
    names.push("x".repeat(longest));
    names.push(format!("{}y", "x".repeat(longest - 1)));
    names.push("x".repeat(longest - 1));
    names.push("☾".repeat(longest / 3));
    names.iter().map(|name| key(name)).collect()
}

/// All of them can be held at once, and none is refused.
pub async fn strange_names_are_locks_of_their_own(h: &Store) {
    let (a, b) = (node(h), node(h));
    let mut guards = Vec::new();
    for key in strange() {
        guards.push(take(&a, &key).await);
    }
    for guard in &guards {
        assert!(!is_free(&b, guard.key()).await, "{}", guard.key());
    }
    for guard in guards {
        let key = guard.key().clone();
        guard.release().await.expect("the store answers");
        assert!(is_free(&b, &key).await, "{key}");
    }
}

/// Their marks are their own as well.
pub async fn strange_names_have_marks_of_their_own(h: &Store) {
    let a = Raw::new(h);
    if !a.capabilities().marks {
        return skip("no marks are kept");
    }
    for key in strange() {
        a.enroll(&key).await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    for key in strange() {
        let before = a.last(&key).await;
        assert!(before.done && before.owner.is_none(), "{key}: {before:?}");
        let tick = Mark::from_millis(before.mark.as_millis() + 1);
        let grant = a.win(&a.once(&key, tick)).await;
        a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
        assert_eq!(a.last(&key).await.mark, tick, "{key}");
    }
}

/// What comes back is the name that went in.
pub async fn a_holder_is_listed_under_its_own_name(h: &Store) {
    let (a, b) = (node(h), node(h));
    for key in strange() {
        let guard = take(&a, &key).await;
        let Some(holders) = b.holders(key.as_str()).await.expect("the store answers") else {
            return skip("the store does not tell who holds what");
        };
        let keys: Vec<_> = holders.iter().map(|holder| &holder.key).collect();
        assert_eq!(keys, [&key]);
        guard.release().await.expect("the store answers");
    }
}

/// A name that is no name is refused before anything is sent.
pub async fn an_empty_or_endless_name_is_refused(h: &Store) {
    let a = node(h);
    for name in [String::new(), "x".repeat(LockKey::MAX_BYTES + 1)] {
        let answer = a.try_lock(name).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    }
}
