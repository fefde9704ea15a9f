//! The behaviour on Unix that a program for mio 1.2 may rely on.
//!
//! The suite imports mio as `crate::mio`, so that the same files run against forkio-reactor and against upstream mio.
//! All assertions hold for both. The suite also needs the crates `libc` and `static_assertions`.

mod pipe;
mod poll;
mod source_fd;
mod tcp;
mod traits;
mod udp;
mod unix_datagram;
mod unix_stream;
mod vocabulary;
mod waker;

#[cfg(target_os = "linux")]
mod linux;
// These are features of epoll, which test builds of the kqueue backend do not use.
#[cfg(all(target_os = "linux", not(forkio_kqueue)))]
mod priority;

mod util;
