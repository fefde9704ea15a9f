//! Fork policies: what a child gets for each registration.

mod basic;
// This needs the model: Linux itself has no close-on-fork descriptors, and gives a child the descriptor of every queue.
#[cfg(forkio_kqueue)]
mod close_on_fork;
mod severed;

forkio_tests::main!(
    basic,
    #[cfg(forkio_kqueue)]
    close_on_fork,
    severed
);
