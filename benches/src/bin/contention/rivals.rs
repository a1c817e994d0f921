//! Rivals in other languages: what is there to run them.

use std::path::PathBuf;
use std::process::Command;

use super::families::{By, Subject};

/// Where `scripts/rivals` installs them.
fn installed() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/rivals"))
}

fn written(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/rivals")).join(path)
}

/// The program that contends in this language, to which a role is given word by word.
pub(crate) fn program(by: By) -> Command {
    match by {
        By::Node => {
            let mut command = Command::new("node");
            command.arg(written("node/contend.cjs"));
            command.env("SOLOCRON_RIVALS_NODE", installed().join("node"));
            command
        }
        By::Python | By::Rust => {
            let mut command = Command::new(installed().join("python/bin/python"));
            command.arg(written("python/contend.py"));
            command
        }
    }
}

/// Its version, or why it cannot be measured.
///
/// # Errors
///
/// What is missing, and how to get it.
pub(crate) fn version(subject: &Subject) -> Result<String, String> {
    let mut command = program(subject.by);
    let missing = |why: &str| format!("{why}; scripts/rivals installs what it can");
    let output = command
        .args(["--about", subject.name])
        .output()
        .map_err(|error| missing(&format!("{}: {error}", command.get_program().display())))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = text(&output.stderr);
    let error = said.lines().find(|line| line.contains("Error")).or(said.lines().last());
    Err(missing(error.unwrap_or("it ended without a word")))
}
