//! The scripts: the rules of a lock with a memory in Lua, one round trip each, atomic by the server.
//!
//! Constants only: whatever comes from outside travels as a key or an argument. Each does a constant amount of work for each key.

use std::sync::LazyLock;

use redis::Script as Code;

/// One script and what it is for.
pub(crate) struct Script {
    /// One bit of its own.
    pub(crate) bit: u16,
    /// What we are doing when it fails.
    pub(crate) doing: &'static str,
    source: &'static str,
    code: LazyLock<Code>,
}

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $at:literal, $doing:literal, [$($file:literal),+]) => {
        $(#[$doc])*
        pub(crate) static $name: Script = {
            const SOURCE: &str = concat!(include_str!("lua/common.lua"), $(include_str!(concat!("lua/", $file))),+);
            Script { bit: 1 << $at, doing: $doing, source: SOURCE, code: LazyLock::new(|| Code::new(SOURCE)) }
        };
    };
}

script!(
    /// Confirms the epoch of the namespace.
    OPEN, 0, "confirm the epoch", ["epoch.lua", "open.lua"]
);
script!(
    /// Attempts locks.
    ACQUIRE, 1, "take locks", ["epoch.lua", "acquire.lua"]
);
script!(
    /// Makes locks take claims.
    ENROLL, 2, "enroll jobs", ["record.lua", "enroll.lua"]
);
script!(
    /// Extends leases.
    RENEW, 3, "renew leases", ["record.lua", "renew.lua"]
);
script!(
    /// Gives back a lease or a nonce.
    RELEASE, 4, "give a lock back", ["wake.lua", "release.lua"]
);
script!(
    /// Gets in line.
    WATCH, 5, "wait for locks", ["record.lua", "wake.lua", "watch.lua"]
);
script!(
    /// Leaves the line.
    LEAVE, 6, "stop waiting for locks", ["record.lua", "wake.lua", "leave.lua"]
);
script!(
    /// Checks the right to wake others.
    READY,
    15,
    "wake waiters",
    ["ready.lua"]
);
script!(
    /// Writes a note.
    NOTE, 7, "write a note", ["record.lua", "note.lua"]
);
script!(
    /// Reads holders.
    HOLDERS, 8, "list the holders of locks", ["record.lua", "holders.lua"]
);

impl Script {
    pub(crate) fn source(&self) -> &'static str {
        self.source
    }

    pub(crate) fn hash(&self) -> &str {
        self.code.get_hash()
    }
}
