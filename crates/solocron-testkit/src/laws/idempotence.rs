//! The same nonce, the same grant: so that an acquisition can be sent again, taken back, or dropped anywhere.

use std::time::Duration;

use solocron::lock::{
    LockBackend, LockOptions, Locks, MarkAfter, Nonce, Released, Reply, Validity,
};
use solocron::{Effect, Error, Kind};

use super::client::{
    Raw, SOON, due_ticks, in_an_hour, in_time, is_free, key, locks, long_ttl, node, now, once,
    short_ttl, stop_after, take,
};
use crate::harness::skip;
use crate::{Call, Fault, Faulty, Store};

/// Sending it again finds the grant of the first time.
pub async fn the_same_nonce_gets_the_same_grant(h: &Store) {
    let (a, b, key) = (Raw::new(h), node(h), key("report"));
    let request = a.plain(&key);
    let first = a.win(&request).await;
    for _ in 0..3 {
        let again = a.win(&request).await;
        assert_eq!((again.fence, again.attempt), (first.fence, first.attempt));
    }
    assert!(!is_free(&b, &key).await);
    a.backend.release(&first.lease, MarkAfter::Done).await.expect("the store answers");
    assert!(is_free(&b, &key).await);
}

/// Also for a tick, which by now is at the mark, and for what the winner was told of the claim before.
pub async fn the_same_nonce_gets_the_same_tick(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    if !a.capabilities().marks {
        return skip("no marks are kept");
    }
    let [tick] = a.ticks(&key).await;
    let request = a.once(&key, tick);
    let first = a.win(&request).await;
    let again = a.win(&request).await;
    assert_eq!(again.fence, first.fence);
    assert_eq!((again.attempt, again.previous), (first.attempt, first.previous));
    assert_eq!(a.last(&key).await.attempts, 1, "it was granted once");
}

/// The validity of a resent grant counts from the first send: nobody knows which copy arrived.
pub async fn a_resent_grant_counts_from_the_first_send(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    let request = a.plain(&key);
    let _first = a.win(&request).await;
    let again = a.win(&request).await;
    if let Validity::Until { since, .. } = again.validity {
        assert_eq!(since, request.first_sent);
    }
}

/// A resend is not a renewal.
pub async fn a_resend_extends_no_lease(h: &Store) {
    const TRIES: u32 = 5;
    let (a, b) = (Raw::brief(h), Raw::brief(h));
    let Some(range) = a.capabilities().ttl else { return skip("leases do not run out") };
    let mut lives = Vec::new();
    // A machine that is loaded may be too slow to tell; a lease that is extended is extended every time.
    for round in 0..TRIES {
        let key = key(&format!("report-{round}"));
        let (request, sent) = (a.plain(&key), now());
        let age = || now().saturating_since(sent);
        let first = a.win(&request).await;
        while age() < a.ttl * 6 / 10 {
            tokio::time::sleep(a.ttl / 10).await;
            match a.send(&request).await {
                Ok(Reply::Won(again)) if again.fence == first.fence => {}
                _ if age() >= a.ttl => break, // too slow: it was over
                other => panic!("the living nonce was answered with {other:?}"),
            }
        }
        let (_, won_at) = b.win_when_free(&key).await;
        let lived = won_at.saturating_since(sent);
        if lived < a.ttl * 15 / 10 + range.step {
            return;
        }
        lives.push(lived);
    }
    panic!("resent leases of {:?} lived for {lives:?}", a.ttl);
}

/// A nonce that is refused before it arrives wins nothing when it does.
pub async fn a_revoked_nonce_wins_nothing(h: &Store) {
    let (a, b, key) = (Raw::new(h), node(h), key("report"));
    let request = a.plain(&key);
    let revoked = a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await;
    assert!(matches!(revoked, Ok(Released::NotOwner { .. })), "{revoked:?}");
    for _ in 0..2 {
        let error = a.send(&request).await.expect_err("a refused nonce wins nothing");
        assert_eq!((error.kind(), error.effect()), (Kind::Refused, Effect::None));
    }
    assert!(is_free(&b, &key).await);
}

/// The refusal comes before everything else that could be said: rule 1 before rules 3 and 5.
pub async fn a_refusal_comes_first(h: &Store) {
    let (a, b, key) = (Raw::new(h), Raw::new(h), key("report"));
    let request = a.plain(&key);
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    let _held = b.win(&b.plain(&key)).await;
    assert_eq!(a.send(&request).await.expect_err("refused, not busy").kind(), Kind::Refused);
    if !a.capabilities().marks {
        return;
    }
    a.enroll(&key).await;
    let future = request.claiming(once(in_an_hour()));
    assert_eq!(a.send(&future).await.expect_err("refused, not early").kind(), Kind::Refused);
}

/// Taking back frees the key; taking it back again is harmless.
pub async fn a_revocation_frees_its_key(h: &Store) {
    let (a, b, key) = (Raw::new(h), node(h), key("report"));
    let request = a.plain(&key);
    let _lease = a.win(&request).await;
    let revoked = a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await;
    assert_eq!(revoked.expect("the store answers"), Released::Done);
    assert!(is_free(&b, &key).await);
    let guard = take(&b, &key).await;
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    assert!(!is_free(&node(h), &key).await, "the second time hits nobody else");
    guard.release().await.expect("the store answers");
}

/// A nonce that holds nothing is taken back from nobody.
pub async fn revoking_a_stranger_disturbs_nobody(h: &Store) {
    let (a, b, key) = (Raw::new(h), node(h), key("report"));
    let guard = take(&b, &key).await;
    let revoked = a.backend.revoke(&key, Nonce::random(), MarkAfter::Undo).await;
    assert!(matches!(revoked, Ok(Released::NotOwner { .. })), "{revoked:?}");
    assert!(!is_free(&node(h), &key).await);
    assert!(guard.check().is_ok());
    guard.release().await.expect("the store answers");
}

/// The reply is lost, the caller asks again, and holds what it won the first time.
pub async fn a_lost_reply_is_found_again(h: &Store) {
    let faulty = Faulty::script(h.connect(), [(Call::TryAcquire, Fault::LostReply)]);
    let (a, b, key) =
        (locks(faulty.clone(), long_ttl(&faulty.capabilities())), node(h), key("report"));
    let guard = take(&a, &key).await;
    assert_eq!(faulty.calls(Call::TryAcquire), 2, "sent again");
    assert!(!is_free(&b, &key).await);
    guard.release().await.expect("the store answers");
    a.settled().await;
    assert!(is_free(&b, &key).await);
}

/// Also for a tick: it is won once, and not stale for its own winner.
pub async fn a_lost_reply_to_a_claim_is_found_again(h: &Store) {
    let raw = Raw::new(h);
    if !raw.capabilities().marks {
        return skip("no marks are kept");
    }
    let (key, mut fences) = (key("report"), Vec::new());
    for losses in 0..3 {
        let [tick] = raw.ticks(&key).await;
        let script = (0..losses).map(|_| (Call::TryAcquire, Fault::LostReply));
        let faulty = Faulty::script(h.connect(), script);
        let a = locks(faulty.clone(), long_ttl(&faulty.capabilities()));
        let reply = a.claim(&key, once(tick)).await.expect("the store answers");
        let claimed = reply.won().expect("its own grant");
        assert_eq!((claimed.tick, claimed.attempt), (tick, 1));
        fences.push(claimed.lease.fence());
        let last = raw.last(&key).await;
        assert_eq!((last.mark, last.done, last.attempts), (tick, false, 1));
        claimed.lease.release().await.expect("the store answers");
        assert!(raw.last(&key).await.done);
    }
    assert!(fences.is_sorted(), "{fences:?}");
}

/// The driver's side of it: a grant whose lease is gone with its reply is still the grant of its nonce.
pub async fn a_grant_whose_reply_is_lost_is_the_grant_of_its_nonce(h: &Store) {
    let (a, key) = (Raw::new(h), key("report"));
    if !a.capabilities().marks {
        return skip("no marks are kept");
    }
    let [tick] = a.ticks(&key).await;
    let request = a.once(&key, tick);
    let fence = a.win(&request).await.fence; // and its lease is dropped
    assert_eq!(a.win(&request).await.fence, fence);
}

/// Nobody ever answers: the caller is told so, nothing is held, and the tick is as it was.
pub async fn an_acquisition_that_stays_unknown_is_taken_back(h: &Store) {
    let raw = Raw::new(h);
    if !raw.capabilities().marks {
        return skip("no marks are kept");
    }
    for fault in [Fault::LostReply, Fault::Late] {
        let key = key(&format!("{fault:?}"));
        let [before, tick] = raw.ticks(&key).await;
        let grant = raw.win(&raw.once(&key, before)).await;
        raw.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
        let before = raw.last(&key).await;

        let faulty = Faulty::script(h.connect(), vec![(Call::TryAcquire, fault); 10]);
        let a = locks(faulty.clone(), long_ttl(&faulty.capabilities()));
        match a.claim(&key, once(tick)).await {
            Err(Error::Backend { source, .. }) => assert_eq!(source.effect(), Effect::Unknown),
            other => panic!("nobody knows, and the answer was {other:?}"),
        }
        a.settled().await;
        assert!(faulty.calls(Call::Revoke) > 0, "an unknown outcome is taken back");
        assert_eq!(raw.last(&key).await, before, "the mark is where it was");
        assert_eq!(faulty.deliver_late().await, 0, "a copy that arrives after that wins nothing");
        assert_eq!(raw.last(&key).await, before);
        assert!(is_free(&node(h), &key).await);
    }
}

/// A copy of the request is still on its way when a second copy is answered with "busy": when it arrives, it wins nothing.
pub async fn a_copy_that_arrives_after_a_refusal_wins_nothing(h: &Store) {
    let (holder, key) = (node(h), key("report"));
    let guard = take(&holder, &key).await;
    let faulty = Faulty::script(h.connect(), [(Call::TryAcquire, Fault::Late)]);
    let a = locks(faulty.clone(), long_ttl(&faulty.capabilities()));
    assert!(a.try_lock(&key).await.expect("the store answers").won().is_none());
    assert_eq!(faulty.calls(Call::TryAcquire), 2, "the first copy is still on its way");
    a.settled().await;
    guard.release().await.expect("the store answers");
    assert_eq!(faulty.deliver_late().await, 0, "a win that nobody knows of");
    assert!(is_free(&holder, &key).await);
}

/// A copy that arrives after the grant was given back wins nothing either.
pub async fn a_copy_that_arrives_after_the_release_wins_nothing(h: &Store) {
    let (b, key) = (node(h), key("report"));
    let faulty = Faulty::script(h.connect(), [(Call::TryAcquire, Fault::Late)]);
    let a = locks(faulty.clone(), long_ttl(&faulty.capabilities()));
    take(&a, &key).await.release().await.expect("the store answers");
    a.settled().await;
    // Somebody else was here in between, so the last release is not the one of that nonce.
    take(&b, &key).await.release().await.expect("the store answers");
    assert_eq!(faulty.deliver_late().await, 0);
    assert!(is_free(&b, &key).await);
}

/// A grant that is answered when it is as good as over is no grant, and is given back.
pub async fn a_grant_that_comes_too_late_is_given_back(h: &Store) {
    let raw = Raw::brief(h);
    if raw.capabilities().ttl.is_none() {
        return skip("leases do not run out");
    }
    let ttl = short_ttl(&raw.capabilities());
    let script =
        [(Call::TryAcquire, Fault::Hang), (Call::TryAcquire, Fault::DelayAfter(ttl * 4 / 10))];
    let faulty = Faulty::script(h.connect(), script);
    let options =
        LockOptions::default().ttl(ttl).renew_every(ttl / 10).request_timeout(ttl * 6 / 10);
    let a = Locks::builder(faulty).options(options).build().expect("the options fit");
    match a.try_lock("report").await {
        Err(Error::Backend { source, .. }) => assert_eq!(source.kind(), Kind::Timeout),
        other => panic!("a grant that is over was answered with {other:?}"),
    }
    a.settled().await;
    assert!(is_free(&node(h), &key("report")).await);
}

/// Dropped at every await point there is, an attempt leaves the key free.
pub async fn a_dropped_attempt_leaves_nothing_behind(h: &Store) {
    const POINTS: u32 = 3;
    let slow = Faulty::slow(h.connect(), POINTS);
    let ttl = long_ttl(&slow.capabilities());
    let (a, b, key) = (locks(slow, ttl), node(h), key("report"));
    for polls in 0.. {
        let answer = stop_after(polls, a.try_lock(&key)).await;
        if let Some(answer) = answer {
            assert!(polls > POINTS, "the wrapper is slow, and so is the attempt");
            let guard = answer.expect("the store answers").won().expect("free");
            guard.release().await.expect("the store answers");
            break;
        }
        a.settled().await;
        assert!(is_free(&b, &key).await, "dropped after {polls} polls");
    }
}

/// Dropped at every await point there is, a claim leaves the mark where it was.
pub async fn a_dropped_claim_leaves_the_mark_where_it_was(h: &Store) {
    let raw = Raw::new(h);
    if !raw.capabilities().marks {
        return skip("no marks are kept");
    }
    let slow = Faulty::slow(h.connect(), 3);
    let ttl = long_ttl(&slow.capabilities());
    let (a, b, key) = (locks(slow, ttl), node(h), key("report"));
    let [tick] = due_ticks(h, &key).await;
    let before = raw.last(&key).await;
    for polls in 0.. {
        let answer = stop_after(polls, a.claim(&key, once(tick))).await;
        if let Some(answer) = answer {
            let claimed = answer.expect("the store answers").won().expect("as if never asked");
            assert_eq!(claimed.attempt, 1);
            claimed.lease.release().await.expect("the store answers");
            break;
        }
        a.settled().await;
        assert_eq!(raw.last(&key).await, before, "dropped after {polls} polls");
        assert!(is_free(&b, &key).await, "dropped after {polls} polls");
    }
}

/// The same for one that waits: for a free key, and for one that somebody holds.
pub async fn a_dropped_wait_leaves_nothing_behind(h: &Store) {
    let slow = Faulty::slow(h.connect(), 2);
    let ttl = long_ttl(&slow.capabilities());
    let (a, b, key) = (locks(slow, ttl), node(h), key("report"));
    for polls in 0.. {
        let answer = stop_after(polls, a.lock(&key, SOON)).await;
        if let Some(answer) = answer {
            answer.expect("free").release().await.expect("the store answers");
            break;
        }
        a.settled().await;
        assert!(is_free(&b, &key).await, "dropped after {polls} polls");
    }
    let patience = Duration::from_millis(10);
    for polls in 0.. {
        let guard = take(&b, &key).await;
        let ended = stop_after(polls, a.lock(&key, patience)).await;
        a.settled().await;
        guard.check().expect("nobody takes it away");
        guard.release().await.expect("the store answers");
        assert!(is_free(&b, &key).await, "dropped after {polls} polls");
        if let Some(ended) = ended {
            assert!(matches!(ended, Err(Error::TimedOut { .. })), "{ended:?}");
            break;
        }
    }
    // Handed over while it waits, and dropped in the middle of that.
    for polls in 0.. {
        let guard = take(&b, &key).await;
        let (ended, released) =
            tokio::join!(stop_after(polls, a.lock(&key, SOON)), guard.release());
        released.expect("the store answers");
        let ended = match ended {
            Some(won) => {
                won.expect("free in time").release().await.expect("the store answers");
                true
            }
            None => false,
        };
        in_time(SOON, "a settled node", a.settled()).await;
        assert!(is_free(&b, &key).await, "dropped after {polls} polls");
        if ended {
            break;
        }
    }
}
