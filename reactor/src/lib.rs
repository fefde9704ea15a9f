//! A selector in the style of [mio] that survives `fork(2)`.
//!
//! The public API is that of mio 1.2 on Unix, so a program written for mio compiles and behaves the same. With the feature
//! `cponfork`, the child of a fork gets **a private copy of every kernel queue, at the same descriptor, registrations
//! included**. FreeBSD's `KQUEUE_CPONFORK` does the same in the kernel. Without the feature, this is only a small
//! selector that coalesces wakes.
//!
//! | I want to | use |
//! |---|---|
//! | learn it step by step | [`guide`] |
//! | wait until sources are ready | [`Poll`], [`Events`] |
//! | register a source | [`Registry`], [`Token`], [`Interest`] |
//! | use sockets | the module `net` |
//! | use pipes, timers, signals, processes or bare descriptors | the module `unix` |
//! | wake a poll from another thread | [`Waker`] |
//! | make a source of my own | [`event::Source`] |
//! | fork, and choose what the child gets | the module `fork` |
//! | choose cargo features | [`features`] |
//!
//! # Platforms
//!
//! The crate uses epoll on Linux, and kqueue on FreeBSD, macOS, NetBSD, OpenBSD and DragonFly. Its kqueue backend
//! compiles for these systems, and its tests ran on a model of kqueue(2); an earlier version was also tested on FreeBSD
//! 15, under emulation. FreeBSD 15 copies the queue in the kernel. On the other kqueue systems the child opens a queue
//! at the same descriptor, and fills it from its table of registrations.
//!
//! # Examples
//!
#![cfg_attr(all(feature = "os-poll", feature = "net"), doc = "```")]
#![cfg_attr(not(all(feature = "os-poll", feature = "net")), doc = "```ignore")]
//! use forkio_reactor::net::TcpListener;
//! use forkio_reactor::{Events, Interest, Poll, Token};
//! use std::time::Duration;
//!
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(64);
//! let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
//! poll.registry().register(&mut listener, Token(7), Interest::READABLE)?;
//!
//! let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
//! poll.poll(&mut events, Some(Duration::from_secs(5)))?;
//! assert_eq!(events.iter().next().map(|event| event.token()), Some(Token(7)));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [mio]: https://docs.rs/mio

#![cfg_attr(docsrs, feature(doc_cfg))]
// Without these features some of the code has no caller; which part depends on the combination.
#![cfg_attr(
    not(all(feature = "os-poll", feature = "os-ext", feature = "net", feature = "cponfork")),
    allow(dead_code, unreachable_pub, unused_imports)
)]

/// Checks that the README's program compiles.
#[cfg(all(doctest, feature = "net", feature = "cponfork"))]
#[doc = include_str!("../README.md")]
struct Readme;

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(all(test, forkio_kqueue))]
extern crate forkio_kqueue_model as _;

pub mod event;
pub mod features;
#[cfg(feature = "cponfork")]
pub mod fork;
#[cfg(not(feature = "cponfork"))]
#[path = "fork_off.rs"]
mod fork;
pub mod guide;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "os-ext")]
pub mod unix;

mod interest;
#[cfg(any(feature = "net", feature = "os-ext"))]
mod io_source;
mod lock;
mod misuse;
mod poll;
mod source_kind;
mod sync;
mod sys;
mod timer_state;
mod token;
mod wake_state;
mod wakeable_queue;
mod waker;

#[doc(no_inline)]
pub use event::Events;
pub use interest::Interest;
pub use poll::{Poll, Registry};
pub use token::Token;
pub use waker::Waker;
