//! Polls, with and without events.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::repeat;
use crate::library::{Interest, Library, Register};
use crate::{Batch, sockets};

/// How many streams are registered for [`idle_streams`].
const STREAMS: usize = 10_000;

/// The distance from one stream that becomes ready to the next: far enough that caches do not help.
const STRIDE: usize = 7_919;

const MESSAGE: [u8; 64] = [7; 64];

pub(super) fn nothing<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let waker = L::waker(L::registry(&poll))?;
    repeat(move || {
        let _idle = &waker;
        L::poll(&mut poll, &mut events, Some(Duration::ZERO))
    })
}

pub(super) fn ready<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let eventfd = sockets::eventfd()?;
    L::register_fd(L::registry(&poll), eventfd.as_raw_fd(), 1)?;
    repeat(move || {
        sockets::signal(eventfd.as_raw_fd())?;
        L::poll(&mut poll, &mut events, None)
    })
}

pub(super) fn ping_pong<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let (near, far) = sockets::connection()?;
    let mut ends = [L::tcp_stream(near), L::tcp_stream(far)];
    for (number, end) in ends.iter_mut().enumerate() {
        L::registry(&poll).add(end, number, Interest::Read)?;
    }
    repeat(move || {
        for (from, to) in [(0, 1), (1, 0)] {
            let mut message = MESSAGE;
            ends[from].write_all(&message)?;
            poll_until::<L>(&mut poll, &mut events, to)?;
            ends[to].read_exact(&mut message)?;
        }
        Ok(())
    })
}

pub(super) fn idle_streams<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let mut streams: Vec<_> = sockets::stream_pairs(STREAMS)?.into_iter().map(L::unix_stream).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        L::registry(&poll).add(stream, number, Interest::ReadWrite)?;
    }
    // Each stream begins with an event, because it is writable.
    loop {
        L::poll(&mut poll, &mut events, Some(Duration::ZERO))?;
        if L::is_empty(&events) {
            break;
        }
    }
    let mut next = 0;
    repeat(move || {
        next = (next + STRIDE) % STREAMS;
        let mut message = MESSAGE;
        streams[next ^ 1].write_all(&message)?;
        poll_until::<L>(&mut poll, &mut events, next)?;
        streams[next].read_exact(&mut message)
    })
}

fn poll_until<L: Library>(poll: &mut L::Poll, events: &mut L::Events, token: usize) -> io::Result<()> {
    loop {
        L::poll(poll, events, None)?;
        if L::has(events, token) {
            return Ok(());
        }
    }
}
