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

/// The queues for one listener of the application.
#[derive(Debug)]
struct AcceptQueue {
    /// The listener that all workers accept from, or one listener per place (worker index). A queue outlives its worker:
    /// connections that arrive while the place has no worker wait for the next worker.
    listeners: Vec<Listener>,
    distribution: Distribution,
}

impl AcceptQueue {
    fn has_places(&self) -> bool {
        has_places(self.distribution)
    }
}

/// Whether each worker has a queue of its own.
fn has_places(distribution: Distribution) -> bool {
    match distribution {
        Distribution::Shared | Distribution::Balanced => false,
        Distribution::ReusePort | Distribution::ReusePortPerCpu => true,
    }
}

impl AcceptQueues {
    pub(super) fn new(listeners: Vec<(Listener, Distribution)>, workers: usize) -> Result<AcceptQueues, PreforkError> {
        let mut queues = Vec::new();
        for (listener, distribution) in listeners {
            // Hold the listener first: this fails if no selector of forkio has registered it.
            hold(&listener, ForkPolicy::Inherit).map_err(PreforkError::Listener)?;
            let listeners = if has_places(distribution) {
                let is_per_cpu = distribution == Distribution::ReusePortPerCpu;
                one_per_place(listener, workers, is_per_cpu).map_err(PreforkError::ReusePort)?
            } else {
                vec![listener]
            };
            queues.push(AcceptQueue { listeners, distribution });
        }
        Ok(AcceptQueues(queues))
    }

    /// Lets the next child, worker `index`, inherit its own queues, armed.
    pub(super) fn hand_to(&self, index: usize) -> io::Result<()> {
        self.of_place(index).try_for_each(|listener| crate::set_policy(listener, ForkPolicy::Inherit))
    }

    /// Undoes [`hand_to`](AcceptQueues::hand_to). The process that forked the worker calls it after the fork.
    pub(super) fn take_back(&self, index: usize) {
        take_back(self.of_place(index));
    }

    /// Lets the next child, a template, inherit all queues. The template mutes them with [`hold`](AcceptQueues::hold).
    pub(super) fn hand_to_template(&self) -> io::Result<()> {
        self.of_places().try_for_each(|listener| crate::set_policy(listener, ForkPolicy::Inherit))
    }

    /// Undoes [`hand_to_template`](AcceptQueues::hand_to_template). The supervisor calls it after the fork.
    pub(super) fn take_back_from_template(&self) {
        take_back(self.of_places());
    }

    /// Mutes all queues in a template, which inherits them armed. Sets the queues that belong to one worker to no-fork,
    /// so that the template's next children do not inherit them.
    pub(super) fn hold(&self) -> io::Result<()> {
        self.0.iter().flat_map(|queue| &queue.listeners).try_for_each(crate::policy::mute)?;
        self.of_places().try_for_each(|listener| crate::set_policy(listener, ForkPolicy::NoFork))
    }

    fn with_places(&self) -> impl Iterator<Item = &AcceptQueue> {
        self.0.iter().filter(|queue| queue.has_places())
    }

    fn of_places(&self) -> impl Iterator<Item = &Listener> {
        self.with_places().flat_map(|queue| &queue.listeners)
    }

    fn of_place(&self, index: usize) -> impl Iterator<Item = &Listener> {
        self.with_places().filter_map(move |queue| queue.listeners.get(index))
    }

    /// Returns the listeners that worker `index` serves, and closes the other ones.
    pub(super) fn into_listeners(self, index: usize) -> Vec<Listener> {
        let own = |queue: AcceptQueue| {
            let position = if queue.has_places() { index } else { 0 };
            queue.listeners.into_iter().nth(position)
        };
        self.0.into_iter().filter_map(own).collect()
    }

    /// Returns the descriptors of the queues that all workers share, each with its distribution.
    pub(super) fn common(&self) -> Vec<(RawFd, Distribution)> {
        let common = self.0.iter().filter(|queue| !queue.has_places());
        let with_distribution = |queue: &AcceptQueue| {
            let listener = queue.listeners.first()?;
            Some((listener.as_fd().as_raw_fd(), queue.distribution))
        };
        common.filter_map(with_distribution).collect()
    }

    pub(super) fn close(&mut self) {
        self.0.clear();
    }

    /// Makes the kernel refuse new connections. Waiting connections stay in the queues.
    pub(super) fn refuse_new_connections(&self) {
        self.0.iter().flat_map(|queue| &queue.listeners).for_each(refuse_new_connections);
    }

    pub(super) fn has_own_queues(&self) -> bool {
        self.with_places().next().is_some()
    }

    /// Returns the descriptors for the program that replaces this one, one per address, each with its name.
    pub(super) fn for_upgrade(&self) -> Vec<(RawFd, String)> {
        let first = self.0.iter().filter_map(|queue| queue.listeners.first());
        first.map(|listener| (listener.as_fd().as_raw_fd(), inherited::name_of(listener))).collect()
    }

    /// Makes the missing queues of the places below `workers`. They get no connections until
    /// [`open`](AcceptQueues::open): a template must load before it can fork workers for them. With tokio on upstream
    /// mio the sockets listen at once, because epoll reports a socket that does not listen as hung up, and tokio would
    /// never forget that.
    pub(super) fn grow(&mut self, workers: usize) -> io::Result<()> {
        for queue in self.0.iter_mut().filter(|queue| queue.has_places()) {
            let Some(Listener::Tcp(first)) = queue.listeners.first() else { continue };
            let mut more = Vec::new();
            for place in queue.listeners.len()..workers {
                let bind = if glue::is_adopted(first) { sys::listen_beside } else { sys::bind_beside };
                let listener = Listener::Tcp(bind(first)?);
                if queue.distribution == Distribution::ReusePortPerCpu {
                    let cpus = sys::allowed_cpus()?;
                    sys::prefer_on_cpu(&listener, cpus[place % cpus.len()])?;
                }
                hold(&listener, ForkPolicy::NoFork)?;
                more.push(listener);
            }
            queue.listeners.append(&mut more);
        }
        Ok(())
    }

    /// Lets the queues of worker `index` get connections. Call it before the worker is forked.
    pub(super) fn open(&self, index: usize) -> io::Result<()> {
        for queue in self.with_places() {
            let [Listener::Tcp(first), others @ ..] = queue.listeners.as_slice() else { continue };
            if let Some(Listener::Tcp(own)) = index.checked_sub(1).and_then(|other| others.get(other)) {
                sys::start_listening(own, first)?;
            }
        }
        Ok(())
    }

    /// Closes the supervisor's listeners of the places from `workers` on. The workers of these places empty the queues.
    pub(super) fn shrink(&mut self, workers: usize) {
        for queue in self.0.iter_mut().filter(|queue| queue.has_places()) {
            queue.listeners.truncate(workers);
        }
    }
}

/// Sets the listeners to no-fork again, so that later children do not get them.
fn take_back<'a>(listeners: impl Iterator<Item = &'a Listener>) {
    for listener in listeners {
        // This fails only for listeners that are not registered.
        let _ = crate::set_policy(listener, ForkPolicy::NoFork);
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
            "a Unix socket has one queue: give it the distribution `Shared` or `Balanced` (`Prefork::listener_with`)",
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
        Some(libc::EADDRINUSE) => "; bind the first listener as the user of this process, with `Inherited::bind_tcp`",
        Some(libc::EMFILE) => "; raise RLIMIT_NOFILE, or have fewer workers",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot open another listener at {address}: {error}{advice}"))
}
