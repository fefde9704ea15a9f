//! The behaviour that a program written for mio 1.2 may rely on, on Unix.
//!
//! The suite names `crate::mio` only, so that the same files run against this crate and against upstream mio: its
//! assertions hold for both. It also needs the crates `libc` and `static_assertions`.

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
// A test build for Linux that has a kqueue leaves this module out.
#[cfg(all(target_os = "linux", not(forkio_kqueue)))]
mod priority;

mod util;
