//! A selector in the style of [mio] that survives `fork(2)`.
//!
//! The public API is that of mio 1.2 on Unix: [`Poll`], [`Registry`], [`Events`], [`Token`], [`Interest`], [`Waker`] and
//! the types in `net` and `unix`. A program written for mio compiles and behaves the same. What is new is what
//! happens when the process forks: with the feature `cponfork`, a fork made through the module `fork` gives the child
//! **a private copy of every kernel queue, at the same descriptor number, registrations included**, as FreeBSD's
//! `KQUEUE_CPONFORK` does in the kernel. New are also the sources that kqueue has filters for: `unix::Timer`,
//! `unix::Signals` and `unix::Process`.
//!
//! Without that feature there is no registration table and no fork code: what remains is a small selector that
//! coalesces wakes.
//!
//! # Example
//!
#![cfg_attr(all(feature = "os-poll", feature = "net"), doc = "```")]
#![cfg_attr(not(all(feature = "os-poll", feature = "net")), doc = "```ignore")]
//! use forkio_reactor::net::TcpListener;
//! use forkio_reactor::{Events, Interest, Poll, Token};
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(64);
//! let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
//! poll.registry().register(&mut listener, Token(7), Interest::READABLE)?;
//!
//! let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
//! poll.poll(&mut events, Some(Duration::from_secs(5)))?;
//! assert_eq!(events.iter().next().map(|event| event.token()), Some(Token(7)));
//! # Ok(())
//! # }
//! ```
//!
//! # Platforms
//!
//! Linux (epoll). FreeBSD, macOS, NetBSD, OpenBSD and DragonFly (kqueue) compile, and were run on a model of kqueue(2) only.
//! On FreeBSD 15 the kernel copies the queue (`KQUEUE_CPONFORK`); elsewhere a child opens one at the same number and replays
//! the table. What Linux shares between processes and a kqueue cannot, a timer whose policy is `Inherit`, each process has
//! for itself there.
//!
//! [mio]: https://docs.rs/mio

// Without these features some of the machinery has no caller; which part depends on the combination.
#![cfg_attr(not(all(feature = "os-poll", feature = "os-ext", feature = "net")), allow(dead_code))]

#[macro_use]
mod macros;

pub mod event;
pub mod features;
#[cfg(feature = "cponfork")]
pub mod fork;
pub mod guide;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "os-ext")]
pub mod unix;

mod interest;
mod io_source;
mod poll;
// A clock is public where there are timers.
#[cfg_attr(not(feature = "os-ext"), allow(unreachable_pub))]
mod schedule;
mod selector;
// The fork policies are by kind; without them nobody asks.
#[cfg_attr(not(feature = "cponfork"), allow(dead_code, unreachable_pub))]
mod source_kind;
mod sync;
mod sys;
mod token;
mod wake_flag;
mod wake_slots;
mod waker;

#[doc(no_inline)]
pub use event::Events;
pub use interest::Interest;
pub use poll::{Poll, Registry};
#[doc(hidden)]
pub use sys::testing;
pub use token::Token;
pub use waker::Waker;
