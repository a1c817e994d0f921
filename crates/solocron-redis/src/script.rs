//! The scripts: the rules of a lock with a memory in Lua, one round trip each, atomic by the server.
//!
//! Constants only: whatever comes from outside travels as a key or an argument. Each does a constant amount of work for each key.

use std::sync::LazyLock;

use redis::Script as Code;

/// One script and what it is for.
pub(crate) struct Script {
    /// What we are doing when it fails.
    pub(crate) doing: &'static str,
    source: &'static str,
    code: LazyLock<Code>,
}

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $doing:literal, [$($file:literal),+]) => {
        $(#[$doc])*
        pub(crate) static $name: Script = {
            const SOURCE: &str = concat!(include_str!("lua/common.lua"), $(include_str!(concat!("lua/", $file))),+);
            Script { doing: $doing, source: SOURCE, code: LazyLock::new(|| Code::new(SOURCE)) }
        };
    };
}

script!(
    /// Confirms the epoch of the namespace.
    OPEN, "confirm the epoch", ["epoch.lua", "open.lua"]
);
script!(
    /// Attempts locks.
    ACQUIRE, "take locks", ["epoch.lua", "acquire.lua"]
);
script!(
    /// Makes locks take claims.
    ENROLL, "enroll jobs", ["enroll.lua"]
);
script!(
    /// Extends leases.
    RENEW, "renew leases", ["renew.lua"]
);
script!(
    /// Gives back a lease or a nonce.
    RELEASE, "give a lock back", ["release.lua"]
);
script!(
    /// Gets in line.
    WATCH, "wait for locks", ["watch.lua"]
);
script!(
    /// Leaves the line.
    LEAVE, "stop waiting for locks", ["leave.lua"]
);
script!(
    /// Checks the right to wake others.
    READY,
    "wake waiters",
    ["ready.lua"]
);
script!(
    /// Writes a note.
    NOTE, "write a note", ["note.lua"]
);
script!(
    /// Reads holders.
    HOLDERS, "list the holders of locks", ["holders.lua"]
);

impl Script {
    pub(crate) fn source(&self) -> &'static str {
        self.source
    }

    pub(crate) fn hash(&self) -> &str {
        self.code.get_hash()
    }
}
