//! The queues of connections that the parent keeps open for its workers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use forkio_reactor::fork::ForkPolicy;

use super::{Distribution, Listener, PreforkError};
use crate::sys;

/// The listeners, in the order that they were given in, as the parent holds them: registered and muted.
#[derive(Debug, Default)]
pub(super) struct Queues(Vec<Queue>);

#[derive(Debug)]
enum Queue {
    /// All workers accept from it.
    Common(Listener, Distribution),
    /// One per place. It outlives the worker: what arrives while there is none waits for the next one.
    PerPlace(Vec<Listener>),
}

impl Queues {
    pub(super) fn new(listeners: Vec<(Listener, Distribution)>, workers: usize) -> Result<Queues, PreforkError> {
        let mut queues = Vec::new();
        for (listener, distribution) in listeners {
            // First, because it tells whether the listener is registered as it must be.
            hold(&listener, ForkPolicy::Inherit).map_err(PreforkError::Mute)?;
            queues.push(match distribution {
                Distribution::Shared | Distribution::Balanced => Queue::Common(listener, distribution),
                Distribution::ReusePort | Distribution::ReusePortPerCpu => {
                    let is_per_cpu = distribution == Distribution::ReusePortPerCpu;
                    Queue::PerPlace(one_per_place(listener, workers, is_per_cpu).map_err(PreforkError::ReusePort)?)
                }
            });
        }
        Ok(Queues(queues))
    }

    /// Before the fork of worker `index`: the child is to have its own queues, armed.
    pub(super) fn hand_to(&self, index: usize) -> io::Result<()> {
        self.of_place(index).try_for_each(|listener| crate::set_policy(listener, ForkPolicy::Inherit))
    }

    /// After the fork, in the parent: the next child is not to have them.
    pub(super) fn take_back(&self, index: usize) {
        for listener in self.of_place(index) {
            // It fails only for what is not registered.
            let _ = crate::set_policy(listener, ForkPolicy::NoFork);
        }
    }

    fn of_place(&self, index: usize) -> impl Iterator<Item = &Listener> {
        self.0.iter().filter_map(move |queue| match queue {
            Queue::Common(..) => None,
            Queue::PerPlace(places) => places.get(index),
        })
    }

    /// In the worker: those that it serves. The others' are closed.
    pub(super) fn into_listeners(self, index: usize) -> Vec<Listener> {
        let own = |queue| match queue {
            Queue::Common(listener, _) => Some(listener),
            Queue::PerPlace(places) => places.into_iter().nth(index),
        };
        self.0.into_iter().filter_map(own).collect()
    }

    /// The numbers of the common ones, each with its distribution.
    pub(super) fn common(&self) -> Vec<(RawFd, Distribution)> {
        let common = self.0.iter().filter_map(|queue| match queue {
            Queue::Common(listener, distribution) => Some((listener.as_fd().as_raw_fd(), *distribution)),
            Queue::PerPlace(_) => None,
        });
        common.collect()
    }

    pub(super) fn close(&mut self) {
        self.0.clear();
    }
}

/// Keeps a listener in the parent without being woken by it.
fn hold(listener: &Listener, policy: ForkPolicy) -> io::Result<()> {
    crate::mute(listener)?;
    // Also in the workers, where it is not muted, somebody has said what becomes of it.
    crate::set_policy(listener, policy)
}

/// The listener, and as many more at its address as make one per place.
fn one_per_place(listener: Listener, workers: usize, is_per_cpu: bool) -> io::Result<Vec<Listener>> {
    let Listener::Tcp(first) = &listener else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a Unix socket has one queue: give its listener another distribution, with `Prefork::listener_with`",
        ));
    };
    let address = first.local_addr()?;
    sys::share_port(first)?;
    let mut places = Vec::with_capacity(workers);
    for _ in 1..workers {
        places.push(Listener::Tcp(sys::listen_beside(first).map_err(|error| beside(address, &error))?));
    }
    // Its queue is the first place's: all that has arrived is somebody's.
    places.insert(0, listener);
    if is_per_cpu {
        for (place, cpu) in places.iter().zip(sys::allowed_cpus()?.iter().cycle()) {
            sys::prefer_on_cpu(place, *cpu)?;
        }
    }
    for place in &places {
        hold(place, ForkPolicy::NoFork)?;
    }
    Ok(places)
}

fn beside(address: SocketAddr, error: &io::Error) -> io::Error {
    let advice = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "; set SO_REUSEPORT before the first one is bound (`tokio::net::TcpSocket::set_reuseport`)"
        }
        Some(libc::EMFILE) => "; raise RLIMIT_NOFILE, or have fewer workers",
        _ => "",
    };
    io::Error::new(error.kind(), format!("one more listener at {address}: {error}{advice}"))
}
