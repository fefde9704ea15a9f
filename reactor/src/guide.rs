//! Getting started: a selector, a server, and a fork of that server.
//!
//! # 1. A selector, a source and a loop
//!
//! A [`Poll`](crate::Poll) asks the system which sources are ready; [`Events`](crate::Events) receives the answer.
//!
//! Register a source with a [`Token`](crate::Token), which identifies its events, and an [`Interest`](crate::Interest),
//! which says what to wait for.
//!
//! Wait for events. After each one, repeat the operation until it fails with
//! [`WouldBlock`](std::io::ErrorKind::WouldBlock): events are edge-triggered, so only then is another event certain to come.
//!
#![cfg_attr(all(feature = "os-poll", feature = "net"), doc = "```")]
#![cfg_attr(not(all(feature = "os-poll", feature = "net")), doc = "```ignore")]
//! use forkio_reactor::net::TcpListener;
//! use forkio_reactor::{Events, Interest, Poll, Token};
//! use std::io::{self, ErrorKind};
//!
//! const LISTENER: Token = Token(0);
//!
//! # fn main() -> io::Result<()> {
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(128);
//! let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
//! poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
//! # let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
//! # let mut served = 0;
//! loop {
//!     match poll.poll(&mut events, None) {
//!         // A signal handler ran.
//!         Err(error) if error.kind() == ErrorKind::Interrupted => continue,
//!         result => result?,
//!     }
//!     for event in &events {
//!         match event.token() {
//!             LISTENER => loop {
//!                 match listener.accept() {
//!                     Ok((stream, peer)) => {
//!                         println!("{peer} is connected");
//!                         drop(stream);
//! #                       served += 1;
//!                     }
//!                     Err(error) if error.kind() == ErrorKind::WouldBlock => break,
//!                     Err(error) => return Err(error),
//!                 }
//!             },
//!             token => unreachable!("nothing is registered with {token:?}"),
//!         }
//!     }
//! #   if served > 0 {
//! #       return Ok(());
//! #   }
//! }
//! # }
//! ```
//!
//! # 2. A fork
//!
//! With the feature `cponfork`, fork through the module `fork`. The loop above then continues in both processes, each
//! with a queue of its own. The first process that accepts a connection serves it. Without the feature, the processes
//! disturb each other: see [`Poll`](crate::Poll#fork).
//!
//! # 3. Not only sockets
//!
//! The module `unix` (feature `os-ext`) has other sources: a `Timer`, `Signals`, a `Process`. Register a bare
//! descriptor as a `SourceFd`. The page of each of these types has an example, and says what a fork does to the source.
