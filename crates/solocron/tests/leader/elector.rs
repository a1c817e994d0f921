//! The elector: elect, hold, notice loss, resign, hand over, and tell of all of it in order.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use solocron::leader::{Elector, Ended, Transition};
use solocron::lock::{
    Claim, Delivery, Enrolment, Keeper, LockKey, Locks, Lost, Mark, MemoryBackend,
};
use solocron::{Context, Error, Job, Kind, Scheduler};
use tokio::time::Instant;

use super::support::{GROUP, TTL, World, elected, group, in_time, next};

/// What takes no time in a store that answers at once; timers have a grain of a millisecond.
const AT_ONCE: Duration = Duration::from_millis(20);

#[tokio::test(start_paused = true)]
async fn one_of_two_is_elected_and_the_other_follows_it() {
    let world = World::new();
    let (a, b) = (world.skewed("a", 2_000), world.skewed("b", -2_000));
    let mut first = a.campaign();
    let leadership = elected(&mut first).await;
    let mut second = b.campaign();
    assert!(
        matches!(next(&mut second).await, Transition::Follows { leader } if leader.as_str() == "a")
    );
    assert!(first.is_leader() && !second.is_leader());
    assert_eq!(leadership.check(), Ok(leadership.fence()));
    tokio::time::sleep(TTL * 10).await;
    assert!(first.is_leader() && !second.is_leader(), "it is renewed");
    assert_eq!(leadership.run(async { 7 }).await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn stepping_down_hands_over_at_once_and_does_not_take_it_back() {
    let world = World::new();
    let (mut a, mut b) = (world.node("a").campaign(), world.node("b").campaign());
    let first = elected(&mut a).await;
    in_time("b follows", b.next()).await;
    let asked = Instant::now();
    assert!(a.step_down().await.unwrap());
    assert_eq!(first.check(), Err(Ended::Resigned));
    let second = elected(&mut b).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert!(second.fence() > first.fence());
    assert!(matches!(next(&mut a).await, Transition::Resigned { fence } if fence == first.fence()));
    assert!(matches!(next(&mut a).await, Transition::Follows { .. }), "a campaigns again");
    tokio::time::sleep(TTL * 3).await;
    assert!(b.is_leader());
    // And back again.
    assert!(b.step_down().await.unwrap());
    assert!(elected(&mut a).await.fence() > second.fence());
}

#[tokio::test(start_paused = true)]
async fn who_steps_down_alone_leads_again_a_second_later() {
    let world = World::new();
    let mut a = world.node("a").campaign();
    assert!(!a.step_down().await.unwrap() || a.leadership().is_none());
    let first = elected(&mut a).await;
    let asked = Instant::now();
    assert!(a.step_down().await.unwrap());
    assert!(!a.step_down().await.unwrap(), "it does not lead any more");
    let second = elected(&mut a).await;
    assert!((1_000..1_100).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
    assert!(second.fence() > first.fence());
    assert_eq!(first.ended().await, Ended::Resigned, "a later term does not revive it");
}

#[tokio::test(start_paused = true)]
async fn resigning_hands_over_at_once_and_ends_the_campaign() {
    let world = World::new();
    let (mut a, mut b) = (world.node("a").campaign(), world.node("b").campaign());
    let first = elected(&mut a).await;
    in_time("b follows", b.next()).await;
    let asked = Instant::now();
    assert!(a.resign().await.unwrap());
    assert!(matches!(a.next().await, Some(Transition::Resigned { .. })));
    assert!(a.next().await.is_none() && a.next().await.is_none());
    assert!(!a.resign().await.unwrap());
    assert!(elected(&mut b).await.fence() > first.fence());
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dropping_ends_the_term_here_before_anybody_else_has_it() {
    let world = World::new();
    let (mut a, mut b) = (world.node("a").campaign(), world.node("b").campaign());
    let first = elected(&mut a).await;
    in_time("b follows", b.next()).await;
    let asked = Instant::now();
    drop(a);
    assert_eq!(first.check(), Err(Ended::Resigned), "without an await point in between");
    elected(&mut b).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_followed_when_its_lease_is_over() {
    let world = World::new();
    let node = world.node("a");
    let (mut a, mut b) = (node.campaign(), world.node("b").campaign());
    let first = elected(&mut a).await;
    in_time("b follows", b.next()).await;
    node.kill();
    let killed = Instant::now();
    let second = elected(&mut b).await;
    assert!(killed.elapsed() <= TTL + AT_ONCE, "{:?}", killed.elapsed());
    assert!(second.fence() > first.fence());
    assert!(first.check().is_err(), "nobody renews it, and the clock says so");
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_and_the_next_term_is_another() {
    for world in [World::new(), World::new().process_bound()] {
        let mut a = world.node("a").campaign();
        let first = elected(&mut a).await;
        world.memory.expire(&group());
        let Transition::Lost { fence, why } = next(&mut a).await else { panic!("not told") };
        assert_eq!((fence, why), (first.fence(), Lost::TakenOver));
        let second = elected(&mut a).await;
        assert!(second.fence() > first.fence());
        assert_eq!(first.check(), Err(Ended::Lost(Lost::TakenOver)));
        assert_eq!(second.check(), Ok(second.fence()));
        let never = first.run(async { panic!("no work begins in a term that is over") }).await;
        assert_eq!(never, Err::<(), _>(Ended::Lost(Lost::TakenOver)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_knows_before_another_is_elected() {
    let world = World::new();
    let node = world.node("a");
    let (mut a, mut b) = (node.campaign(), world.node("b").campaign());
    let first = elected(&mut a).await;
    tokio::time::sleep(TTL * 2).await;
    node.link.set_cut(true);
    assert_eq!(in_time("its end", first.ended()).await, Ended::Lost(Lost::Expired));
    assert!(!b.is_leader());
    assert!(matches!(next(&mut a).await, Transition::Lost { why: Lost::Expired, .. }));
    assert!(
        matches!(next(&mut a).await, Transition::Failed { error } if error.kind() == Kind::Unavailable)
    );
    elected(&mut b).await;
    tokio::time::sleep(TTL * 5).await;
    assert!(!a.is_leader() && b.is_leader());
    node.link.set_cut(false);
    // The trouble was told once, however often it was tried.
    assert!(matches!(next(&mut a).await, Transition::Follows { leader } if leader.as_str() == "b"));
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_a_loss_has_its_notice_before_another_is_elected() {
    for order in ["none", "resign", "step down", "drop"] {
        let world = World::new();
        let node = world.node("a");
        let (mut a, mut b) = (node.campaign(), world.node("b").campaign());
        let first = elected(&mut a).await;
        in_time("b follows", b.next()).await;
        tokio::time::sleep(TTL * 2).await;
        // Nothing but renewals is refused: the lock could be given back.
        node.link.refuses_renewals.store(true, Ordering::SeqCst);
        assert!(matches!(next(&mut a).await, Transition::Lost { why: Lost::Expired, .. }));
        let told = Instant::now();
        assert_eq!(in_time("its end", first.ended()).await, Ended::Lost(Lost::Expired));
        assert!(!a.is_leader());
        match order {
            "resign" => assert!(!a.resign().await.unwrap(), "it does not lead any more"),
            "step down" => assert!(!a.step_down().await.unwrap(), "it does not lead any more"),
            "drop" => drop(a),
            _ => {}
        }
        elected(&mut b).await;
        // A tenth of the ttl, and at the latest when the store itself lets go.
        let notice = told.elapsed();
        assert!(notice >= TTL / 10 && notice < TTL / 10 + TTL / 50, "{order}: {notice:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_elects_nobody_and_is_asked_less_and_less() {
    let world = World::new();
    let node = world.node("a");
    node.link.set_cut(true);
    let mut a = node.campaign();
    assert!(matches!(next(&mut a).await, Transition::Failed { .. }));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!a.is_leader());
    node.link.set_cut(false);
    let healed = Instant::now();
    assert!(matches!(next(&mut a).await, Transition::Elected(_)), "and nothing was told twice");
    assert!(healed.elapsed() <= Duration::from_secs(6), "{:?}", healed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_now_and_then_fills_no_queue() {
    for pushes in [true, false] {
        let world = World::new();
        let (leader, node) = (world.node("a"), world.node("b"));
        let mut a = leader.campaign();
        elected(&mut a).await;
        node.link.pushes.store(pushes, Ordering::SeqCst);
        node.link.fails_every_other.store(true, Ordering::SeqCst);
        let mut b = node.campaign();
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(node.link.asked.load(Ordering::SeqCst) > 100, "it was tried often");
        node.link.fails_every_other.store(false, Ordering::SeqCst);
        drop(a);
        let mut told = Vec::new();
        loop {
            match next(&mut b).await {
                Transition::Elected(_) => break,
                other => told.push(other),
            }
        }
        let news = told.iter().filter(|one| matches!(one, Transition::Failed { .. })).count();
        assert!((1..=61).contains(&news), "once in five seconds: {news}");
        assert!(told.len() <= 2 * news + 1, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_sleeps_misses_nothing_and_holds_up_nobody() {
    const TERMS: usize = 40;
    let world = World::new();
    let mut a = world.node("a").campaign();
    let mut terms = 0;
    let mut last = None;
    // Nobody reads: the elector goes on by itself.
    while terms < TERMS {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Some(leadership) = a.leadership()
            && last != Some(leadership.fence())
        {
            last = Some(leadership.fence());
            terms += 1;
            world.memory.expire(&group());
        }
    }
    in_time("the last loss", async {
        while a.is_leader() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut fences = Vec::new();
    for _ in 0..TERMS {
        let Transition::Elected(leadership) = next(&mut a).await else { panic!("out of order") };
        let Transition::Lost { fence, .. } = next(&mut a).await else { panic!("out of order") };
        assert_eq!(fence, leadership.fence());
        assert!(leadership.check().is_err(), "it is past, and says so");
        fences.push(fence);
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

#[tokio::test(start_paused = true)]
async fn futures_that_are_dropped_leave_nothing_behind() {
    async fn stop_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
        let (mut future, mut left) = (pin!(future), polls);
        poll_fn(|cx| {
            left -= 1;
            match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
    for polls in 1..4 {
        let world = World::new();
        let (mut a, mut b) = (world.node("a").campaign(), world.node("b").campaign());
        let first = match stop_after(polls, a.next()).await.flatten() {
            Some(Transition::Elected(first)) => first,
            _ => elected(&mut a).await,
        };
        stop_after(polls, a.step_down()).await;
        assert_eq!(in_time("its end", first.ended()).await, Ended::Resigned);
        let second = elected(&mut b).await;
        stop_after(polls, b.resign()).await;
        assert_eq!(in_time("its end", second.ended()).await, Ended::Resigned);
        let third = elected(&mut a).await;
        assert!(first.fence() < second.fence() && second.fence() < third.fence());
        // Not yet campaigning, campaigning, just elected: whenever it goes, the lock is free.
        let c = world.node("c").campaign();
        for _ in 1..polls {
            tokio::task::yield_now().await;
        }
        drop((a, c));
        elected(&mut world.node("d").campaign()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_electors_of_one_node_are_two_candidates() {
    let world = World::new();
    let node = world.node("a");
    let (mut one, mut two) = (node.campaign(), node.campaign());
    let first = tokio::select! {
        first = elected(&mut one) => first,
        first = elected(&mut two) => first,
    };
    assert!(one.is_leader() != two.is_leader());
    let (leads, mut follows) = if one.is_leader() { (one, two) } else { (two, one) };
    tokio::time::sleep(TTL * 2).await;
    assert!(!follows.is_leader());
    drop(leads);
    assert!(elected(&mut follows).await.fence() > first.fence());
}

#[tokio::test]
async fn without_a_keeper_nobody_campaigns() {
    let keeper = Keeper::with(drop);
    let locks = Locks::builder(MemoryBackend::new()).keeper(keeper).build().unwrap();
    let mut elector = Elector::campaign(&locks, GROUP).unwrap();
    assert!(elector.next().await.is_none());
    assert!(!elector.is_leader());
    assert!(!elector.step_down().await.unwrap() && !elector.resign().await.unwrap());
}

#[tokio::test]
async fn no_lock_and_no_job_can_have_the_name_of_a_leaders_lock() {
    let locks = Locks::new(MemoryBackend::new()).unwrap();
    let name = group();
    let invalid = |error: Error| {
        let error = error.to_string();
        assert!(error.contains("solocron:") && error.contains("choose another"), "{error}");
    };
    invalid(locks.try_lock(&name).await.unwrap_err());
    invalid(locks.try_lock("solocron:mine").await.unwrap_err());
    invalid(locks.lock(&name, Duration::from_secs(1)).await.unwrap_err());
    let claim = Claim { tick: Mark::from_millis(1), after: None, delivery: Delivery::AtMostOnce };
    invalid(locks.claim(&name, claim).await.unwrap_err());
    let job = Enrolment { key: name.clone(), fingerprint: 0 };
    invalid(locks.enroll(&[job]).await.unwrap_err());
    let job = Job::new(name.as_str(), "@hourly", async |_: Context| ());
    invalid(Scheduler::builder(locks.clone()).job(job).build().unwrap_err());
    // Operators name it, and drivers read it back.
    assert_eq!(LockKey::new(name.as_str()).unwrap(), name);
    for bad in [String::new(), "x".repeat(1_020)] {
        let error = Elector::campaign(&locks, &bad).unwrap_err().to_string();
        assert!(error.contains("leader group"), "{error}");
    }
}

#[tokio::test]
async fn an_operator_sees_who_leads_and_can_end_a_term() {
    let locks = Locks::new(MemoryBackend::new()).unwrap();
    let mut elector = Elector::campaign(&locks, GROUP).unwrap();
    let first = elected(&mut elector).await;
    let holders = locks.holders(group().as_str()).await.unwrap().unwrap();
    assert_eq!((&holders[0].key, &holders[0].node), (&group(), locks.node()));
    assert_eq!(elector.key(), &group());
    locks.force_release(&holders[0]).await.unwrap();
    assert!(matches!(next(&mut elector).await, Transition::Lost { .. }));
    assert!(elected(&mut elector).await.fence() > first.fence());
}
