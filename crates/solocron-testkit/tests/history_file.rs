//! The file: what a witness writes is what a history reads, and nothing else is.

use std::fs;
use std::io::{self, Write as _};
use std::thread;

use proptest::prelude::*;
use solocron_testkit::history::{
    Claim, Event, History, Malformed, Meta, Outcome, Schedule, What, Witness,
};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ a-z=%\\n]{0,8}", Just(String::new())]
}

fn claim() -> impl Strategy<Value = Claim> {
    (text(), any::<i64>(), any::<u64>()).prop_map(|(job, tick, fence)| Claim { job, tick, fence })
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let every = (1..=u64::MAX).prop_map(|period_ms| Schedule::Every { period_ms });
    prop_oneof![every, any::<Vec<i64>>().prop_map(Schedule::At)]
}

fn meta() -> impl Strategy<Value = Meta> {
    let jobs = prop::collection::btree_map(text(), schedule(), 0..4);
    (any::<i64>(), any::<u64>(), any::<u64>(), jobs).prop_map(
        |(wall_ms, grace_ms, settle_ms, jobs)| Meta { wall_ms, grace_ms, settle_ms, jobs },
    )
}

fn what() -> impl Strategy<Value = What> {
    let outcome = prop_oneof![Just(Outcome::End), Just(Outcome::Lost), Just(Outcome::Panic)];
    prop_oneof![
        meta().prop_map(What::Meta),
        prop_oneof![Just(What::Boot), Just(What::Stop), Just(What::Bye)],
        (claim(), any::<u64>(), any::<u64>()).prop_map(|(claim, asked, answered)| What::Grant {
            claim,
            asked,
            answered
        }),
        (claim(), any::<u32>()).prop_map(|(claim, attempt)| What::Start { claim, attempt }),
        (claim(), any::<u64>()).prop_map(|(claim, n)| What::Effect { claim, n }),
        (claim(), outcome).prop_map(|(claim, outcome)| What::Over { claim, outcome }),
        claim().prop_map(|claim| What::Undo { claim }),
        (text(), any::<i64>()).prop_map(|(job, tick)| What::Missed { job, tick }),
        (text(), any::<i64>(), text()).prop_map(|(job, tick, why)| What::Skipped {
            job,
            tick,
            why
        }),
        (text(), any::<i64>()).prop_map(|(job, tick)| What::Abandoned { job, tick }),
        (text(), text()).prop_map(|(kind, node)| What::Fault { kind, node }),
        (text(), text()).prop_map(|(kind, node)| What::Heal { kind, node }),
        text().prop_map(|what| What::Leak { what }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    (any::<u64>(), text(), any::<u32>(), what()).prop_map(|(t, node, pid, what)| Event {
        t,
        node,
        pid,
        what,
    })
}

proptest! {
    #[test]
    fn any_event_is_one_line_and_comes_back(event in event()) {
        let line = event.to_string();
        prop_assert!(!line.contains('\n') && line.is_ascii());
        prop_assert_eq!(line.parse(), Ok(event));
    }

    #[test]
    fn no_line_is_read_but_as_it_is_written(line in "t=[0-9+]{1,2} {1,2}node=[a%=41]{0,3} pid=1 event=(boot|bye ?|x)") {
        if let Ok(event) = line.parse::<Event>() {
            prop_assert_eq!(event.to_string(), line);
        }
    }
}

#[test]
fn a_line_that_is_not_in_the_form_is_refused_with_a_reason() {
    for (line, reason) in [
        ("", "the line ends before `t=`"),
        ("t=1 node=a pid=1", "the line ends before `event=`"),
        ("t=1 pid=1 node=a event=boot", "expected `node=`, found `pid=1`"),
        ("t=-1 node=a pid=1 event=boot", "`-1` is no number that fits `t=`"),
        ("t=1 node=a pid=1 event=boots", "no event is called `boots`"),
        ("t=1 node=a pid=1 event=boot now", "not in its one form: `t=1 node=a pid=1 event=boot`"),
        ("t=1 node=%61 pid=1 event=boot", "not in its one form: `t=1 node=a pid=1 event=boot`"),
        ("t=1 node=%6 pid=1 event=boot", "`%6` is not percent-encoded UTF-8"),
        ("t=1 node=%FF pid=1 event=boot", "`%FF` is not percent-encoded UTF-8"),
        (
            "t=1 node=a pid=1 event=meta wall=0 grace=0 settle=0 job=a every=0",
            "job `a` has a period of zero",
        ),
        ("t=1 node=a pid=1 event=meta wall=0 grace=0 settle=0 job=a", "no schedule for job `a`"),
    ] {
        assert_eq!(line.parse::<Event>(), Err(reason.to_owned()), "{line}");
    }
}

const META: &str = "t=1 node=a pid=1 event=meta wall=0 grace=0 settle=0\n";

fn read(text: &str) -> io::Result<History> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("history"), text)?;
    History::read(dir.path().join("history"))
}

#[test]
fn a_history_begins_with_its_only_meta() {
    assert_eq!(read(META).unwrap().events().len(), 1);
    for (text, line) in [
        ("", 1),
        ("t=1 node=a pid=1 event=boot\n", 1),
        (&format!("{META}{META}"), 2),
        (&format!("{META}\n"), 2),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            error.get_ref().unwrap().downcast_ref::<Malformed>().unwrap().line,
            line,
            "{error}"
        );
    }
}

#[test]
fn a_torn_last_line_is_an_error_unless_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    fs::write(&path, format!("{META}t=2 node=a pid=1 event=bo")).unwrap();
    let error = History::read(&path).unwrap_err().to_string();
    assert_eq!(error, "line 2 of the history: torn off after `t=2 node=a pid=1 event=bo`");
    let history = History::read_torn(&path).unwrap();
    assert_eq!((history.events().len(), history.torn()), (1, Some("t=2 node=a pid=1 event=bo")));

    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"ot\n").unwrap();
    assert_eq!(History::read(&path).unwrap().torn(), None);
}

#[cfg(unix)]
#[test]
fn lines_of_many_writers_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    fs::write(&path, META).unwrap();
    let long = "x".repeat(3000);
    thread::scope(|scope| {
        for node in ["a", "b", "c", "d"] {
            let witness = Witness::open(&path).unwrap();
            let what = What::Leak { what: long.clone() };
            scope.spawn(move || {
                (0..200).try_for_each(|_| witness.record(&Event::now(node, what.clone()))).unwrap()
            });
        }
    });
    assert_eq!(History::read(&path).unwrap().events().len(), 1 + 4 * 200);
}
