//! The holder is killed: how soon does another one have it?

use std::time::Duration;

use solocron_benches::Samples;
use solocron_testkit::fleet::Member;
use solocron_testkit::history::monotonic_ns;

use super::contender::Role;
use super::families::{Family, Subject};
use super::round::{PATIENCE, start};
use super::stage::Stage;
use super::stop;
use super::subject::Place;

/// The take-overs of one subject in one round.
#[derive(Debug, Default)]
pub(crate) struct TakeOvers {
    /// From the kill to the return of the next one's `take`, in ms.
    pub(crate) took: Samples,
    /// How much of that was beyond what was left of the lease, in ms; where somebody says what was left.
    pub(crate) beyond: Samples,
    /// How often the next one had it before the kill.
    pub(crate) early: u32,
}

/// There is no event for "it waits": a moment to get there. One that comes too late is not faster than it is.
const SETTLE: Duration = Duration::from_millis(60);

/// Kills one holder after the other; each time the only waiter takes over and is the next one to be killed.
pub(crate) fn take_overs(
    stage: &Stage,
    family: &Family,
    subject: &Subject,
    kills: u32,
) -> Result<TakeOvers, String> {
    let ttl = (!family.ttl.is_zero()).then_some(family.ttl);
    let place = stage.place(subject.name, ttl)?;
    let mut result = TakeOvers::default();
    let mut holder = enter(subject, &place, 0)?;
    stop::expect(&mut holder, "taken", PATIENCE)?;
    for kill in 0..kills {
        let mut waiter = enter(subject, &place, kill + 1)?;
        // Evenly over the time between two renewals.
        stop::sleep(SETTLE + family.ttl / 3 * kill / kills)?;
        let left = stage.left(subject, &place)?;
        let asked = monotonic_ns();
        let killed = monotonic_ns();
        holder.kill().map_err(|error| error.to_string())?;
        let taken = stop::expect(&mut waiter, "taken", PATIENCE)?;
        let taken: u64 = taken.parse().map_err(|_| format!("{}: taken {taken:?}", subject.name))?;
        if taken < killed {
            result.early += 1;
        } else {
            let took = (taken - killed) as f64 / 1e6;
            result.took.push(took);
            if let Some(left) = left {
                result.beyond.push((taken - asked) as f64 / 1e6 - left.as_secs_f64() * 1e3);
            }
        }
        holder = waiter;
    }
    Ok(result)
}

/// One more who wants it and will keep it.
fn enter(subject: &Subject, place: &Place, process: u32) -> Result<Member, String> {
    let role = Role {
        subject: subject.name.to_owned(),
        place: place.clone(),
        process,
        tasks: 1,
        hold: Duration::ZERO,
        away: Duration::ZERO,
    };
    let mut member = start(&role, subject.by)?;
    stop::expect(&mut member, "ready", PATIENCE)?;
    member.send("hold").map_err(|error| error.to_string())?;
    Ok(member)
}
