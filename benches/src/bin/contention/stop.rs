//! Ends in good order on Ctrl-C: whatever runs finds out, returns an error, and takes its children, servers and files with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use solocron_testkit::fleet::Member;
use tokio::signal::unix::{SignalKind, signal};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// How often a wait looks whether it was stopped.
const GLANCE: Duration = Duration::from_millis(20);

/// What a shell calls a program that ended by SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// From now on, the first SIGINT or SIGTERM stops in good order, and the second one at once.
///
/// # Errors
///
/// Those of the system.
pub(crate) fn on_signals() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if STOPPED.swap(true, Ordering::SeqCst) {
                    std::process::exit(INTERRUPTED.into());
                }
                eprintln!("contention: stopping; again to stop at once");
            }
        });
    });
    Ok(())
}

/// An error where it was stopped.
pub(crate) fn check() -> Result<(), String> {
    if STOPPED.load(Ordering::SeqCst) { Err("stopped by a signal".into()) } else { Ok(()) }
}

/// Waits for so long, or until it is stopped.
pub(crate) fn sleep(time: Duration) -> Result<(), String> {
    let deadline = Instant::now() + time;
    loop {
        check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(GLANCE));
    }
}

/// The next line of a contender.
pub(crate) fn line(member: &mut Member, patience: Duration) -> Result<String, String> {
    let deadline = Instant::now() + patience;
    loop {
        match member.recv(GLANCE) {
            Ok(line) => return Ok(line),
            Err(error) if error.kind() != std::io::ErrorKind::TimedOut => {
                return Err(error.to_string());
            }
            Err(_) if Instant::now() > deadline => {
                return Err(format!("{} said nothing for {patience:?}", member.name()));
            }
            Err(_) => check()?,
        }
    }
}

/// What follows `word` in the next line, which must begin with it.
pub(crate) fn expect(
    member: &mut Member,
    word: &str,
    patience: Duration,
) -> Result<String, String> {
    let line = line(member, patience)?;
    let rest = line.strip_prefix(word).ok_or(format!("{} said {line:?}", member.name()))?;
    Ok(rest.trim_start().to_owned())
}
