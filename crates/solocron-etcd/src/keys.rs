//! What is written to etcd: two keys for each lock.
//!
//! ```text
//!   solocron/<namespace>/lock/<slug>    there while somebody holds the lock; bound to the holder's session lease. Its create revision
//!                                       is the fence. A short text: who, since when, for which tick ([`Tag`])
//!   solocron/<namespace>/state/<slug>   there for ever once the key was enrolled or noted; for some minutes where it was only revoked.
//!                                       A `KeyRecord`: mark, attempts, schedule, refused nonces, note
//! ```

use std::time::Duration;

use solocron::jiff::Timestamp;
use solocron::lock::{Holder, LockKey, Mark, NodeId, Nonce};

/// Where the keys of a namespace stand.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    locks: String,
    states: String,
}

impl Keys {
    pub(crate) fn of(namespace: &str) -> Self {
        Self {
            locks: format!("solocron/{namespace}/lock/"),
            states: format!("solocron/{namespace}/state/"),
        }
    }

    /// What the names of all lock keys begin with. Ends with a slash, so that no other namespace begins with it.
    pub(crate) fn locks(&self) -> &[u8] {
        self.locks.as_bytes()
    }

    pub(crate) fn lock(&self, key: &LockKey) -> Vec<u8> {
        format!("{}{}", self.locks, key.slug()).into_bytes()
    }

    pub(crate) fn state(&self, key: &LockKey) -> Vec<u8> {
        format!("{}{}", self.states, key.slug()).into_bytes()
    }
}

/// The value of a lock key: who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) key: LockKey,
    pub(crate) nonce: Nonce,
    pub(crate) node: NodeId,
    /// By the holder's clock: etcd has none.
    pub(crate) since: Timestamp,
    pub(crate) tick: Option<Mark>,
    pub(crate) attempt: u32,
    /// What the holder asked for, in seconds.
    pub(crate) ttl: Duration,
}

/// The first line of the format that is written. A reader refuses any other by name.
const FORMAT: &str = "solocron lock 1";

impl Tag {
    /// As text, which `etcdctl get` shows to a person: a line for each field.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Self { key, nonce, node, since, tick, attempt, ttl } = self;
        let tick = tick.map_or_else(|| "-".to_owned(), |tick| tick.timestamp().to_string());
        format!(
            "{FORMAT}\nkey {}\nnode {}\nsince {since}\ntick {tick}\nattempt {attempt}\nttl {}\nnonce {:032x}\n",
            escape(key.as_str()),
            escape(node.as_str()),
            ttl.as_secs(),
            nonce.as_u128(),
        )
        .into_bytes()
    }

    /// The reverse. `Err`: which line is not what we write.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "format")?;
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) {
            return Err("format");
        }
        let mut field = |name: &'static str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or(name)
        };
        Ok(Self {
            key: LockKey::new(unescape(field("key")?)).map_err(|_| "key")?,
            node: NodeId::named(&unescape(field("node")?)),
            since: field("since")?.parse().map_err(|_| "since")?,
            tick: match field("tick")? {
                "-" => None,
                tick => {
                    let tick: Timestamp = tick.parse().map_err(|_| "tick")?;
                    Some(Mark::of(tick).map_err(|_| "tick")?)
                }
            },
            attempt: field("attempt")?.parse().map_err(|_| "attempt")?,
            ttl: Duration::from_secs(field("ttl")?.parse().map_err(|_| "ttl")?),
            nonce: u128::from_str_radix(field("nonce")?, 16)
                .map(Nonce::from_u128)
                .map_err(|_| "nonce")?,
        })
    }

    /// Who holds the lock. Nobody but etcd knows for how much longer: at most for as long as was asked for.
    pub(crate) fn holder(&self) -> Holder {
        let Self { key, nonce, node, since, tick, ttl, .. } = self.clone();
        let mut holder = Holder::new(key, nonce, node, since);
        holder.tick = tick;
        holder.remaining = Some(ttl);
        holder
    }
}

/// One line, whatever is in it. `str::lines` also cuts at a carriage return before the end of a line.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                _ => '\\',
            },
            c => c,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str, node: &str) -> Tag {
        Tag {
            key: LockKey::new(key).unwrap(),
            nonce: Nonce::from_u128(7),
            node: NodeId::named(node),
            since: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
            tick: Some(Mark::from_millis(1_700_000_000_001)),
            attempt: 2,
            ttl: Duration::from_secs(15),
        }
    }

    #[test]
    fn a_tag_survives_its_bytes_whatever_its_names_hold() {
        for name in ["a", "a\nb", "a\r", "\\", "\\n", "a\\", "☾", " a ", "tick -", "\u{2028}x"] {
            let mut tag = tag(name, name);
            assert_eq!(Tag::from_bytes(&tag.to_bytes()), Ok(tag.clone()), "{name:?}");
            tag.tick = None;
            assert_eq!(Tag::from_bytes(&tag.to_bytes()), Ok(tag), "{name:?}");
        }
    }

    #[test]
    fn what_we_did_not_write_is_an_error_that_names_the_line() {
        assert_eq!(Tag::from_bytes(b""), Err("format"));
        assert_eq!(Tag::from_bytes(b"\xff"), Err("format"));
        assert_eq!(Tag::from_bytes(b"solocron lock 2\nkey a\n"), Err("format"));
        let text = String::from_utf8(tag("a", "n").to_bytes()).unwrap();
        for (from, to, line) in [
            ("key a", "key ", "key"),
            ("attempt 2", "attempt x", "attempt"),
            ("since 2", "since x", "since"),
            ("ttl 15", "tll 15", "ttl"),
            (".001Z", ".0001Z", "tick"),
        ] {
            assert_eq!(Tag::from_bytes(text.replace(from, to).as_bytes()), Err(line), "{from}");
        }
    }

    #[test]
    fn no_namespace_begins_with_another() {
        let (a, ab) = (Keys::of("a"), Keys::of("ab"));
        assert!(!ab.locks().starts_with(a.locks()));
        let key = LockKey::new("☾/../x").unwrap();
        assert!(a.lock(&key).starts_with(a.locks()) && a.state(&key).is_ascii());
    }
}
