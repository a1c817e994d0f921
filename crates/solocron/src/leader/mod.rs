//! Leaders: one node of a group, for as long as it holds the group's lock.
//!
//! ```text
//!              won                     lost (told before the deadline)
//!  campaign ─────────► leading ─────────────────────────────────────► pause ──► campaign
//!     ▲  │ busy: watch,   │ step_down: over here, then given back ──► hold off ──┘
//!     └──┘ failed: back   │ resign, drop: over here, then given back ──► end
//!          off, tell once
//! ```
//!
//! An [`Elector`] campaigns for a group and reports every [`Transition`] in its order. Each term is a value, [`Leadership`], that can
//! be asked at any time whether it goes on, without I/O.
//!
//! A lock service elects one leader; it cannot keep a paused one from acting late. Hand [`Leadership::fence`] to whatever you
//! write to, and let that refuse older ones.
//!
//! A scheduler in which only the leader plans and runs is built with
//! [`Coordination::leader`](crate::Coordination::leader); it has its own elector.

mod campaign;
mod leadership;
mod pace;
mod pulse;

pub use self::leadership::{Ended, Leadership};

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use self::campaign::{Campaign, Order};
pub(crate) use self::pulse::Pulse;
use crate::error::{BackendError, Result};
use crate::lock::{Fence, LockKey, Locks, Lost, NodeId};

/// Campaigns for the leadership of a group, holds it, and gives it back.
///
/// It works on the thread that renews leases, so neither a blocked runtime nor a reader that does not read keeps a group without a
/// leader. Where leases expire, a dead leader is followed when its lease has ended; a clean end is followed at once.
///
/// Dropping it ends the term in this process at once and gives the lock back in the background, without blocking. Use
/// [`resign`](Self::resign) to know when it is done.
///
/// ```
/// use solocron::leader::{Elector, Transition};
/// use solocron::lock::{Locks, MemoryBackend};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let locks = Locks::new(MemoryBackend::new())?;
/// let mut elector = Elector::campaign(&locks, "billing")?;
/// while let Some(transition) = elector.next().await {
///     match transition {
///         Transition::Elected(leadership) => {
///             // Ends with the term, whichever comes first.
///             let served = leadership.run(async { "what only the leader does" }).await;
/// #           assert!(served.is_ok());
/// #           elector.resign().await?;
///         }
///         Transition::Lost { why, .. } => eprintln!("not the leader any more: {why}"),
///         other => eprintln!("{other:?}"),
///     }
/// }
/// # Ok::<(), solocron::Error>(()) }).unwrap();
/// ```
#[must_use = "an elector that is dropped does not campaign"]
pub struct Elector {
    key: LockKey,
    seat: Arc<Seat>,
    orders: UnboundedSender<Order>,
    transitions: UnboundedReceiver<Transition>,
}

/// Something that changed for a node of a group.
///
/// Every one is delivered, in the order in which they happened. When it is read, it may be past: ask the [`Leadership`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Transition {
    /// This node leads.
    Elected(Leadership),
    /// This node does not lead any more, although it did not resign. It campaigns again.
    Lost {
        /// The fence of the term that is over.
        fence: Fence,
        /// Why.
        why: Lost,
    },
    /// This node has ended its term: from here on it does not believe in it, and gives the lock back.
    Resigned {
        /// The fence of the term that is over.
        fence: Fence,
    },
    /// Another node leads, as far as this one has seen.
    Follows {
        /// Who.
        leader: NodeId,
    },
    /// Nobody knows who leads: the store cannot be asked. This node does not lead and goes on trying. Told once for each trouble
    /// that may pass, and at each try for one that a person must mend; at most once in five seconds.
    Failed {
        /// Why.
        error: BackendError,
    },
}

/// What an elector's handle and its task share.
#[derive(Debug, Default)]
struct Seat {
    /// The term that this node has, or had last.
    last: Mutex<Option<Leadership>>,
    /// Has a receiver for each [`Hold`].
    holds: watch::Sender<()>,
}

impl Seat {
    fn take(&self, leadership: Leadership) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(leadership);
    }

    fn last(&self) -> Option<Leadership> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns once there is no [`Hold`].
    async fn unheld(&self) {
        self.holds.closed().await;
    }
}

impl Elector {
    /// Begins to campaign for `group`. Nodes with the same group and store share one leader.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) where the group's name is empty or too long. A store that does not answer is no error: it is told as a
    /// [`Transition::Failed`], and asked again.
    pub fn campaign(locks: &Locks, group: &str) -> Result<Self> {
        Ok(Self::of(locks, LockKey::of_leader(group)?, None))
    }

    /// Where there is a pulse it leads only while that beats.
    pub(crate) fn of(locks: &Locks, key: LockKey, pulse: Option<Pulse>) -> Self {
        let (orders, to_do) = unbounded_channel();
        let (told, transitions) = unbounded_channel();
        let seat = Arc::new(Seat::default());
        let campaign = Campaign {
            locks: locks.clone(),
            key: key.clone(),
            seat: Arc::clone(&seat),
            pulse,
            orders: to_do,
            transitions: told,
        };
        locks.keeper().spawn(campaign.run());
        Self { key, seat, orders, transitions }
    }

    /// The group's lock, as [`Locks::holders`] names it.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.key
    }

    /// The next transition. `None`: all were read, and this elector campaigns no more, because it has resigned or because the
    /// [`Keeper`](crate::lock::Keeper) that it ran on is gone; in either case it does not lead.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no transition.
    pub async fn next(&mut self) -> Option<Transition> {
        self.transitions.recv().await
    }

    /// The next transition, if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<Transition> {
        self.transitions.try_recv().ok()
    }

    /// The term that goes on now, if this node leads. Asks nobody.
    #[must_use]
    pub fn leadership(&self) -> Option<Leadership> {
        self.seat.last().filter(|leadership| leadership.check().is_ok())
    }

    /// Whether this node leads now, by its own clock. Asks nobody.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leadership().is_some()
    }

    /// Ends this node's term on purpose, and gives the others a second to be elected before it campaigns again. Stop the
    /// leader's work first. Answers whether it led.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`](crate::Error::Backend) where the store did not answer: the term is over here all the same, the lock is given back in the
    /// background, and its lease ends by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the rest to the background.
    pub async fn step_down(&self) -> Result<bool> {
        self.order(Order::StepDown).await
    }

    /// Ends this node's term and its campaign. When it returns `Ok`, the group's lock is free for others; the transitions up to
    /// here can still be read. Answers whether it led.
    ///
    /// # Errors
    ///
    /// As [`step_down`](Self::step_down).
    ///
    /// # Cancel safety
    ///
    /// As [`step_down`](Self::step_down).
    pub async fn resign(&self) -> Result<bool> {
        self.order(Order::Resign).await
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<bool>>) -> Order,
    ) -> Result<bool> {
        let (done, told) = oneshot::channel();
        if self.orders.send(order(done)).is_err() {
            return Ok(false); // it has resigned before
        }
        // Where the keeper dropped the task, its guard has given itself back.
        told.await.unwrap_or(Ok(false))
    }

    /// [`resign`](Self::resign) without waiting for it.
    pub(crate) fn begin_to_resign(&self) {
        let (done, _) = oneshot::channel();
        drop(self.orders.send(Order::Resign(done)));
    }

    /// Campaigns no more; a term that goes on goes on.
    pub(crate) fn retire(&self) {
        drop(self.orders.send(Order::Retire));
    }

    /// Keeps the group's lock, also when the elector is dropped or steps down, until the last hold is dropped. Look at the leadership
    /// after taking it: a term that is over then may have been given back before.
    pub(crate) fn hold(&self) -> Hold {
        Hold { _orders: self.orders.clone(), _held: self.seat.holds.subscribe() }
    }
}

impl Drop for Elector {
    fn drop(&mut self) {
        // Nobody in this process believes in the term from here on, however long the task takes to hear of it.
        if let Some(leadership) = self.seat.last() {
            leadership.give_up();
        }
        self.retire();
    }
}

impl fmt::Debug for Elector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elector")
            .field("key", &self.key)
            .field("leadership", &self.leadership())
            .finish_non_exhaustive()
    }
}

/// See [`Elector::hold`].
pub(crate) struct Hold {
    _orders: UnboundedSender<Order>,
    _held: watch::Receiver<()>,
}
