//! Tells forks which sources are made and closed.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::policy::ForkPolicy;
use super::process_state::{lock_to_add, lock_to_change};
use super::reconcile;
use super::registering::lock_to_close;
use crate::timer_state::TimerState;
use crate::{Interest, Registry, Token, event, sys};

/// Makes a source that children may have to make again. No planned fork sees it half done. Fails between prepare and the end
/// of this thread's fork: the child would have to make the source.
pub(crate) fn while_no_fork<T>(doing: &str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    reconcile::ensure();
    let _state = sys::Remake::EXISTS.then(|| lock_to_add(doing)).transpose()?;
    act()
}

/// Notes that `a` and `b` are the two ends of one pair: renewing one means renewing both.
pub(crate) fn add_pair(a: RawFd, b: RawFd) {
    reconcile::ensure();
    lock_to_change().records.add_pair(a, b);
}

/// Makes a timer, and notes it with its state: each child gets a timer of its own.
pub(crate) fn add_timer<T: AsRawFd>(
    make: impl FnOnce() -> io::Result<T>,
    timer_state: &Arc<TimerState>,
) -> io::Result<T> {
    reconcile::ensure();
    let mut state = lock_to_add("making a timer")?;
    let timer = make()?;
    state.records.record(timer.as_raw_fd()).timer = Some(Arc::clone(timer_state));
    Ok(timer)
}

/// Forgets a timer that is about to be closed.
pub(crate) fn remove_timer(fd: RawFd) {
    lock_to_close(|plan| plan.forget(fd)).records.forget(fd);
}

impl Registry {
    /// Registers `source` with a fork policy of its own in place of the default of its kind.
    ///
    /// No fork sees the registration without the policy. [`fork::set_policy`](super::set_policy) changes it later.
    ///
    /// # Errors
    ///
    /// Those of [`register`](Registry::register).
    ///
    /// # Examples
    ///
    #[cfg_attr(feature = "net", doc = "```")]
    #[cfg_attr(not(feature = "net"), doc = "```ignore")]
    /// use forkio_reactor::fork::ForkPolicy;
    /// use forkio_reactor::net::UdpSocket;
    /// use forkio_reactor::{Interest, Poll, Token};
    ///
    /// let poll = Poll::new()?;
    /// let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
    /// // The child keeps the descriptor and gets no events for it.
    /// poll.registry().register_with_policy(&mut socket, Token(1), Interest::READABLE, ForkPolicy::NoFork)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn register_with_policy<S: event::Source + ?Sized>(
        &self,
        source: &mut S,
        token: Token,
        interests: Interest,
        policy: ForkPolicy,
    ) -> io::Result<()> {
        // The policy travels in the registry, so that it reaches every descriptor of a composite source.
        Registry::of(self.selector().with_policy(policy)).register(source, token, interests)
    }
}
