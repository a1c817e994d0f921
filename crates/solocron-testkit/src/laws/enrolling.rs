//! How a key begins to take claims.

use std::time::Duration;

use solocron::jiff::{SignedDuration, Timestamp};
use solocron::lock::{Enrolment, LockBackend, Mark, MarkAfter, Reply};
use solocron::{Error, Kind};

use super::client::{Raw, in_an_hour, is_free, key, node, once};
use crate::Store;
use crate::harness::skip;

fn marks(h: &Store) -> Option<Raw> {
    let raw = Raw::new(h);
    if raw.capabilities().marks {
        return Some(raw);
    }
    skip("no marks are kept");
    None
}

/// A new job begins now: what was due before it existed was not missed, and what comes next is not lost.
pub async fn enrolling_begins_at_the_stores_now(h: &Store) {
    let Some(a) = marks(h) else { return };
    let enrolled = a.enroll(&key("report")).await;
    assert!(enrolled.created);
    assert!(enrolled.last.done && enrolled.last.owner.is_none() && enrolled.last.attempts == 0);
    assert_eq!(enrolled.schedule.fingerprint, 7);
    assert_eq!(enrolled.schedule.since, enrolled.last.mark);
    // The harness's store is on this machine, or nearly so.
    let off = Timestamp::now().duration_since(enrolled.last.mark.timestamp());
    assert!(off.abs() < SignedDuration::from_secs(60), "the mark is {off:?} off");
    if let Some(store_now) = enrolled.store_now {
        assert_eq!(enrolled.last.mark, Mark::floor(store_now));
    }
    let stale = a.reply(&a.once(&key("report"), enrolled.last.mark)).await;
    assert!(matches!(stale, Reply::Stale { done: true, .. }), "{stale:?}");
}

/// A second node, a second start: nothing is reset.
pub async fn enrolling_again_resets_nothing(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let first = a.enroll(&key).await;
    tokio::time::sleep(Duration::from_millis(3)).await;
    let again = b.enroll(&key).await;
    assert!(!again.created);
    assert_eq!((&again.last, again.schedule), (&first.last, first.schedule));
    let [tick] = a.ticks(&key).await;
    let grant = a.win(&a.once(&key, tick)).await;
    let running = b.enroll(&key).await.last;
    assert_eq!((running.mark, running.done, running.attempts), (tick, false, 1));
    assert_eq!(running.owner, Some(a.node.clone()));
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    assert!(b.enroll(&key).await.last.done);
}

/// A schedule that changed is dated: before that, nothing was missed. Its mark stays.
pub async fn a_changed_schedule_is_dated(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    let grant = a.win(&a.once(&key, tick)).await;
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    tokio::time::sleep(Duration::from_millis(3)).await;
    let changed = a.enroll_as(&key, 8).await;
    assert!(!changed.created);
    assert_eq!((changed.last.mark, changed.last.done), (tick, true));
    assert_eq!(changed.schedule.fingerprint, 8);
    assert!(changed.schedule.since > tick, "{:?}", changed.schedule);
    let again = a.enroll_as(&key, 8).await;
    assert_eq!(again.schedule, changed.schedule, "the same schedule is not dated again");
    let next = Mark::from_millis(tick.as_millis() + 1);
    let schedule = a.win(&a.once(&key, next)).await.schedule;
    assert_eq!(schedule, Some(changed.schedule), "a winner is told the schedule on record");
}

/// An acquisition never makes up a past of its own.
pub async fn a_key_that_was_not_enrolled_takes_no_claims(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let tick = Mark::floor(Timestamp::now());
    for tick in [tick, Mark::from_millis(0), in_an_hour()] {
        let error = a.send(&a.once(&key, tick)).await.expect_err("nothing to claim from");
        assert_eq!(error.kind(), Kind::NotEnrolled);
    }
    // A plain lock makes no claims possible either.
    assert!(is_free(&node(h), &key).await);
    let error = a.send(&a.once(&key, tick)).await.expect_err("nothing to claim from");
    assert_eq!(error.kind(), Kind::NotEnrolled);
    assert!(a.enroll(&key).await.created);
}

/// Enrolling takes no lock and disturbs none.
pub async fn enrolling_disturbs_no_holder(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let grant = a.win(&a.plain(&key)).await;
    assert!(b.enroll(&key).await.created);
    assert!(!is_free(&node(h), &key).await);
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    assert!(is_free(&node(h), &key).await);
}

/// Many jobs in one call: an answer for each, in their order.
pub async fn many_jobs_enroll_in_one_call(h: &Store) {
    let Some(a) = marks(h) else { return };
    let keys: Vec<_> = (0..50).map(|n| key(&format!("job-{n}"))).collect();
    a.enroll_as(&keys[20], 120).await;
    let jobs: Vec<_> = keys
        .iter()
        .zip(100..)
        .map(|(key, fingerprint)| Enrolment { key: key.clone(), fingerprint })
        .collect();
    let answers = a.backend.enroll(&jobs).await;
    assert_eq!(answers.len(), jobs.len());
    for (n, (answer, job)) in answers.into_iter().zip(&jobs).enumerate() {
        let enrolled = answer.expect("the store answers");
        assert_eq!(enrolled.schedule.fingerprint, job.fingerprint);
        assert_eq!(enrolled.created, n != 20);
    }
}

/// Where no marks are kept, enrolling and claiming say so at once, and say what is missing.
pub async fn without_marks_nothing_is_enrolled(h: &Store) {
    let a = node(h);
    if a.capabilities().marks {
        return skip("marks are kept");
    }
    let answer = a.enroll(&[Enrolment { key: key("report"), fingerprint: 7 }]).await;
    assert!(matches!(answer, Err(Error::Lacks { need: "marks", .. })), "{answer:?}");
    assert!(a.claim("report", once(in_an_hour())).await.is_err());
}
