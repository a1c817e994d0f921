//! What a holder says to whoever connects: one line, which a person can read too (`nc 127.0.0.1 17001`).
//!
//! ```text
//!   solocron/1 namespace=billing key=nightly%20report node=web-1/4711/0b1c pid=4711 since=1792800000000000 tick=- fence=1792800000000000 state=66305:7
//! ```
//!
//! Everything that is not plain ASCII is written as `%XX`. It holds no secret: the nonce, which proves ownership, is not in it.

use std::fmt::Write;

use solocron::jiff::Timestamp;
use solocron::lock::{Fence, Holder, LockKey, Mark, NodeId, Nonce};

use crate::state::DirId;

/// The protocol and its version.
pub(crate) const MAGIC: &str = "solocron/1";

/// Longer than any banner: a key and a node, three characters a byte, and the rest.
pub(crate) const LONGEST: usize = 3 * (LockKey::MAX_BYTES + NodeId::MAX_BYTES) + 400;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Banner {
    pub(crate) namespace: String,
    pub(crate) key: LockKey,
    pub(crate) node: NodeId,
    pub(crate) pid: u32,
    pub(crate) since: Timestamp,
    pub(crate) tick: Option<Mark>,
    pub(crate) fence: Fence,
    /// Where the record is kept, if it is.
    pub(crate) state: Option<DirId>,
    /// There is no room: whoever is told so is not kept until the lock is free.
    pub(crate) full: bool,
}

impl Banner {
    /// The line, with its end.
    pub(crate) fn line(&self) -> String {
        let Self { namespace, key, node, pid, since, tick, fence, state, full } = self;
        let (key, node) = (escaped(key.as_str()), escaped(node.as_str()));
        let since = since.as_microsecond();
        let tick = tick.map_or_else(|| "-".to_owned(), |tick| tick.as_millis().to_string());
        let state =
            state.map_or_else(|| "-".to_owned(), |DirId { dev, ino }| format!("{dev}:{ino}"));
        let full = if *full { " full=yes" } else { "" };
        format!(
            "{MAGIC} namespace={namespace} key={key} node={node} pid={pid} since={since} tick={tick} fence={fence} state={state}{full}\n"
        )
    }

    /// What a line says; `None` where it is no banner. Fields that are not known are passed over.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_suffix('\n')?.split(' ');
        if words.next()? != MAGIC {
            return None;
        }
        let words: Vec<_> = words.filter_map(|word| word.split_once('=')).collect();
        let field =
            |name: &str| words.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let tick = match field("tick")? {
            "-" => None,
            millis => Some(Mark::from_millis(millis.parse().ok()?)),
        };
        let state = match field("state")? {
            "-" => None,
            id => {
                let (dev, ino) = id.split_once(':')?;
                Some(DirId { dev: dev.parse().ok()?, ino: ino.parse().ok()? })
            }
        };
        Some(Self {
            namespace: field("namespace")?.to_owned(),
            key: LockKey::new(unescaped(field("key")?)?).ok()?,
            node: NodeId::named(&unescaped(field("node")?)?),
            pid: field("pid")?.parse().ok()?,
            since: Timestamp::from_microsecond(field("since")?.parse().ok()?).ok()?,
            tick,
            fence: Fence::new(field("fence")?.parse().ok()?),
            state,
            full: field("full").is_some(),
        })
    }

    /// The holder that it names.
    pub(crate) fn holder(self) -> Holder {
        let mut holder = Holder::new(self.key, Nonce::from_u128(0), self.node, self.since);
        (holder.nonce, holder.tick) = (None, self.tick);
        holder
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(byte.into());
        } else {
            write!(out, "%{byte:02X}").expect("a string takes everything");
        }
    }
    out
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_said_is_understood(key in ".{1,300}", node in ".{0,40}", tick in proptest::option::of(any::<i64>()),
            state in proptest::option::of((any::<u64>(), any::<u64>())), full: bool
        ) {
            let banner = Banner {
                namespace: "billing".to_owned(),
                key: LockKey::new(key).unwrap(),
                node: NodeId::named(&node),
                pid: 4711,
                since: Timestamp::from_microsecond(1_792_800_000_000_001).unwrap(),
                tick: tick.map(Mark::from_millis),
                fence: Fence::new(7),
                state: state.map(|(dev, ino)| DirId { dev, ino }),
                full,
            };
            let line = banner.line();
            prop_assert!(line.len() <= LONGEST && line.matches('\n').count() == 1);
            prop_assert_eq!(Banner::parse(&line), Some(banner));
        }

        #[test]
        fn garbage_is_no_banner_and_never_a_panic(line in "(solocron/1)?.{0,200}\n?") {
            prop_assert_eq!(Banner::parse(&line), None);
        }

        #[test]
        fn a_banner_cut_anywhere_is_no_banner(cut in 0usize..120) {
            let line = "solocron/1 namespace=n key=k node=h/1/2 pid=1 since=5 tick=- fence=7 state=1:2\n";
            prop_assert_eq!(Banner::parse(&line[..cut.min(line.len() - 1)]), None);
        }
    }
}
