//! What this process uses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Processor time of this process, user and system.
pub(crate) fn cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let usage = usage.expect("getrusage(2) knows this process");
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

/// Bytes of memory in use by this process.
pub(crate) fn resident() -> f64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let page = page.ok().flatten().unwrap_or(4096) as f64;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(f64::NAN) * page
}

pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The first whole second at least `ahead` from now.
pub(crate) fn whole_second(ahead: Duration) -> Duration {
    Duration::from_secs((since_epoch() + ahead).as_secs() + 1)
}

/// Waits until this process has next to nothing to do; gives up after a while.
pub(crate) async fn settled() {
    const GLANCE: Duration = Duration::from_millis(500);
    let mut used = cpu();
    for _ in 0..40 {
        tokio::time::sleep(GLANCE).await;
        let now = cpu();
        if now - used < GLANCE / 20 {
            return;
        }
        used = now;
    }
}

/// Processor time over a few seconds in which nothing is due, in percent of one processor.
pub(crate) async fn idle_percent() -> f64 {
    const WATCHED: Duration = Duration::from_secs(4);
    let before = cpu();
    tokio::time::sleep(WATCHED).await;
    (cpu() - before).as_secs_f64() / WATCHED.as_secs_f64() * 100.0
}
