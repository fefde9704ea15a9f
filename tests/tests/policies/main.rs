//! Fork policies: what a child gets for each registration.

mod basic;
// Linux has neither close-on-fork descriptors nor queues that a child does not get.
#[cfg(forkio_kqueue)]
mod close_on_fork;
mod severed;

forkio_tests::main!(
    basic,
    #[cfg(forkio_kqueue)]
    close_on_fork,
    severed
);
