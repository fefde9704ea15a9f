//! Exclusive wakes (`EPOLLEXCLUSIVE`): an event wakes one of the processes that wait, not all of them.

#[cfg(epoll)]
mod flags;
// Only Linux tells which processes were woken.
#[cfg(procfs)]
mod wakes;

forkio_tests::main!(
    #[cfg(epoll)]
    flags,
    #[cfg(procfs)]
    wakes
);
