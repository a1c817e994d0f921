//! One leader at a time, whatever the backend; leaders that go are followed, and every node is told in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use solocron::leader::{Elector, Ended, Leadership, Transition};
use solocron::lock::{Fencing, LockBackend, Locks, Lost, Scope};
use solocron::{Context, Coordination, Job, Scheduler, trigger};
use tokio::task::JoinSet;

use super::client::{
    SOON, brief_node, in_time, key, locks, node, now, short_ttl, stays_away, take,
};
use crate::harness::{lacks, skip};
use crate::{Call, Fault, Faulty, Store};

const GROUP: &str = "group";

fn campaign(locks: &Locks) -> Elector {
    Elector::campaign(locks, GROUP).expect("the laws use good names")
}

async fn next(elector: &mut Elector) -> Transition {
    in_time(SOON * 3, "a transition", elector.next()).await.expect("it campaigns")
}

/// Its next term, whatever is told before that.
async fn elected(elector: &mut Elector) -> Leadership {
    loop {
        if let Transition::Elected(leadership) = next(elector).await {
            return leadership;
        }
    }
}

/// The end of its term, whatever is told before that.
async fn lost(elector: &mut Elector) -> Lost {
    loop {
        if let Transition::Lost { why, .. } = next(elector).await {
            return why;
        }
    }
}

/// Two candidates: one leads, the other follows, for as long as nothing happens.
pub async fn one_of_two_candidates_leads(h: &Store) {
    let (one, two) = (brief_node(h), brief_node(h));
    let mut a = campaign(&one);
    let first = elected(&mut a).await;
    let mut b = campaign(&two);
    let ttl = short_ttl(&one.capabilities());
    let peaceful = async {
        loop {
            let transition = next(&mut b).await;
            assert!(!matches!(transition, Transition::Elected(_)), "two leaders");
        }
    };
    assert!(stays_away(ttl * 3, peaceful).await);
    assert!(a.is_leader() && !b.is_leader());
    assert_eq!(first.check(), Ok(first.fence()), "it was renewed");
    a.resign().await.expect("the store answers");
}

/// Candidates who give way again and again: there are never two inside, and each gets its turn.
pub async fn never_two_lead(h: &Store) {
    const CANDIDATES: usize = 4;
    const TERMS: usize = 5;
    let inside = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CANDIDATES {
        let (locks, inside) = (node(h), Arc::clone(&inside));
        tasks.spawn(async move {
            let mut elector = campaign(&locks);
            let mut fences = Vec::new();
            while fences.len() < TERMS {
                let leadership = elected(&mut elector).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "somebody else leads");
                leadership.check().expect("nothing ends it");
                tokio::time::sleep(Duration::from_millis(3)).await;
                assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1, "somebody else leads");
                fences.push(leadership.fence());
                elector.step_down().await.expect("the store answers");
            }
            elector.resign().await.expect("the store answers");
            fences
        });
    }
    let mut all = Vec::new();
    while let Some(fences) = in_time(SOON * 6, "every turn", tasks.join_next()).await {
        let fences = fences.expect("no candidate panics");
        assert!(fences.is_sorted(), "{fences:?}");
        all.extend(fences);
    }
    assert_eq!(all.len(), CANDIDATES * TERMS);
}

/// A later term has a higher fence, whoever's it is.
pub async fn the_fence_grows_with_every_term(h: &Store) {
    let (one, two) = (node(h), node(h));
    if one.capabilities().fencing == Fencing::None {
        return skip("there is no fence");
    }
    let (mut a, mut b) = (campaign(&one), campaign(&two));
    let mut last = None;
    for _ in 0..4 {
        let leadership = tokio::select! {
            leadership = elected(&mut a) => leadership,
            leadership = elected(&mut b) => leadership,
        };
        assert!(last.is_none_or(|last| last < leadership.fence()), "{last:?} {leadership:?}");
        last = Some(leadership.fence());
        let leads = if a.is_leader() { &a } else { &b };
        assert!(leads.step_down().await.expect("the store answers"));
    }
}

/// A leader that steps down is followed at once, not when its lease would have ended, and does not come first again.
pub async fn stepping_down_hands_over_at_once(h: &Store) {
    let (mut a, mut b) = (campaign(&node(h)), campaign(&node(h)));
    for _ in 0..3 {
        let first = tokio::select! {
            first = elected(&mut a) => first,
            first = elected(&mut b) => first,
        };
        let (leads, follower) = if a.is_leader() { (&mut a, &mut b) } else { (&mut b, &mut a) };
        assert!(leads.step_down().await.expect("the store answers"));
        assert_eq!(first.check(), Err(Ended::Resigned));
        // The leases are a minute long.
        let second = elected(follower).await;
        assert!(!leads.is_leader());
        second.check().expect("nothing ends it");
        assert!(follower.step_down().await.expect("the store answers"));
        assert!(matches!(next(follower).await, Transition::Resigned { .. }));
    }
}

/// A leader that resigns is followed at once, and campaigns no more.
pub async fn resigning_hands_over_at_once(h: &Store) {
    let (mut a, mut b) = (campaign(&node(h)), campaign(&node(h)));
    let first = tokio::select! {
        first = elected(&mut a) => first,
        first = elected(&mut b) => first,
    };
    let (mut leads, mut other) = if a.is_leader() { (a, b) } else { (b, a) };
    assert!(leads.resign().await.expect("the store answers"));
    assert_eq!(first.check(), Err(Ended::Resigned));
    elected(&mut other).await;
    in_time(SOON, "the end of a campaign", async { while leads.next().await.is_some() {} }).await;
    other.resign().await.expect("the store answers");
}

/// A leader whose elector is dropped does not believe in it any more, and is followed at once.
pub async fn a_dropped_elector_is_followed(h: &Store) {
    let (one, two) = (node(h), node(h));
    let mut a = campaign(&one);
    let first = elected(&mut a).await;
    let mut b = campaign(&two);
    drop(a);
    assert_eq!(first.check(), Err(Ended::Resigned));
    elected(&mut b).await;
    in_time(SOON, "a settled node", one.settled()).await;
    b.resign().await.expect("the store answers");
}

/// Another process led and was killed: the next leader is elected when the store knows.
pub async fn a_dead_leader_is_followed(h: &Store) {
    let a = brief_node(h);
    let elector = campaign(&a);
    let group = elector.key().clone();
    drop(elector);
    a.settled().await;
    if !h.hold_and_die(&group).await {
        return lacks("hold_and_die", a.capabilities().scope > Scope::Process);
    }
    let mut b = campaign(&a);
    elected(&mut b).await;
    b.resign().await.expect("the store answers");
}

/// The store ends a leader's lease: it is told, in order, and its next term is another one.
pub async fn a_lost_leadership_is_told_in_order(h: &Store) {
    let a = brief_node(h);
    let mut elector = campaign(&a);
    let mut terms = Vec::new();
    for _ in 0..3 {
        let leadership = elected(&mut elector).await;
        if !h.expire(elector.key()).await {
            return lacks("expire", a.capabilities().tells_loss);
        }
        lost(&mut elector).await;
        assert!(matches!(leadership.check(), Err(Ended::Lost(_))), "{leadership:?}");
        terms.push(leadership);
    }
    let last = elected(&mut elector).await;
    for over in &terms {
        assert!(over.check().is_err(), "a later term does not revive {over:?}");
    }
    last.check().expect("nothing ends it");
    elector.resign().await.expect("the store answers");
}

/// An operator frees the group's lock: the leader is told.
pub async fn a_leader_can_be_deposed_by_force(h: &Store) {
    let (a, operator) = (brief_node(h), node(h));
    if !a.capabilities().force_release {
        return skip("no lock can be taken from its holder");
    }
    let mut elector = campaign(&a);
    let first = elected(&mut elector).await;
    let group = elector.key().as_str().to_owned();
    let holders = operator.holders(&group).await.expect("the store answers").expect("it tells");
    assert_eq!(holders.len(), 1, "{holders:?}");
    operator.force_release(&holders[0]).await.expect("the store answers");
    lost(&mut elector).await;
    assert!(first.check().is_err());
    elector.resign().await.expect("the store answers");
}

/// Renewals hang for ever: the leader knows before another is elected.
pub async fn a_leader_whose_renewals_hang_knows_before_its_successor(h: &Store) {
    let caps = h.connect().capabilities();
    if caps.ttl.is_none() {
        return skip("leases do not run out");
    }
    let ttl = short_ttl(&caps);
    let faulty = Faulty::script(h.connect(), vec![(Call::Renew, Fault::Hang); 100]);
    let (one, two) = (locks(faulty.clone(), ttl), brief_node(h));
    let mut a = campaign(&one);
    let first = elected(&mut a).await;
    let mut b = campaign(&two);
    let successor = tokio::spawn({
        let first = first.clone();
        async move {
            let second = elected(&mut b).await;
            (second, first.check().is_err(), b)
        }
    });
    assert_eq!(in_time(ttl + SOON, "the loss", first.ended()).await, Ended::Lost(Lost::Expired));
    let (second, known, b) = in_time(SOON * 3, "its successor", successor).await.expect("no panic");
    assert!(known, "two believed that they lead");
    assert!(second.fence() > first.fence() || caps.fencing == Fencing::None);
    assert_eq!(lost(&mut a).await, Lost::Expired);
    b.resign().await.expect("the store answers");
}

/// A store that fails elects nobody; when it answers again, somebody leads. Its trouble is told once.
pub async fn a_failing_store_elects_nobody(h: &Store) {
    let faulty = Faulty::new(h.connect());
    faulty.down();
    let locks = locks(faulty.clone(), short_ttl(&h.connect().capabilities()));
    let mut elector = campaign(&locks);
    assert!(matches!(next(&mut elector).await, Transition::Failed { .. }));
    let tried = faulty.calls(Call::TryAcquire);
    in_time(SOON, "another attempt", async {
        while faulty.calls(Call::TryAcquire) <= tried + 1 {
            assert!(!elector.is_leader());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    faulty.calm();
    match next(&mut elector).await {
        Transition::Elected(leadership) => drop(leadership.check().expect("nothing ends it")),
        other => panic!("the same trouble was told again: {other:?}"),
    }
    elector.resign().await.expect("the store answers");
}

/// The reply that would have elected it is lost: it is elected all the same, or nobody is blocked by what it may have won.
pub async fn a_lost_reply_blocks_no_group(h: &Store) {
    let faulty = Faulty::script(h.connect(), [(Call::TryAcquire, Fault::LostReply)]);
    let locks = locks(faulty.clone(), short_ttl(&h.connect().capabilities()));
    let mut elector = campaign(&locks);
    elected(&mut elector).await;
    assert!(elector.is_leader());
    elector.resign().await.expect("the store answers");
    elected(&mut campaign(&node(h))).await;
}

/// Two groups have two leaders, and neither meets a lock or a job that is called like it.
pub async fn a_group_meets_no_other_name(h: &Store) {
    let a = node(h);
    let guard = take(&a, &key(GROUP)).await;
    let (mut one, mut two) =
        (campaign(&a), Elector::campaign(&a, "another group").expect("the laws use good names"));
    let (first, second) = (elected(&mut one).await, elected(&mut two).await);
    first.check().expect("nothing ends it");
    second.check().expect("nothing ends it");
    let refused = a.try_lock(one.key().clone()).await;
    assert!(matches!(refused, Err(solocron::Error::Invalid(_))), "{refused:?}");
    guard.release().await.expect("the store answers");
    one.resign().await.expect("the store answers");
    two.resign().await.expect("the store answers");
}

/// A scheduler in leader mode works on every backend: ticks run on the leader, each once, and on the next one after it.
pub async fn one_leader_runs_the_ticks(h: &Store) {
    const ENOUGH: usize = 5;
    let (told, mut runs) = tokio::sync::mpsc::unbounded_channel();
    let mut nodes = BTreeMap::new();
    for name in ["a", "b"] {
        let told = told.clone();
        let work = move |ctx: Context| {
            let _ = told.send((name, ctx.tick(), ctx.fence(), ctx.run_number())); // a law that failed hears no more
            std::future::ready(())
        };
        let every = trigger::Every::new(Duration::from_millis(50)).expect("a good period");
        let scheduler = Scheduler::builder(node(h))
            .coordination(Coordination::leader(GROUP))
            .job(Job::new("job", every, work))
            .build()
            .expect("leader mode needs nothing");
        let stopper = scheduler.stopper();
        let over = tokio::spawn(scheduler.run_until(std::future::pending::<()>()));
        nodes.insert(name, (stopper, over));
    }
    drop(told);
    let mut next = async || in_time(SOON * 2, "a run", runs.recv()).await.expect("somebody leads");
    let begun = now();
    let (first, ..) = next().await;
    let mut seen = Vec::new();
    for _ in 0..ENOUGH {
        let run = next().await;
        assert_eq!(run.0, first, "two nodes run ticks, {:?} after", now().saturating_since(begun));
        seen.push(run);
    }
    let (stopper, over) = nodes.remove(first).expect("it is one of them");
    stopper.stop();
    in_time(SOON * 2, "a clean stop", over).await.expect("no panic").expect("it ends");
    let second = *nodes.keys().next().expect("one is left");
    for _ in 0..ENOUGH {
        let run = loop {
            let run = next().await;
            if run.0 == second {
                break run;
            }
            seen.push(run);
        };
        seen.push(run);
    }
    let mut ticks: Vec<_> = seen.iter().map(|(_, tick, ..)| *tick).collect();
    assert!(ticks.is_sorted(), "{seen:?}");
    ticks.dedup();
    assert_eq!(ticks.len(), seen.len(), "a tick ran twice: {seen:?}");
    assert!(seen.is_sorted_by_key(|(_, _, fence, number)| (*fence, *number)), "{seen:?}");
    let (stopper, over) = nodes.remove(second).expect("one is left");
    stopper.stop();
    in_time(SOON * 2, "a clean stop", over).await.expect("no panic").expect("it ends");
}
