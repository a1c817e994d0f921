//! Many leases given back at once.
//!
//! ```text
//!   leases ──► one call ──┬─► acknowledged ───────────────────────► through
//!                         ├─► failed, or no answer ──► each alone ─► through (what fails again is left to the reaper)
//!                         └─► refused ──► left to the reaper ──────► through
//! ```

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use super::backend::Released;
use super::guard::LockGuard;
use super::keep::Keep;
use crate::clock::{AT_A_TIME, all, within};
use crate::error::BackendError;

/// Gives leases back, each with what [`LockGuard::on_drop`] says of its tick; all in one call where the store can. `through` gets the
/// places of those that are done with as soon as they are, most of them together: one that is stuck holds up no other.
///
/// What could not be given back, and what is left when this is dropped, goes to the reaper.
pub(crate) async fn release_each(mut leases: Vec<LockGuard>, mut through: impl FnMut(Vec<usize>)) {
    let mut tries = vec![0; leases.len()];
    call(&mut leases, &mut tries, &mut through).await;
    let left = leases.into_iter().zip(tries).enumerate().filter(|(_, (lease, _))| !lease.gone);
    let mut refused = Vec::new();
    let mut again = Vec::new();
    for (at, (lease, tries)) in left {
        match tries {
            u32::MAX => refused.push(at), // and dropped
            tries => again.push((at, lease, tries)),
        }
    }
    if !refused.is_empty() {
        through(refused);
    }
    if again.is_empty() {
        return;
    }
    let again = again.into_iter().map(|(at, lease, tries)| async move {
        let after = lease.after;
        if let Err(error) = lease.release_after(tries, after).await {
            tracing::debug!(%error, "giving a lease back takes longer");
        }
        at
    });
    all(again, |at| through(vec![at])).await;
}

/// Tries all that can go together. Says of each how often it was tried; `MAX` where that is pointless from here.
async fn call(leases: &mut [LockGuard], tries: &mut [u32], through: &mut impl FnMut(Vec<usize>)) {
    let Some(keep) = leases.first().map(|lease| Arc::clone(&lease.keep)) else { return };
    let pid = std::process::id();
    let together: Vec<_> = (0..leases.len())
        .filter(|at| {
            let LockGuard { held, keep: other, .. } = &leases[*at];
            // A nonce that was sent more than once is revoked, and what was won before a fork is the parent's.
            Arc::ptr_eq(&keep, other) && !held.resent && held.pid == pid
        })
        .collect();
    if together.is_empty() {
        return;
    }
    keep.let_go_each(together.iter().map(|at| &*leases[*at].held));
    let limit = together.iter().map(|at| leases[*at].held.timing.request_timeout).min();
    let sent: Vec<_> = together
        .iter()
        .map(|at| (Arc::clone(&leases[*at].held.lease), leases[*at].after))
        .collect();
    for at in &together {
        tries[*at] = 1;
    }
    let answers = Mutex::new(Vec::with_capacity(sent.len()));
    let mut answer = |at: usize, answer: Result<Released, BackendError>| {
        answers.lock().unwrap_or_else(PoisonError::into_inner).push((at, answer));
    };
    let mut call = pin!(keep.driver.release_each(&sent, &mut answer));
    let call = poll_fn(|cx| {
        let polled = call.as_mut().poll(cx);
        let news = std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
        let mut done = Vec::with_capacity(news.len());
        for (at, answer) in news {
            let Some(&at) = together.get(at).filter(|at| !leases[**at].gone) else { continue };
            match answer {
                Ok(_) => {
                    leases[at].gone = true;
                    done.push(at);
                }
                Err(error) if Keep::worth_retrying(&error) => {}
                Err(error) => {
                    tracing::debug!(%error, "giving a lease back takes longer");
                    tries[at] = u32::MAX;
                }
            }
        }
        if !done.is_empty() {
            through(done);
        }
        polled
    });
    // A driver may work them off some at a time, and each of these may take as long as one.
    let limit = limit.unwrap_or_default()
        * u32::try_from(sent.len().div_ceil(AT_A_TIME)).unwrap_or(u32::MAX);
    within(&*keep.clock, limit, call).await;
}
