//! Fork policies: what a child gets for each registration.

mod basic;
// Linux has no close-on-fork descriptors, and a child gets the descriptor of every queue.
#[cfg(forkio_kqueue)]
mod close_on_fork;
mod severed;

forkio_tests::main!(
    basic,
    #[cfg(forkio_kqueue)]
    close_on_fork,
    severed
);
