//! Who runs a tick: the order of the rules, and what becomes of a mark.
//!
//! The numbers are those of [`KeyRecord::judge`](solocron::lock::KeyRecord::judge): 1 refused, 2 the same nonce, 3 early, 4 stale,
//! 5 busy, 6 behind, 7 won.

use std::sync::Arc;
use std::time::Duration;

use solocron::Kind;
use solocron::jiff::Timestamp;
use solocron::lock::{
    Claim, ClaimReply, ClaimState, Delivery, Epoch, Fencing, LockBackend, Mark, MarkAfter,
    Released, Reply, Request,
};
use tokio::task::JoinSet;

use super::client::{Raw, in_an_hour, in_time, is_free, key, node, now, once};
use crate::Store;
use crate::harness::{lacks, skip};

fn marks(h: &Store) -> Option<Raw> {
    let raw = Raw::new(h);
    if raw.capabilities().marks {
        return Some(raw);
    }
    skip("no marks are kept");
    None
}

/// Wins the tick and ends its run.
async fn run(a: &Raw, request: &Request) {
    let grant = a.win(request).await;
    let released = a.backend.release(&grant.lease, MarkAfter::Done).await;
    assert_eq!(released.expect("the store answers"), Released::Done);
}

/// Wins the tick, and then its lease is over without a word.
async fn run_and_die(a: &Raw, request: &Request) -> solocron::lock::Fence {
    let grant = a.win(request).await;
    let fence = grant.fence;
    let released = a.backend.release(&grant.lease, MarkAfter::Unfinished).await;
    assert_eq!(released.expect("the store answers"), Released::Done);
    fence
}

fn all_in_turn(mut request: Request, after: Mark) -> Request {
    if let Some(claim) = &mut request.claim {
        claim.after = Some(after);
    }
    request
}

/// However short its run was, and however late somebody else's clock is.
pub async fn a_tick_that_was_run_is_stale(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let [older, tick, newer] = a.ticks(&key).await;
    run(&a, &a.once(&key, tick)).await;
    for request in [b.once(&key, tick), b.again(&key, tick, 9), b.once(&key, older)] {
        match b.reply(&request).await {
            Reply::Stale { mark, done, .. } => assert_eq!((mark, done), (tick, true)),
            other => panic!("{other:?}"),
        }
    }
    run(&b, &b.once(&key, newer)).await;
}

/// Rule 4 comes before rule 5: a tick that is being run is stale, and the answer names who runs it.
pub async fn a_running_tick_is_stale_and_not_busy(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let [older, tick] = a.ticks(&key).await;
    let _running = a.win(&a.once(&key, tick)).await;
    for stale in [tick, older] {
        match b.reply(&b.once(&key, stale)).await {
            Reply::Stale { mark, done, owner } => {
                assert_eq!((mark, done), (tick, false));
                if let Some(owner) = owner {
                    assert_eq!(
                        (owner.node, owner.tick, owner.living),
                        (a.node.clone(), Some(tick), true)
                    );
                }
            }
            other => panic!("{other:?}"),
        }
    }
    // At least once, it may have to be run again, which nobody knows before its holder is gone.
    let again = b.reply(&b.again(&key, tick, 2)).await;
    assert!(matches!(again, Reply::Busy { .. }), "{again:?}");
    let used_up = b.reply(&b.again(&key, tick, 1)).await;
    assert!(matches!(used_up, Reply::Stale { done: false, .. }), "{used_up:?}");
}

/// Rule 4 also where a plain lock holds the key.
pub async fn a_stale_tick_is_stale_under_a_plain_lock(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let [tick, newer] = a.ticks(&key).await;
    run(&a, &a.once(&key, tick)).await;
    let _held = a.win(&a.plain(&key)).await;
    let stale = b.reply(&b.once(&key, tick)).await;
    assert!(matches!(stale, Reply::Stale { done: true, .. }), "{stale:?}");
    let busy = b.reply(&b.once(&key, newer)).await;
    assert!(matches!(busy, Reply::Busy { .. }), "{busy:?}");
}

/// Rule 5: another tick waits for the run, and learns which tick that is. Rule 5 comes before rule 6.
pub async fn another_tick_is_busy_and_not_behind(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let [first, second, third] = a.ticks(&key).await;
    let _running = a.win(&a.again(&key, first, 3)).await;
    for request in
        [b.once(&key, second), b.again(&key, second, 3), all_in_turn(b.once(&key, third), second)]
    {
        match b.reply(&request).await {
            Reply::Busy { holder: Some(holder) } => {
                assert_eq!((holder.node, holder.tick), (a.node.clone(), Some(first)));
            }
            Reply::Busy { holder: None } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Rule 3: a node whose clock is fast waits; it does not burn the tick. Rule 3 comes before rules 5 and 6.
pub async fn a_tick_from_the_future_is_early(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    if !a.capabilities().store_clock {
        return skip("the store has no clock");
    }
    let key = key("report");
    let [tick, next] = a.ticks(&key).await;
    let early = |reply: Reply<_>, when: &str| match reply {
        Reply::Early { store_now } => assert!(store_now < in_an_hour().timestamp(), "{when}"),
        other => panic!("{when}: {other:?}"),
    };
    early(a.reply(&a.once(&key, in_an_hour())).await, "free");
    let request = a.again(&key, tick, 3);
    let running = a.win(&request).await;
    early(b.reply(&b.once(&key, in_an_hour())).await, "held");
    // Rule 2 comes before rule 3: the same nonce, the same grant, whatever it asks for.
    let mut asks_more = request.clone();
    asks_more.claim = Some(once(in_an_hour()));
    assert_eq!(a.win(&asks_more).await.fence, running.fence);
    a.backend.release(&running.lease, MarkAfter::Unfinished).await.expect("the store answers");
    early(b.reply(&b.again(&key, in_an_hour(), 3)).await, "behind an unfinished tick");
    assert_eq!(a.last(&key).await.mark, tick, "nothing was burnt");
    run(&b, &b.once(&key, next)).await;
}

/// Rule 6: an unfinished tick goes first, where ticks are run at least once.
pub async fn an_unfinished_tick_goes_first(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let [first, second] = a.ticks(&key).await;
    let before = run_and_die(&a, &a.again(&key, first, 2)).await;
    match b.reply(&b.again(&key, second, 2)).await {
        Reply::Behind { mark, unfinished } => assert_eq!((mark, unfinished), (first, true)),
        other => panic!("{other:?}"),
    }
    let grant = b.win(&b.again(&key, first, 2)).await;
    assert_eq!(grant.attempt, 2);
    assert!(grant.fence > before || b.capabilities().fencing == Fencing::None);
    b.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    run(&b, &b.again(&key, second, 2)).await;
}

/// Rule 6: a tick that nobody claimed goes first, where every tick must be run.
pub async fn an_unclaimed_tick_goes_first_where_all_are_run(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [first, second, third] = a.ticks(&key).await;
    run(&a, &a.once(&key, first)).await;
    match a.reply(&all_in_turn(a.once(&key, third), second)).await {
        Reply::Behind { mark, unfinished } => assert_eq!((mark, unfinished), (first, false)),
        other => panic!("{other:?}"),
    }
    run(&a, &all_in_turn(a.once(&key, second), first)).await;
    run(&a, &all_in_turn(a.once(&key, third), second)).await;
}

/// Rule 7: the mark moves when the tick is won, not when its run ends.
pub async fn the_mark_moves_with_the_win(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    let before = a.last(&key).await;
    let grant = a.win(&a.once(&key, tick)).await;
    assert_eq!((grant.attempt, grant.previous.as_ref()), (1, Some(&before)));
    let won = ClaimState { mark: tick, done: false, attempts: 1, owner: Some(a.node.clone()) };
    assert_eq!(a.last(&key).await, won);
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    assert_eq!(a.last(&key).await, ClaimState { done: true, ..won });
}

/// At least once: granted again after a death, with a higher attempt and a higher fence, and not for ever.
pub async fn an_unfinished_tick_is_granted_a_bounded_number_of_times(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick, next] = a.ticks(&key).await;
    let mut fences = Vec::new();
    for attempt in 1..=3 {
        let request = a.again(&key, tick, 3);
        let grant = a.win(&request).await;
        assert_eq!(grant.attempt, attempt);
        fences.push(grant.fence);
        a.backend.release(&grant.lease, MarkAfter::Unfinished).await.expect("the store answers");
    }
    if a.capabilities().fencing != Fencing::None {
        assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
    }
    let used_up = a.reply(&a.again(&key, tick, 3)).await;
    assert!(matches!(used_up, Reply::Stale { done: false, .. }), "{used_up:?}");
    let grant = a.win(&a.again(&key, next, 3)).await;
    let abandoned = grant.previous.expect("the next winner is told");
    assert_eq!((abandoned.mark, abandoned.done, abandoned.attempts), (tick, false, 3));
}

/// The same where the lease really runs out, or the process really dies.
pub async fn the_tick_of_a_dead_holder_is_granted_again(h: &Store) {
    let (Some(b), a) = (marks(h), Raw::brief(h)) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    let dead = a.win(&a.again(&key, tick, 2)).await;
    let fence = dead.fence;
    drop(dead);
    let again = async {
        loop {
            match b.reply(&b.again(&key, tick, 2)).await {
                Reply::Won(grant) => return grant,
                Reply::Busy { .. } => tokio::time::sleep(Duration::from_millis(3)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    let grant = in_time(a.ttl * 4 + Duration::from_secs(5), "the second attempt", again).await;
    assert_eq!(grant.attempt, 2);
    assert!(grant.fence > fence || b.capabilities().fencing == Fencing::None);
}

/// At most once: nobody runs it again, and the next winner is told, once.
pub async fn an_abandoned_tick_is_reported_once(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let [tick, next, last] = a.ticks(&key).await;
    run_and_die(&a, &a.once(&key, tick)).await;
    let stale = b.reply(&b.once(&key, tick)).await;
    assert!(matches!(stale, Reply::Stale { done: false, .. }), "{stale:?}");
    // A plain lock is told nothing, and eats nothing of it.
    let plain = b.win(&b.plain(&key)).await;
    assert_eq!(plain.previous, None);
    b.backend.release(&plain.lease, MarkAfter::Done).await.expect("the store answers");
    let abandoned =
        ClaimState { mark: tick, done: false, attempts: 1, owner: Some(a.node.clone()) };
    // Whoever undoes has not told anybody.
    let request = b.once(&key, next);
    let grant = b.win(&request).await;
    assert_eq!(grant.previous.as_ref(), Some(&abandoned));
    b.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    drop(grant);
    let grant = b.win(&b.once(&key, next)).await;
    assert_eq!(grant.previous, Some(abandoned));
    b.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    let previous = a.win(&a.once(&key, last)).await.previous.expect("there was one");
    assert_eq!((previous.mark, previous.done), (next, true));
}

/// As if it had never been claimed: the tick, whether it was done, and its attempts.
pub async fn an_undo_restores_the_claim_before_it(h: &Store) {
    let Some(a) = marks(h) else { return };
    for revoke in [false, true] {
        for died in [false, true] {
            let key = key(&format!("revoke {revoke}, died {died}"));
            let [first, second] = a.ticks(&key).await;
            if died {
                run_and_die(&a, &a.again(&key, first, 5)).await;
                run_and_die(&a, &a.again(&key, first, 5)).await;
            } else {
                run(&a, &a.once(&key, first)).await;
            }
            let before = a.last(&key).await;
            let request = a.once(&key, second);
            let grant = a.win(&request).await;
            assert_eq!(a.last(&key).await.mark, second);
            let given_back = if revoke {
                a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await
            } else {
                a.backend.release(&grant.lease, MarkAfter::Undo).await
            };
            assert_eq!(given_back.expect("the store answers"), Released::Done);
            assert_eq!(a.last(&key).await, before, "{key}");
            drop(grant);
            assert!(is_free(&node(h), &key).await);
            run(&a, &a.once(&key, second)).await;
        }
    }
}

/// An attempt that is undone does not count.
pub async fn an_undone_attempt_does_not_count(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    run_and_die(&a, &a.again(&key, tick, 2)).await;
    for _ in 0..3 {
        let grant = a.win(&a.again(&key, tick, 2)).await;
        assert_eq!(grant.attempt, 2);
        a.backend.release(&grant.lease, MarkAfter::Undo).await.expect("the store answers");
    }
    run(&a, &a.again(&key, tick, 2)).await;
}

/// The lease has ended before the revocation arrives: the tick goes back all the same.
pub async fn a_revocation_after_the_lease_restores_the_mark(h: &Store) {
    let (Some(b), a) = (marks(h), Raw::brief(h)) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    let before = a.last(&key).await;
    let request = a.once(&key, tick);
    drop(a.win(&request).await);
    // Over, and somebody else has had the lock (but no tick) since.
    let (plain, _) = b.win_when_free(&key).await;
    b.backend.release(&plain.lease, MarkAfter::Done).await.expect("the store answers");
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    assert_eq!(a.last(&key).await, before);
    run(&b, &b.once(&key, tick)).await;
}

/// What is done is done: taking back comes too late.
pub async fn a_finished_tick_is_not_undone(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    let request = a.once(&key, tick);
    let grant = a.win(&request).await;
    a.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
    let done = a.last(&key).await;
    a.backend.release(&grant.lease, MarkAfter::Undo).await.expect("the store answers");
    a.backend.revoke(&key, request.nonce, MarkAfter::Undo).await.expect("the store answers");
    assert_eq!(a.last(&key).await, done);
}

/// The mark has moved on: neither an undo nor a late release touches another holder's tick.
pub async fn a_late_settlement_leaves_the_successors_tick_alone(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    for after in [MarkAfter::Undo, MarkAfter::Done, MarkAfter::Unfinished] {
        let key = key(&format!("{after:?}"));
        let [tick, next] = a.ticks(&key).await;
        let request = a.once(&key, tick);
        let old = a.win(&request).await;
        // It is taken back; the run goes on without knowing.
        let freed = a.backend.revoke(&key, request.nonce, MarkAfter::Unfinished).await;
        assert_eq!(freed.expect("the store answers"), Released::Done);
        let running = b.win(&b.once(&key, next)).await;
        let before = b.last(&key).await;
        match a.backend.release(&old.lease, after).await.expect("the store answers") {
            Released::NotOwner { mark } => assert_eq!(mark, Some(next), "it is told the mark"),
            other => panic!("{other:?}"),
        }
        a.backend.revoke(&key, request.nonce, after).await.expect("the store answers");
        assert_eq!(b.last(&key).await, before, "{after:?}");
        drop(old);
        assert!(!is_free(&node(h), &key).await);
        let released = b.backend.release(&running.lease, MarkAfter::Done).await;
        assert_eq!(released.expect("the store answers"), Released::Done);
    }
}

/// A run that outlived its lease has still run: its tick is done, if nobody has claimed since.
pub async fn a_run_that_ends_after_its_lease_is_done(h: &Store) {
    let (Some(b), a) = (marks(h), Raw::brief(h)) else { return };
    let key = key("report");
    if a.capabilities().ttl.is_none() {
        return skip("leases do not run out");
    }
    let [tick] = a.ticks(&key).await;
    let grant = a.win(&a.again(&key, tick, 3)).await;
    let (plain, _) = b.win_when_free(&key).await;
    let released = a.backend.release(&grant.lease, MarkAfter::Done).await;
    assert_eq!(released.expect("the store answers"), Released::NotOwner { mark: Some(tick) });
    assert!(a.last(&key).await.done);
    b.backend.release(&plain.lease, MarkAfter::Done).await.expect("the store answers");
    let stale = b.reply(&b.again(&key, tick, 3)).await;
    assert!(matches!(stale, Reply::Stale { done: true, .. }), "{stale:?}");
}

/// A run cut short leaves its tick to its delivery.
pub async fn a_run_cut_short_is_left_to_its_delivery(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    run_and_die(&a, &a.again(&key, tick, 2)).await;
    let last = a.last(&key).await;
    assert_eq!((last.mark, last.done, last.attempts), (tick, false, 1));
    assert!(is_free(&node(h), &key).await);
    let stale = a.reply(&a.once(&key, tick)).await;
    assert!(matches!(stale, Reply::Stale { done: false, .. }), "{stale:?}");
    run(&a, &a.again(&key, tick, 2)).await;
}

/// A release skips the ticks it overlapped, and no further than the store's clock.
pub async fn a_release_skips_up_to_the_stores_clock(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick, overlapped, next] = a.ticks(&key).await;
    let grant = a.win(&a.once(&key, tick)).await;
    let after = MarkAfter::DoneAndSkip(overlapped);
    a.backend.release(&grant.lease, after).await.expect("the store answers");
    let last = a.last(&key).await;
    assert_eq!((last.mark, last.done), (overlapped, true));
    let stale = a.reply(&a.once(&key, overlapped)).await;
    assert!(matches!(stale, Reply::Stale { done: true, .. }), "{stale:?}");
    let grant = a.win(&a.once(&key, next)).await;
    if !a.capabilities().store_clock {
        return;
    }
    a.backend
        .release(&grant.lease, MarkAfter::DoneAndSkip(in_an_hour()))
        .await
        .expect("the store answers");
    let cut = a.enroll(&key).await;
    let store_now = cut.store_now.unwrap_or_else(Timestamp::now);
    assert!(cut.last.done && cut.last.mark >= next && cut.last.mark <= Mark::floor(store_now));
    // The future was not burnt.
    let [tick] = a.ticks(&key).await;
    run(&a, &a.once(&key, tick)).await;
}

/// Skipping never moves a mark back.
pub async fn a_skip_never_moves_the_mark_back(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [older, tick] = a.ticks(&key).await;
    let grant = a.win(&a.once(&key, tick)).await;
    let after = MarkAfter::DoneAndSkip(older);
    a.backend.release(&grant.lease, after).await.expect("the store answers");
    let last = a.last(&key).await;
    assert_eq!((last.mark, last.done, last.attempts), (tick, true, 1));
}

/// A plain lock asks one question only: the other one's answer stays as it was.
pub async fn a_plain_lock_leaves_marks_alone(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [first, second] = a.ticks(&key).await;
    run_and_die(&a, &a.again(&key, first, 3)).await;
    let before = a.last(&key).await;
    for after in
        [MarkAfter::Done, MarkAfter::DoneAndSkip(second), MarkAfter::Unfinished, MarkAfter::Undo]
    {
        let grant = a.win(&a.plain(&key)).await;
        assert_eq!((grant.attempt, &grant.previous), (1, &None));
        a.backend.release(&grant.lease, after).await.expect("the store answers");
        assert_eq!(a.last(&key).await, before, "{after:?}");
    }
    run(&a, &a.again(&key, first, 3)).await;
}

/// Ten keys in one call: each has its own answer, and a loser sinks nobody.
pub async fn a_batch_answers_each_for_itself(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let names: Vec<_> = (0..6).map(|n| key(&format!("job-{n}"))).collect();
    for name in &names[..5] {
        a.ticks::<2>(name).await;
    }
    let mut ticks = Vec::new();
    for name in &names[..5] {
        ticks.push(Mark::from_millis(a.last(name).await.mark.as_millis() + 1));
    }
    run(&a, &a.once(&names[1], ticks[1])).await;
    let _held = a.win(&a.plain(&names[2])).await;
    let refused = b.once(&names[3], ticks[3]);
    b.backend.revoke(&names[3], refused.nonce, MarkAfter::Undo).await.expect("the store answers");
    let batch = [
        b.once(&names[0], ticks[0]),
        b.once(&names[1], ticks[1]),
        b.once(&names[2], ticks[2]),
        refused,
        b.once(&names[5], ticks[0]), // was never enrolled
        b.once(&names[4], ticks[4]),
    ];
    let answers = b.backend.try_acquire(&batch).await;
    let [
        Ok(Reply::Won(first)),
        Ok(Reply::Stale { .. }),
        Ok(Reply::Busy { .. }),
        Err(refused),
        Err(not_enrolled),
        Ok(Reply::Won(last)),
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((refused.kind(), not_enrolled.kind()), (Kind::Refused, Kind::NotEnrolled));
    for (grant, name) in [(first, &names[0]), (last, &names[4])] {
        assert!(!is_free(&node(h), name).await);
        b.backend.release(&grant.lease, MarkAfter::Done).await.expect("the store answers");
        assert!(is_free(&node(h), name).await);
    }
    assert!(b.backend.try_acquire(&[]).await.is_empty());
}

/// Many nodes, many ticks, all at once: each tick is run by exactly one.
pub async fn each_tick_is_won_by_exactly_one(h: &Store) {
    const TICKS: usize = 25;
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let ticks: [Mark; TICKS] = a.ticks(&key).await;
    let barrier = Arc::new(tokio::sync::Barrier::new(4));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (locks, key, barrier) = (node(h), key.clone(), Arc::clone(&barrier));
        tasks.spawn(async move {
            let mut won = Vec::new();
            for tick in ticks {
                barrier.wait().await;
                loop {
                    match locks.claim(&key, once(tick)).await.expect("the store answers") {
                        ClaimReply::Won(claimed) => {
                            won.push(tick);
                            claimed.lease.release().await.expect("the store answers");
                            break;
                        }
                        ClaimReply::Stale { .. } => break,
                        ClaimReply::Busy(_) => tokio::task::yield_now().await,
                        other => panic!("{other:?}"),
                    }
                }
            }
            won
        });
    }
    let mut won = Vec::new();
    while let Some(task) = tasks.join_next().await {
        won.extend(task.expect("no task panics"));
    }
    won.sort();
    assert_eq!(won, ticks);
}

/// A claimed tick whose guard is dropped was cut short; nobody may assume that it never began.
pub async fn a_dropped_claim_guard_leaves_its_tick_unfinished(h: &Store) {
    let Some(raw) = marks(h) else { return };
    let (a, key) = (node(h), key("report"));
    let [tick] = raw.ticks(&key).await;
    let claimed = a.claim(&key, once(tick)).await.expect("the store answers").won().expect("free");
    drop(claimed);
    a.settled().await;
    let last = raw.last(&key).await;
    assert_eq!((last.mark, last.done), (tick, false));
    assert!(is_free(&a, &key).await);
}

/// An undo by hand gives the tick to whoever asks next.
pub async fn an_undone_claim_can_be_claimed_again(h: &Store) {
    let Some(raw) = marks(h) else { return };
    let (a, b, key) = (node(h), node(h), key("report"));
    let [tick] = raw.ticks(&key).await;
    let before = raw.last(&key).await;
    let claimed = a.claim(&key, once(tick)).await.expect("the store answers").won().expect("free");
    assert_eq!(claimed.undo().await.expect("the store answers"), Released::Done);
    assert_eq!(raw.last(&key).await, before);
    let claimed = b.claim(&key, once(tick)).await.expect("the store answers").won().expect("free");
    assert_eq!((claimed.tick, claimed.attempt, claimed.previous), (tick, 1, Some(before)));
    claimed.lease.release().await.expect("the store answers");
}

/// Users are given the same answers.
pub async fn a_user_is_told_every_answer(h: &Store) {
    let Some(raw) = marks(h) else { return };
    let (a, b, key) = (node(h), node(h), key("report"));
    let [first, second] = raw.ticks(&key).await;
    let again =
        |tick| Claim { tick, after: None, delivery: Delivery::AtLeastOnce { max_attempts: 2 } };
    let claimed =
        a.claim(&key, again(first)).await.expect("the store answers").won().expect("free");
    let busy = b.claim(&key, once(second)).await.expect("the store answers");
    assert!(matches!(busy, ClaimReply::Busy(_)), "{busy:?}");
    let stale = b.claim(&key, once(first)).await.expect("the store answers");
    assert!(matches!(stale, ClaimReply::Stale { done: false, .. }), "{stale:?}");
    if raw.capabilities().store_clock {
        let early = b.claim(&key, once(in_an_hour())).await.expect("the store answers");
        assert!(matches!(early, ClaimReply::Early { .. }), "{early:?}");
    }
    drop(claimed);
    a.settled().await;
    let behind = b.claim(&key, again(second)).await.expect("the store answers");
    assert!(matches!(behind, ClaimReply::Behind { unfinished: true, .. }), "{behind:?}");
}

/// A store that forgot: no tick of before is granted again, to nobody, whatever they remember.
pub async fn no_tick_of_before_a_loss_is_granted_again(h: &Store) {
    let (Some(_), a) = (marks(h), Raw::brief(h)) else { return };
    let key = key("report");
    let [done, running, missed] = a.ticks(&key).await;
    run(&a, &a.once(&key, done)).await;
    let lost = a.win(&a.once(&key, running)).await;
    if !h.forget().await {
        return lacks("forget", !h.never_forgets());
    }
    a.answered().await;
    for tick in [done, running, missed] {
        let error = a.send(&a.once(&key, tick)).await.expect_err("nobody knows this key");
        assert!(matches!(error.kind(), Kind::NotEnrolled | Kind::Recovering), "{error:?}");
    }
    // One that does not run out keeps its lock, and so the record, for as long as it is kept.
    drop(lost);
    assert!(a.enroll(&key).await.created);
    for tick in [done, running, missed] {
        for request in [a.once(&key, tick), a.again(&key, tick, 9)] {
            match a.send(&request).await {
                Ok(Reply::Stale { .. }) => {}
                Err(error) if error.kind() == Kind::Recovering => {}
                other => panic!("{other:?}"),
            }
        }
    }
    a.win_when_free(&key).await;
    let stale = a.reply(&a.once(&key, missed)).await;
    assert!(matches!(stale, Reply::Stale { .. }), "{stale:?}");
}

/// A store that forgot who holds what waits until every lease of before is over.
pub async fn the_first_grant_after_a_loss_waits_for_the_longest_ttl(h: &Store) {
    let (Some(_), a) = (marks(h), Raw::brief(h)) else { return };
    if a.capabilities().ttl.is_none() {
        return skip("leases do not run out");
    }
    let key = key("report");
    let held_from = now();
    let _held = a.win(&a.plain(&key)).await;
    let lost_at = now();
    if !h.forget().await {
        return lacks("forget", !h.never_forgets());
    }
    a.answered().await;
    let mut request = a.plain(&key);
    request.longest_ttl = a.ttl * 2;
    match a.send(&request).await {
        Err(error) => {
            assert_eq!(error.kind(), Kind::Recovering);
            let wait = error.retry_after().expect("it says for how long");
            assert!(wait > a.ttl && wait <= a.ttl * 2, "{wait:?}");
        }
        Ok(reply) => panic!("granted at once: {reply:?}"),
    }
    let (_, won_at) = a.win_when_free(&key).await;
    assert!(won_at.saturating_since(lost_at) + Duration::from_millis(2) >= a.ttl);
    assert!(
        won_at.saturating_since(held_from) >= a.ttl,
        "while the old lease may still be believed in"
    );
}

/// Whoever enrolled a job and keeps an eye on the epoch sees a loss, and only a loss.
pub async fn the_epoch_tells_of_a_loss(h: &Store) {
    let (Some(a), Some(b)) = (marks(h), marks(h)) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    b.enroll(&key).await;
    let before = [epoch(&a).await, epoch(&b).await];
    run(&a, &a.once(&key, tick)).await;
    assert_eq!([epoch(&a).await, epoch(&b).await], before, "a run is no loss");
    if !h.forget().await {
        return lacks("forget", !h.never_forgets());
    }
    a.answered().await;
    b.answered().await;
    let after = [epoch(&a).await, epoch(&b).await];
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    a.enroll(&key).await;
    b.enroll(&key).await;
    assert_eq!([epoch(&a).await, epoch(&b).await], after, "it is a loss once");
}

async fn epoch(client: &Raw) -> Epoch {
    client.backend.epoch().await.expect("the store answers")
}

/// A restart that keeps its data is no loss: the mark is where it was.
pub async fn a_mark_survives_a_restart(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    run(&a, &a.once(&key, tick)).await;
    let before = a.last(&key).await;
    if !h.restart().await {
        return lacks("restart", a.capabilities().scope == solocron::lock::Scope::Fleet);
    }
    assert_eq!(Raw::new(h).last(&key).await, before);
}

/// Whether or not the store remembers after a restart: no tick that was claimed before is granted again, and new ones are.
pub async fn no_tick_of_before_a_restart_is_granted_again(h: &Store) {
    let (Some(_), a) = (marks(h), Raw::brief(h)) else { return };
    let key = key("report");
    let [done, running] = a.ticks(&key).await;
    run(&a, &a.once(&key, done)).await;
    let _running = a.win(&a.once(&key, running)).await;
    if !h.restart().await {
        return lacks("restart", a.capabilities().scope == solocron::lock::Scope::Fleet);
    }
    a.answered().await;
    for enrolled in [false, true] {
        for tick in [done, running] {
            match a.send(&a.once(&key, tick)).await {
                Ok(Reply::Won(_)) => {
                    panic!("{tick} was granted twice (enrolled again: {enrolled})")
                }
                Ok(_) => {}
                Err(error) => assert!(error.kind().is_transient(), "{error:?}"),
            }
        }
        a.enroll(&key).await;
    }
    let goes_on = async {
        loop {
            let store_now = a.enroll(&key).await.store_now.unwrap_or_else(Timestamp::now);
            match a.send(&a.once(&key, Mark::floor(store_now))).await {
                Ok(Reply::Won(_)) => return,
                Ok(_) => {}
                Err(error) => assert!(error.kind().is_transient(), "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(a.ttl * 4 + Duration::from_secs(10), "a new tick", goes_on).await;
}

/// A mark survives every client: it is the store's.
pub async fn a_mark_survives_its_clients(h: &Store) {
    let Some(a) = marks(h) else { return };
    let key = key("report");
    let [tick] = a.ticks(&key).await;
    run(&a, &a.once(&key, tick)).await;
    let before = a.last(&key).await;
    drop(a);
    assert_eq!(Raw::new(h).last(&key).await, before);
}
