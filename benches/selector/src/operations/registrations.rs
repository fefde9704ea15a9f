//! Registrations, and selectors themselves.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::repeat;
use crate::library::{Interest, Library, Register};
use crate::team::Team;
use crate::{Batch, Threads, sockets};

pub(super) fn listener<L: Library>(threads: Threads) -> io::Result<Batch> {
    on_one_selector::<L, _>(threads, || {
        let mut listener = L::tcp_listener(sockets::listener()?);
        Ok(move |registry: &L::Registry| {
            registry.add(&mut listener, 1, Interest::Read)?;
            registry.remove(&mut listener)
        })
    })
}

pub(super) fn udp<L: Library>(threads: Threads) -> io::Result<Batch> {
    on_one_selector::<L, _>(threads, || {
        let mut socket = L::udp_socket(sockets::udp_socket()?);
        Ok(move |registry: &L::Registry| {
            registry.add(&mut socket, 1, Interest::Read)?;
            registry.remove(&mut socket)
        })
    })
}

pub(super) fn dropped<L: Library>(threads: Threads) -> io::Result<Batch> {
    on_one_selector::<L, _>(threads, || {
        Ok(|registry: &L::Registry| {
            let mut socket = L::udp_socket(sockets::udp_socket()?);
            registry.add(&mut socket, 1, Interest::Read)
        })
    })
}

/// Repeats an operation in one or more threads, all with the same registry.
fn on_one_selector<L, O>(threads: Threads, make: impl Fn() -> io::Result<O>) -> io::Result<Batch>
where
    L: Library,
    O: FnMut(&L::Registry) -> io::Result<()> + Send + 'static,
{
    let poll = L::new_poll()?;
    let registry = Arc::new(L::try_clone(L::registry(&poll))?);
    match threads {
        Threads::Alone => {
            let mut operation = make()?;
            repeat(move || {
                let _open = &poll;
                operation(&registry)
            })
        }
        Threads::Several(threads) => {
            let team = Team::start(threads, |_| {
                let (mut operation, registry) = (make()?, Arc::clone(&registry));
                Ok(move |times| (0..times).try_for_each(|_| operation(&registry)))
            })?;
            Ok(Box::new(move |times| {
                let _open = &poll;
                team.turn(times)
            }))
        }
    }
}

pub(super) fn stream<L: Library>() -> io::Result<Batch> {
    let poll = L::new_poll()?;
    let (near, far) = sockets::connection()?;
    let mut near = L::tcp_stream(near);
    repeat(move || {
        let _connected = &far;
        L::registry(&poll).add(&mut near, 1, Interest::ReadWrite)?;
        L::registry(&poll).remove(&mut near)
    })
}

pub(super) fn descriptor<L: Library>() -> io::Result<Batch> {
    let poll = L::new_poll()?;
    let eventfd = sockets::eventfd()?;
    repeat(move || {
        L::register_fd(L::registry(&poll), eventfd.as_raw_fd(), 1)?;
        L::deregister_fd(L::registry(&poll), eventfd.as_raw_fd())
    })
}

/// Reregisters a stream, with another interest each time if `changed`.
pub(super) fn again<L: Library>(changed: bool) -> io::Result<Batch> {
    let poll = L::new_poll()?;
    let (near, far) = sockets::connection()?;
    let mut near = L::tcp_stream(near);
    L::registry(&poll).add(&mut near, 1, Interest::Read)?;
    let mut interests = (Interest::Read, if changed { Interest::ReadWrite } else { Interest::Read });
    repeat(move || {
        let _connected = &far;
        interests = (interests.1, interests.0);
        L::registry(&poll).change(&mut near, 1, interests.0)
    })
}

pub(super) fn new_poll<L: Library>() -> io::Result<Batch> {
    repeat(|| L::new_poll().map(drop))
}

pub(super) fn clone_registry<L: Library>() -> io::Result<Batch> {
    let poll = L::new_poll()?;
    repeat(move || L::try_clone(L::registry(&poll)).map(drop))
}
