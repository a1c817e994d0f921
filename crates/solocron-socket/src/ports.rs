//! Which port is which lock. Names are never hashed into ports: two that met in one would look like one lock.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use solocron::lock::LockKey;
use solocron::{BackendError, Invalid, Kind};

/// A rule that names a port for a key.
type Rule = Arc<dyn Fn(&LockKey) -> Option<u16> + Send + Sync>;

/// The ports of a backend.
#[derive(Clone, Default)]
pub(crate) struct Ports {
    named: BTreeMap<LockKey, u16>,
    rule: Option<Rule>,
    allow_ephemeral: bool,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports")
            .field("named", &self.named)
            .field("rule", &self.rule.is_some())
            .finish_non_exhaustive()
    }
}

impl Ports {
    pub(crate) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.rule.is_none()
    }

    pub(crate) fn name(&mut self, key: LockKey, port: u16) -> Option<u16> {
        self.named.insert(key, port)
    }

    pub(crate) fn rule(&mut self, rule: impl Fn(&LockKey) -> Option<u16> + Send + Sync + 'static) {
        self.rule = Some(Arc::new(rule));
    }

    pub(crate) fn allow_ephemeral(&mut self, allow: bool) {
        self.allow_ephemeral = allow;
    }

    /// The locks that have a port by name. `None`: there is a rule, and nobody knows for which.
    pub(crate) fn named(&self) -> Option<Vec<(LockKey, u16)>> {
        let all = || self.named.iter().map(|(key, port)| (key.clone(), *port)).collect();
        self.rule.is_none().then(all)
    }

    /// Checks the ports that are named.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let mut taken = BTreeMap::new();
        for (key, port) in &self.named {
            self.usable(*port)
                .map_err(|why| Invalid::new("port", port, format!("for {key}: {why}")))?;
            if let Some(other) = taken.insert(*port, key) {
                let why =
                    format!("both {other} and {key} have it: give each lock a port of its own");
                return Err(Invalid::new("port", port, why));
            }
        }
        Ok(())
    }

    /// The port of a lock.
    pub(crate) fn of(&self, key: &LockKey) -> Result<u16, BackendError> {
        if let Some(port) = self.named.get(key) {
            return Ok(*port);
        }
        let misconfigured = |why: String| BackendError::new(Kind::Misconfigured, why);
        let port = self.rule.as_ref().and_then(|rule| rule(key)).ok_or_else(|| {
            misconfigured(format!("lock {key} has no port: name one with SocketBuilder::port"))
        })?;
        self.usable(port)
            .map_err(|why| misconfigured(format!("port {port} of lock {key}: {why}")))?;
        if let Some((other, _)) = self.named.iter().find(|(_, named)| **named == port) {
            return Err(misconfigured(format!(
                "port {port} of lock {key} is that of {other}, too: give each lock a port of its own"
            )));
        }
        Ok(port)
    }

    fn usable(&self, port: u16) -> Result<(), String> {
        usable(port, self.allow_ephemeral, &Range::of_this_host())
    }
}

/// What this host does with its ports.
struct Range {
    first_unprivileged: u16,
    ephemeral: RangeInclusive<u16>,
    /// Never given to an outgoing connection, though ephemeral.
    reserved: Vec<RangeInclusive<u16>>,
}

impl Range {
    fn of_this_host() -> Self {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
        };
        let root = nix::unistd::geteuid().is_root();
        let first = read("ip_unprivileged_port_start").trim().parse().unwrap_or(1024);
        let bounds: Vec<u16> = read("ip_local_port_range")
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        Self {
            first_unprivileged: if root { 1 } else { first },
            // Where the system does not tell, the range of RFC 6335.
            ephemeral: if let [low, high] = bounds[..] { low..=high } else { 49_152..=65_535 },
            reserved: ranges(read("ip_local_reserved_ports").trim()),
        }
    }
}

/// `8080,9148-9150`
fn ranges(list: &str) -> Vec<RangeInclusive<u16>> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).collect()
}

fn usable(port: u16, allow_ephemeral: bool, host: &Range) -> Result<(), String> {
    let Range { first_unprivileged, ephemeral, reserved } = host;
    let (low, high) = (ephemeral.start(), ephemeral.end());
    if port == 0 {
        return Err("0 means any port, and every process would get another one: name one".into());
    }
    if port < *first_unprivileged {
        return Err(format!(
            "it is privileged, and this process is not root: choose one from {first_unprivileged} on, below {low}"
        ));
    }
    if ephemeral.contains(&port)
        && !allow_ephemeral
        && !reserved.iter().any(|reserved| reserved.contains(&port))
    {
        return Err(format!(
            "it lies in the range {low} to {high}, from which this host gives ports to outgoing connections, so any of them could \
             keep the lock: choose one below {low}, or put it into net.ipv4.ip_local_reserved_ports"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_cannot_be_a_lock_are_refused_with_what_to_do() {
        let host = Range {
            first_unprivileged: 1024,
            ephemeral: 32_768..=60_999,
            reserved: ranges("40000,50000-50010"),
        };
        for (port, words) in
            [(0, "name one"), (80, "privileged"), (32_768, "below 32768"), (60_999, "outgoing")]
        {
            let why = usable(port, false, &host).unwrap_err();
            assert!(why.contains(words), "{port}: {why}");
        }
        for port in [1024, 17_001, 32_767, 61_000, 40_000, 50_000, 50_010] {
            usable(port, false, &host).unwrap();
        }
        usable(35_000, true, &host).unwrap();
    }

    #[test]
    fn every_lock_has_a_port_of_its_own_or_is_refused() {
        let key = |name: &str| LockKey::new(name).unwrap();
        let mut ports = Ports::default();
        ports.allow_ephemeral(true);
        ports.name(key("a"), 17_001);
        assert_eq!(ports.of(&key("a")).unwrap(), 17_001);
        assert!(ports.of(&key("b")).unwrap_err().to_string().contains("has no port"));
        ports.rule(|key| key.as_str().parse().ok());
        assert_eq!(ports.of(&key("17002")).unwrap(), 17_002);
        let error = ports.of(&key("17001")).unwrap_err();
        assert!(error.to_string().contains("\"a\""), "{error}");
        ports.name(key("b"), 17_001);
        let error = ports.check().unwrap_err().to_string();
        assert!(
            error.contains("17001") && error.contains("\"a\"") && error.contains("\"b\""),
            "{error}"
        );
    }
}
