//! Who a process is, for the messages of errors. Only asked for when there is trouble.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::stream::Peer;

impl Peer {
    /// Whether it may hold or serve our locks: a process of this user or of root.
    pub(crate) fn is_trusted(self) -> bool {
        self.uid == geteuid().as_raw() || self.uid == 0
    }

    /// Whether it is stopped (`SIGSTOP`, a debugger), and so cannot answer.
    pub(crate) fn is_stopped(self) -> bool {
        let Some(pid) = self.pid else { return false };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        // pid (name) state …, and the name may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}{} of user {}", named(pid), self.uid),
            None => write!(f, "a process of another PID namespace, of user {}", self.uid),
        }
    }
}

/// ` (name)`, where the kernel tells.
fn named(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .map(|name| format!(" ({})", name.trim_end().escape_debug()))
        .unwrap_or_default()
}

/// Who has a TCP port of this host, as far as this process may see: `/proc/net/tcp` names its user and socket, and the processes of
/// the same user (all of them, for root) show which of them has that socket.
///
/// It looks through the descriptors of all processes, and so may block for long, and is not asked for again within seconds.
pub(crate) fn owner_of_port(port: u16) -> Option<String> {
    static OWNERS: Mutex<Owners> = Mutex::new(Owners(BTreeMap::new()));
    debug_assert_ne!(
        std::thread::current().name(),
        Some("solocron-keeper"),
        "every lease of the process waits for this"
    );
    // Never waited for: a child may have been forked while another thread had it.
    match OWNERS.try_lock() {
        Ok(mut owners) => owners.of(port, Instant::now(), look_for_owner),
        Err(_) => look_for_owner(port),
    }
}

/// Who had which port, and when that was found out.
struct Owners(BTreeMap<u16, (Instant, Option<String>)>);

impl Owners {
    const FRESH: Duration = Duration::from_secs(3);

    fn of(
        &mut self,
        port: u16,
        now: Instant,
        look: impl FnOnce(u16) -> Option<String>,
    ) -> Option<String> {
        self.0.retain(|_, (at, _)| now.duration_since(*at) < Self::FRESH);
        let (_, owner) = self.0.entry(port).or_insert_with(|| (now, look(port)));
        owner.clone()
    }
}

fn look_for_owner(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    let (uid, inode) = tables.iter().flatten().find_map(|table| owner_in(table, port))?;
    let link = format!("socket:[{inode}]");
    let pids = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        entry.file_name().to_str()?.parse::<i32>().ok().map(|pid| (pid, entry.path().join("fd")))
    });
    let pid = pids.into_iter().find(|(_, fds)| has(fds, &link)).map(|(pid, _)| pid);
    Some(match pid {
        Some(pid) => Peer { pid: Some(pid), uid }.to_string(),
        None => format!("a process of user {uid}"),
    })
}

fn has(fds: &Path, link: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(fds) else { return false };
    entries.flatten().any(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link)
    })
}

/// The user and the socket of a local port, in a table as of `proc(5)`; one that listens before others.
fn owner_in(table: &str, port: u16) -> Option<(u32, u64)> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, uid, _, inode, ..] = words[..] else { return None };
        let (_, at) = local.rsplit_once(':')?;
        let found = u16::from_str_radix(at, 16).ok()? == port && inode != "0";
        found.then_some((state != "0A", uid.parse().ok()?, inode.parse().ok()?))
    });
    rows.min_by_key(|(silent, ..)| *silent).map(|(_, uid, inode)| (uid, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_port_is_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:4269 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     7        0 111 1 0 20 4 30 10 -1\n   \
            1: 0100007F:4269 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 222 1 0 100 0 0 10 0\n";
        assert_eq!(owner_in(table, 0x4269), Some((1000, 222)), "the one that listens");
        assert_eq!(owner_in(table, 1), None);
        assert_eq!(owner_in("", 1), None);
    }

    #[test]
    fn who_has_a_port_is_looked_for_once_in_some_seconds_and_then_again() {
        let (mut owners, begun) = (Owners(BTreeMap::new()), Instant::now());
        let mut looked = Vec::new();
        for (port, after) in [(1, 0), (1, 1), (2, 1), (1, 2), (1, 3), (2, 3), (2, 4)] {
            let now = begun + Duration::from_secs(after);
            let look = |port: u16| {
                looked.push((port, after));
                Some(port.to_string())
            };
            assert_eq!(owners.of(port, now, look), Some(port.to_string()));
        }
        assert_eq!(looked, [(1, 0), (2, 1), (1, 3), (2, 4)]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_found_by_its_port_and_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = owner_of_port(listener.local_addr().unwrap().port()).unwrap();
        let pid = std::process::id();
        assert!(owner.contains(&format!("process {pid} (")), "{owner}");
        let own = Peer { pid: i32::try_from(pid).ok(), uid: geteuid().as_raw() };
        assert!(own.is_trusted() && !own.is_stopped());
    }
}
