//! A fleet of real children: this test binary, started again.
#![cfg(target_os = "linux")]

use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use solocron_testkit::fleet::{self, Fleet, Member, ORPHANED};
use solocron_testkit::history::monotonic_ns;

/// Far longer than anything here takes; only a failing test waits for it.
const SOON: Duration = Duration::from_secs(30);

/// What the children do; nothing in the test process itself.
#[test]
fn child_entry() {
    if fleet::role().is_some_and(|role| role == "tokio") {
        tokio_child();
    }
    fleet::as_child(|role, parent| {
        let mut inner = Fleet::new();
        for command in parent {
            let done = match (role, command.as_str()) {
                ("echo", "exit") => break,
                ("echo", "when") => fleet::reply(format_args!("at {}", monotonic_ns())),
                ("echo", other) => fleet::reply(format_args!("heard {other}")),
                ("parent", _) => {
                    inner.start("grandchild", child("echo").unwrap()).unwrap();
                    fleet::reply("started")
                }
                (role, _) => fleet::reply(format_args!("no role is called {role}")),
            };
            done.expect("the parent listens");
        }
    });
}

fn tokio_child() -> ! {
    let (heard, mut commands) = tokio::sync::mpsc::unbounded_channel();
    fleet::hear(move |command| heard.send(command).expect("the child listens until it exits"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        while let Some(command) = commands.recv().await {
            fleet::reply(format_args!("heard {command}")).expect("the parent listens");
        }
    });
    unreachable!("the process exits when its parent is gone")
}

fn child(role: &str) -> io::Result<Command> {
    fleet::this_test("child_entry", role)
}

fn echo() -> Member {
    Member::start("echo", child("echo").unwrap()).unwrap()
}

#[test]
fn a_child_answers_and_nothing_of_the_test_harness_is_heard() {
    let mut echo = echo();
    echo.send("one").unwrap();
    echo.send("two").unwrap();
    assert_eq!(echo.recv(SOON).unwrap(), "heard one");
    assert_eq!(echo.expect("heard", SOON).unwrap(), "two");
    echo.send("exit").unwrap();
    assert!(echo.wait(SOON).unwrap().success());
    assert_eq!(echo.recv(SOON).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_child_on_tokio_answers_and_exits_when_its_input_closes() {
    let mut member = Member::start("tokio", child("tokio").unwrap()).unwrap();
    member.send("one").unwrap();
    assert_eq!(member.expect("heard", SOON).unwrap(), "one");
    member.hang_up();
    assert_eq!(member.wait(SOON).unwrap().code(), Some(ORPHANED));
}

#[test]
fn a_stopped_child_does_nothing_until_it_is_continued() {
    let mut echo = echo();
    echo.send("hello").unwrap();
    echo.expect("heard", SOON).unwrap();
    assert!(!echo.is_stopped());

    echo.stop().unwrap();
    assert!(echo.is_stopped());
    echo.send("when").unwrap();
    assert!(echo.is_stopped());
    assert_eq!(echo.recv(Duration::ZERO).unwrap_err().kind(), io::ErrorKind::TimedOut);

    let before = monotonic_ns();
    echo.cont().unwrap();
    let at: u64 = echo.expect("at", SOON).unwrap().parse().unwrap();
    assert!(at > before, "answered {} ns before it was continued", before - at);
    assert!(!echo.is_stopped());
}

#[test]
fn stopping_twice_is_stopping() {
    let mut echo = echo();
    echo.stop().unwrap();
    echo.stop().unwrap();
    echo.cont().unwrap();
    echo.stop().unwrap();
    assert!(echo.is_stopped());
}

#[test]
fn a_kill_ends_a_stopped_child_and_its_id_is_never_signalled_again() {
    let mut echo = echo();
    echo.stop().unwrap();
    echo.kill().unwrap();
    assert_eq!(echo.wait(SOON).unwrap().signal(), Some(9));
    assert_eq!(echo.wait(Duration::ZERO).unwrap().signal(), Some(9));
    assert!(!echo.is_alive());
    for signalled in [echo.kill(), echo.stop(), echo.cont(), echo.terminate()] {
        assert_eq!(signalled.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

#[test]
fn a_dropped_member_is_gone_stopped_or_not() {
    for is_stopped in [false, true] {
        let mut echo = echo();
        let stat = format!("/proc/{}/stat", echo.pid());
        if is_stopped {
            echo.stop().unwrap();
        }
        assert!(std::fs::exists(&stat).unwrap());
        drop(echo);
        assert!(!std::fs::exists(&stat).unwrap());
    }
}

#[test]
fn a_panic_takes_the_fleet_down() {
    let (mut reader, writer) = io::pipe().unwrap();
    let panicked = std::panic::catch_unwind(move || {
        let mut fleet = Fleet::new();
        let mut command = child("echo").unwrap();
        command.stderr(writer);
        fleet.start("echo", command).unwrap();
        std::panic::resume_unwind(Box::new("a failing test"));
    });
    assert!(panicked.is_err());
    assert_eq!(reader.read_to_end(&mut vec![]).unwrap(), 0);
}

#[test]
fn a_child_exits_when_its_input_closes() {
    let mut echo = echo();
    echo.hang_up();
    assert_eq!(echo.wait(SOON).unwrap().code(), Some(ORPHANED));
    assert_eq!(echo.send("hello").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_child_exits_when_its_parent_is_killed() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut command = child("parent").unwrap();
    command.stderr(writer);
    let mut parent = Member::start("parent", command).unwrap();
    parent.send("start").unwrap();
    parent.expect("started", SOON).unwrap();
    parent.kill().unwrap();
    // Both hold the writing end as their stderr: it closes when both are dead.
    reader.read_to_end(&mut vec![]).unwrap();
}

#[test]
fn a_fleet_shuts_down_and_a_name_has_one_process() {
    let mut fleet = Fleet::new();
    fleet.start("a", child("echo").unwrap()).unwrap();
    let first = format!("/proc/{}/stat", fleet["a"].pid());
    fleet.start("a", child("echo").unwrap()).unwrap();
    fleet.start("b", child("echo").unwrap()).unwrap();
    assert!(!std::fs::exists(first).unwrap());
    assert_eq!(
        fleet.members().map(|member| member.name().to_owned()).collect::<Vec<_>>(),
        ["a", "b"]
    );

    let statuses = fleet.shut_down(SOON).unwrap();
    assert_eq!(
        statuses.values().map(|status| status.signal()).collect::<Vec<_>>(),
        [Some(15), Some(15)]
    );
}

#[test]
fn an_error_says_who_what_and_what_was_said_last() {
    let mut cat = Member::start("cat", Command::new("cat")).unwrap();
    let error = cat.expect("ready", Duration::ZERO).unwrap_err().to_string();
    let pid = cat.pid();
    assert_eq!(
        error,
        format!(
            "member `cat` (pid {pid}): waited 0ns for a line that begins with `ready`; it had said nothing"
        )
    );
    cat.send("hello").unwrap();
    assert_eq!(cat.recv(SOON).unwrap(), "hello");
    let error = cat.wait(Duration::ZERO).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("member `cat` (pid {pid}): waited 0ns for its exit; it last said `hello`")
    );

    let error = Member::start("none", Command::new("/no/such/program")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("`none`"), "{error}");
}
