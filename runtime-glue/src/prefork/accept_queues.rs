//! The queues of connections that the supervisor keeps open for its workers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use forkio_reactor::fork::{ForkPolicy, glue};

use super::acceptor::refuse_new_connections;
use super::{Distribution, Listener, PreforkError, inherited};
use crate::sys;

/// The supervisor's listeners, registered and muted, in the order in which the application gave them.
#[derive(Debug, Default)]
pub(super) struct AcceptQueues(Vec<AcceptQueue>);

#[derive(Debug)]
enum AcceptQueue {
    /// All workers accept from this queue.
    Common(Listener, Distribution),
    /// One queue per place (worker index), each steered to a CPU if `is_per_cpu`. A queue outlives its worker: connections that
    /// arrive while the place has no worker wait for the next worker.
    PerPlace { places: Vec<Listener>, is_per_cpu: bool },
}

impl AcceptQueues {
    pub(super) fn new(listeners: Vec<(Listener, Distribution)>, workers: usize) -> Result<AcceptQueues, PreforkError> {
        let mut queues = Vec::new();
        for (listener, distribution) in listeners {
            // Hold the listener first: this fails if no selector of forkio has registered it.
            hold(&listener, ForkPolicy::Inherit).map_err(PreforkError::Listener)?;
            queues.push(match distribution {
                Distribution::Shared | Distribution::Balanced => AcceptQueue::Common(listener, distribution),
                Distribution::ReusePort | Distribution::ReusePortPerCpu => {
                    let is_per_cpu = distribution == Distribution::ReusePortPerCpu;
                    let places = one_per_place(listener, workers, is_per_cpu).map_err(PreforkError::ReusePort)?;
                    AcceptQueue::PerPlace { places, is_per_cpu }
                }
            });
        }
        Ok(AcceptQueues(queues))
    }

    /// Lets the next child, worker `index`, inherit its own queues, armed.
    pub(super) fn hand_to(&self, index: usize) -> io::Result<()> {
        self.of_place(index).try_for_each(|listener| crate::set_policy(listener, ForkPolicy::Inherit))
    }

    /// Undoes [`hand_to`](AcceptQueues::hand_to). The process that forked the worker calls it after the fork.
    pub(super) fn take_back(&self, index: usize) {
        for listener in self.of_place(index) {
            // This fails only for listeners that are not registered.
            let _ = crate::set_policy(listener, ForkPolicy::NoFork);
        }
    }

    /// Lets the next child, a template, inherit all queues. The template mutes them with [`hold`](AcceptQueues::hold).
    pub(super) fn hand_to_template(&self) -> io::Result<()> {
        self.of_places().try_for_each(|listener| crate::set_policy(listener, ForkPolicy::Inherit))
    }

    /// Undoes [`hand_to_template`](AcceptQueues::hand_to_template). The supervisor calls it after the fork.
    pub(super) fn take_back_from_template(&self) {
        for listener in self.of_places() {
            // This fails only for listeners that are not registered.
            let _ = crate::set_policy(listener, ForkPolicy::NoFork);
        }
    }

    /// Mutes the queues in a template, which inherits them armed. Keeps the queues of single workers
    /// from the template's next children.
    pub(super) fn hold(&self) -> io::Result<()> {
        self.listeners().try_for_each(crate::policy::mute)?;
        self.of_places().try_for_each(|listener| crate::set_policy(listener, ForkPolicy::NoFork))
    }

    fn of_places(&self) -> impl Iterator<Item = &Listener> {
        self.0.iter().flat_map(|queue| match queue {
            AcceptQueue::Common(..) => &[],
            AcceptQueue::PerPlace { places, .. } => places.as_slice(),
        })
    }

    fn of_place(&self, index: usize) -> impl Iterator<Item = &Listener> {
        self.0.iter().filter_map(move |queue| match queue {
            AcceptQueue::Common(..) => None,
            AcceptQueue::PerPlace { places, .. } => places.get(index),
        })
    }

    /// Returns the listeners that worker `index` serves, and closes the other ones.
    pub(super) fn into_listeners(self, index: usize) -> Vec<Listener> {
        let own = |queue| match queue {
            AcceptQueue::Common(listener, _) => Some(listener),
            AcceptQueue::PerPlace { places, .. } => places.into_iter().nth(index),
        };
        self.0.into_iter().filter_map(own).collect()
    }

    /// Returns the descriptors of the common queues, each with its distribution.
    pub(super) fn common(&self) -> Vec<(RawFd, Distribution)> {
        let common = self.0.iter().filter_map(|queue| match queue {
            AcceptQueue::Common(listener, distribution) => Some((listener.as_fd().as_raw_fd(), *distribution)),
            AcceptQueue::PerPlace { .. } => None,
        });
        common.collect()
    }

    pub(super) fn close(&mut self) {
        self.0.clear();
    }

    /// Makes the kernel refuse new connections. Waiting connections stay in the queues.
    pub(super) fn refuse_new_connections(&self) {
        for listener in self.listeners() {
            refuse_new_connections(listener);
        }
    }

    /// Whether workers have queues of their own.
    pub(super) fn has_own_queues(&self) -> bool {
        self.0.iter().any(|queue| matches!(queue, AcceptQueue::PerPlace { .. }))
    }

    /// Returns the descriptors for the program that replaces this one, one per address, each with its name.
    pub(super) fn for_upgrade(&self) -> Vec<(RawFd, String)> {
        let first = self.0.iter().filter_map(|queue| match queue {
            AcceptQueue::Common(listener, _) => Some(listener),
            AcceptQueue::PerPlace { places, .. } => places.first(),
        });
        first.map(|listener| (listener.as_fd().as_raw_fd(), inherited::name_of(listener))).collect()
    }

    /// Makes queues for places up to `workers`. They get no connections until [`open`](AcceptQueues::open): a template must load
    /// before it can fork workers for them. With tokio on upstream mio the sockets listen at once. epoll reports a socket that
    /// does not listen as hung up, and tokio would never forget that.
    pub(super) fn grow(&mut self, workers: usize) -> io::Result<()> {
        for queue in &mut self.0 {
            let AcceptQueue::PerPlace { places, is_per_cpu } = queue else { continue };
            let Some(Listener::Tcp(first)) = places.first() else { continue };
            let mut more = Vec::new();
            for place in places.len()..workers {
                let listener = Listener::Tcp(if glue::is_adopted(first) {
                    sys::listen_beside(first)
                } else {
                    sys::bind_beside(first)
                }?);
                if *is_per_cpu {
                    let cpus = sys::allowed_cpus()?;
                    sys::prefer_on_cpu(&listener, cpus[place % cpus.len()])?;
                }
                hold(&listener, ForkPolicy::NoFork)?;
                more.push(listener);
            }
            places.append(&mut more);
        }
        Ok(())
    }

    /// Lets the queues of worker `index` get connections. Call it before the worker is forked.
    pub(super) fn open(&self, index: usize) -> io::Result<()> {
        for queue in &self.0 {
            let AcceptQueue::PerPlace { places, .. } = queue else { continue };
            let [Listener::Tcp(first), others @ ..] = places.as_slice() else { continue };
            if let Some(Listener::Tcp(own)) = index.checked_sub(1).and_then(|other| others.get(other)) {
                sys::start_listening(own, first)?;
            }
        }
        Ok(())
    }

    /// Closes the supervisor's copies of the queues of places from `workers` on. Their workers empty the queues.
    pub(super) fn shrink(&mut self, workers: usize) {
        for queue in &mut self.0 {
            if let AcceptQueue::PerPlace { places, .. } = queue {
                places.truncate(workers);
            }
        }
    }

    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.0.iter().flat_map(|queue| match queue {
            AcceptQueue::Common(listener, _) => std::slice::from_ref(listener),
            AcceptQueue::PerPlace { places, .. } => places,
        })
    }
}

/// Mutes a listener, so that it does not wake this process, and sets its policy.
fn hold(listener: &Listener, policy: ForkPolicy) -> io::Result<()> {
    crate::policy::mute(listener)?;
    // An audit in a worker does not list a listener that has an explicit policy.
    crate::set_policy(listener, policy)
}

/// Makes one listener per place: `listener`, and more at its address.
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
        places.push(Listener::Tcp(sys::listen_beside(first).map_err(|error| bind_error(address, &error))?));
    }
    // The first place gets the given listener, so that a worker accepts the connections that have arrived already.
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

fn bind_error(address: SocketAddr, error: &io::Error) -> io::Error {
    let advice = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "; set SO_REUSEPORT before the first listener is bound (`tokio::net::TcpSocket::set_reuseport`)"
        }
        Some(libc::EMFILE) => "; raise RLIMIT_NOFILE, or have fewer workers",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot open another listener at {address}: {error}{advice}"))
}
