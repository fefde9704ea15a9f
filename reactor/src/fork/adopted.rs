//! Selectors made by other code: the epoll instances of tokio on upstream mio.
//!
//! Such a selector has no table. Before a fork uses the selector, [`adopting`](super::adopting) fills a table from the list
//! that the kernel keeps. The table is exact if the process has one thread. The planner and the plan then handle it like a
//! selector of this crate.

use std::os::fd::RawFd;

use super::selector_core::SelectorCore;
use super::signal_pipe::SignalPipe;
use crate::Token;

/// The token of the signal pipe (`tokio/src/runtime/io/driver.rs`, `TOKEN_SIGNAL`).
pub(super) const SIGNAL_PIPE: Token = Token(1);

#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) queues: Vec<AdoptedQueue>,
    /// The signal pipe that all of these selectors watch. A fork recognises the selectors by the pipe.
    pub(super) pipe: Option<SignalPipe>,
}

#[derive(Debug)]
pub(super) struct AdoptedQueue {
    pub(super) core: &'static SelectorCore,
    /// The other descriptors of the same epoll instance.
    pub(super) duplicates: Vec<RawFd>,
}

impl Adopted {
    pub(super) const fn new() -> Adopted {
        Adopted { queues: Vec::new(), pipe: None }
    }

    /// Whether a runtime on upstream mio was found in this process or its parent.
    pub(super) fn is_in_use(&self) -> bool {
        self.pipe.is_some()
    }

    /// Returns the duplicates of the descriptor of `core`'s queue.
    pub(super) fn duplicates(&self, core: &SelectorCore) -> &[RawFd] {
        let queue = self.queues.iter().find(|queue| std::ptr::eq(queue.core, core));
        queue.map_or(&[], |queue| &queue.duplicates)
    }

    /// Lists the descriptors of the signal pipe that are not registered with a queue. In the child they refer to a fresh
    /// pipe.
    pub(super) fn pipe_descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.pipe.iter().flat_map(SignalPipe::descriptors)
    }
}
