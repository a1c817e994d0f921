//! Which boot of the machine this is: a file's content may be older than what was written to it, if it was written in another one.

use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;

use crate::lock::Mark;

/// The kernel's id of this boot. 0 where there is none (no Linux, no `/proc`): every boot then looks like the same one, and only
/// what was waited for on the disk outlives a power loss.
pub fn id() -> u128 {
    static ID: OnceLock<u128> = OnceLock::new();
    *ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| u128::from_str_radix(&text.trim().replace('-', ""), 16).ok())
            .unwrap_or(0)
    })
}

/// When this boot began, by today's wall clock: nothing that was written in another boot was written later.
pub fn began(now: Timestamp) -> Mark {
    Mark::floor(now.checked_sub(since()).unwrap_or(now))
}

/// How long the machine has been up, with the time it was suspended.
fn since() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use nix::time::{ClockId, clock_gettime};
        clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .expect("this kernel has the clock that clock_gettime(2) documents")
    }
    // Unknown: as if it had just begun. Never asked, because boots have no id here.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_boot_has_an_id_and_began_before_now() {
        assert_ne!(id(), 0);
        assert!(began(Timestamp::now()) < Mark::floor(Timestamp::now()));
    }
}
