//! Copy on fork: the child gets a private copy of every selector.
//!
//! The model is FreeBSD's `KQUEUE_CPONFORK` (kqueue(2), commit b11289f87123). The child has a deep copy of the kernel queue at
//! the same descriptor. Events that were active are active in the copy. In addition, every registration has a [`ForkPolicy`],
//! which says what the child gets.
//!
//! | I want to | use |
//! |---|---|
//! | fork | [`fork()`] |
//! | fork by other means, such as `clone(2)` | [`prepare`], [`Prepared::commit`], [`Prepared::abort`] |
//! | choose what the child gets | [`set_policy`], [`set_default_policy`], [`register_with_policy`] |
//! | make the next fork faster | [`prepare_ahead`] |
//! | list registrations | [`registrations`] |
//! | know which process this is | [`generation`], [`parent`] |
//! | survive forks made by other code | no call is needed; to reconcile at once, [`atfork::install`] or [`reconcile`] |
//!
//! [`register_with_policy`]: crate::Registry::register_with_policy
//!
//! A **planned** fork is made through this module. Nearly every step that can fail comes before the fork: [`Prepared`] lists
//! the steps. An **unplanned** fork is made by other code. The child notices it when it first uses a selector: see [`reconcile`].
//!
//! # Examples
//!
//! ```no_run
//! use forkio_reactor::fork::{ForkResult, fork};
//! use forkio_reactor::{Events, Poll, Token, Waker};
//! use std::time::Duration;
//!
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(4);
//! let waker = Waker::new(poll.registry(), Token(0))?;
//!
//! // SAFETY: this process has one thread.
//! match unsafe { fork()? } {
//!     ForkResult::Parent { .. } => waker.wake()?, // The child does not notice.
//!     ForkResult::Child => {
//!         poll.poll(&mut events, Some(Duration::from_millis(10)))?;
//!         assert!(events.is_empty());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// CONTRIBUTING.md lists these modules in an order in which each uses only those before it.
mod adopting;
mod decision;
mod descriptors;
mod entry;
mod error;
mod foreign_pairs;
mod gate;
mod plan;
mod planner;
mod policy;
mod process_state;
mod protocol;
mod reconcile;
mod registering;
mod registrations;
mod renewal;
mod selector;
mod selector_core;
mod table;

pub mod atfork;
#[doc(hidden)]
pub mod glue;

pub use crate::sys::process::SignalsBlocked;
pub use error::{Error, InheritedState, PrepareError, PrepareObject};
pub use policy::{ForkPolicy, SourceKind, default_policy};
pub use protocol::{ForkResult, Prepared, block_signals, fork, prepare, prepare_ahead};
pub use reconcile::{generation, parent, reconcile};
pub use registrations::{Registration, policy, registrations, set_default_policy, set_policy};

// The rest of the crate uses these. `fork_off.rs` has the same names for builds without the feature `cponfork`.
pub(crate) use reconcile::ensure as settle;
pub(crate) use selector::{Selector, SelectorWaker, SourceRegistration, add_pair, add_timer, while_no_fork};
