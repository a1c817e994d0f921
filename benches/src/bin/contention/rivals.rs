//! Rivals: which versions, and whether what runs them is there.

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
    if subject.by == By::Rust {
        let package = if subject.name == "etcd-lock-rpc" { "etcd-client" } else { subject.name };
        return Ok(format!("{package} {}", locked(package).unwrap_or("of unknown version")));
    }
    about(program(subject.by), subject)
}

/// What this program says about it.
fn about(mut command: Command, subject: &Subject) -> Result<String, String> {
    let missing = |why: &str| format!("{why}; scripts/rivals installs what it can");
    let output = command
        .args(["--about", subject.name])
        .output()
        .map_err(|error| missing(&format!("{}: {error}", command.get_program().display())))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(format!("{} {}", subject.name, text(&output.stdout)));
    }
    let said = text(&output.stderr);
    let error = said.lines().find(|line| line.contains("Error")).or(said.lines().last());
    Err(missing(error.unwrap_or("it ended without a word")))
}

/// The version of a crate that we were built with.
fn locked(package: &str) -> Option<&'static str> {
    const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));
    let after = LOCK.split_once(&format!("name = \"{package}\"\nversion = \""))?.1;
    after.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::super::families::{FAMILIES, Kind};
    use super::*;

    #[test]
    fn a_missing_interpreter_or_package_is_named() {
        let mut subjects = FAMILIES.iter().flat_map(|family| family.subjects);
        let subject = subjects.find(|subject| subject.by == By::Node).expect("there is one");
        let none = about(Command::new("/nonexistent/node"), subject).unwrap_err();
        assert!(none.contains("/nonexistent/node: ") && none.contains("scripts/rivals"), "{none}");

        let mut failing = Command::new("sh");
        failing.args([
            "-c",
            "echo a frame >&2; echo \"Error: Cannot find module 'redlock'\" >&2; exit 1",
        ]);
        let failed = about(failing, subject).unwrap_err();
        assert!(failed.starts_with("Error: Cannot find module 'redlock'; "), "{failed}");
    }

    #[test]
    fn every_rival_that_is_a_crate_has_a_version() {
        let rivals = FAMILIES.iter().flat_map(|family| family.subjects);
        for rival in rivals.filter(|rival| rival.kind == Kind::Rival && rival.by == By::Rust) {
            let version = version(rival).expect("it was built");
            assert!(version.contains(" 0."), "{version}");
        }
        assert_eq!(locked("no such crate"), None);
    }
}
