//! What is missing or wrong is named, and never measured as zero.

use std::process::{Command, Output};

fn contention(words: &[&str], path: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contention"));
    command.args(words).env("PATH", path).output().expect("it was built")
}

#[test]
fn a_missing_server_is_named_and_its_rows_are_left_out() {
    let out = tempfile::tempdir().expect("a directory");
    let dir = out.path().to_str().expect("text");
    let words = ["--quick", "--only", "redis", "--only", "etcd", "--out", dir];
    let output = contention(&words, "/nonexistent");
    assert!(output.status.success(), "{output:?}");
    let report = std::fs::read_to_string(out.path().join("contention.md")).expect("a report");
    for name in ["redis: no redis-server: run scripts/setup", "etcd: no etcd: run scripts/setup"] {
        assert!(report.contains(&format!("not measured: {name}")), "{report}");
    }
    assert!(!report.contains("| solocron"), "a row of nothing: {report}");
    let json = std::fs::read_to_string(out.path().join("contention.json")).expect("a report");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["contention"], serde_json::json!([]));
}

#[test]
fn a_wrong_word_or_directory_is_refused_before_anything_is_measured() {
    let wrong = contention(&["--only", "mysql"], "/nonexistent");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    assert!(said.contains("--only mysql: not one of flock") && said.contains("usage:"), "{said}");

    let wrong = contention(&["--quick", "--out", "/proc/nothing"], "/nonexistent");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && said.contains("--out /proc/nothing"), "{said}");

    let wrong = contention(&["--check", "/nonexistent/a", "/nonexistent/b"], "/nonexistent");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && said.contains("/nonexistent/a"), "{said}");
}
