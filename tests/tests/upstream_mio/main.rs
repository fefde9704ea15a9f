//! tokio on upstream mio, because the patch is missing: forks on Linux, and the symptoms of unplanned forks.
//!
//! `tests/projects/upstream-mio` builds the program that runs these scenarios. The project also builds other topics
//! without the patch: see its `Cargo.toml`.

#[cfg(epoll)]
mod forks;
#[cfg(not(epoll))]
mod refused;
#[cfg(epoll)]
mod restricted;
#[cfg(epoll)]
mod stale;
#[cfg(target_os = "linux")]
mod symptoms;

#[cfg(epoll)]
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

#[cfg(epoll)]
use tokio::io::unix::AsyncFd;

forkio_tests::main!(
    project = "upstream-mio",
    #[cfg(epoll)]
    forks,
    #[cfg(not(epoll))]
    refused,
    #[cfg(epoll)]
    restricted,
    #[cfg(epoll)]
    stale,
    #[cfg(target_os = "linux")]
    symptoms
);

/// Registers a file with the current runtime. The returned value owns the file.
#[cfg(epoll)]
fn watch<T: AsRawFd>(file: T) -> AsyncFd<T> {
    // SAFETY: the value owns the file.
    unsafe { AsyncFd::register(file) }.unwrap()
}

#[cfg(epoll)]
fn eventfd() -> OwnedFd {
    // SAFETY: no memory is involved, and nothing else owns the descriptor.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) }
}

/// Makes an eventfd readable.
#[cfg(epoll)]
#[track_caller]
fn signal_eventfd(eventfd: &impl AsRawFd) {
    // SAFETY: the kernel reads eight bytes.
    assert_eq!(unsafe { libc::write(eventfd.as_raw_fd(), 1_u64.to_ne_bytes().as_ptr().cast(), 8) }, 8);
}
