//! [`Distribution`]: which worker gets the next connection.

/// Chooses the worker that gets the next connection.
///
/// | | mechanism | when to use it |
/// |---|---|---|
/// | [`Shared`](Distribution::Shared) | one queue; each connection wakes one worker, in turn | by default |
/// | [`ReusePort`](Distribution::ReusePort) | a queue per worker; the kernel chooses by a hash of the addresses | many short connections: no worker waits for another one |
/// | [`ReusePortPerCpu`](Distribution::ReusePortPerCpu) | a queue per worker; each worker stays on one CPU and gets the connections that arrive there | network cards that spread their packets over the CPUs |
/// | [`Balanced`](Distribution::Balanced) | one queue; a worker with a quarter more connections than the mean stops accepting | long-lived connections: WebSockets, database sessions |
///
/// A distribution applies to workers that accept with an [`Incoming`](super::Incoming) or an [`Acceptor`](super::Acceptor).
/// If a worker accepts from a listener of [`take_listeners`](super::Worker::take_listeners) directly, `Shared` and
/// `Balanced` wake all workers for each connection, and the fastest worker accepts it. No connection is overlooked, but the
/// distribution is uneven.
///
/// [`guide::distribution`](crate::guide::distribution) has measurements, and says what happens when a worker ends.
///
/// # Platforms
///
/// Linux. `EPOLLEXCLUSIVE`: [epoll_ctl(2)], since 4.5. `SO_REUSEPORT` and `SO_INCOMING_CPU`: [socket(7)]. Within a
/// group of listeners, `SO_INCOMING_CPU` takes effect since 6.2 (kernel commit b261eda84ec1). Without
/// [the patch](crate#the-patch), each connection to a `Shared` listener wakes all workers that sleep.
///
/// Other systems: with `Shared`, each connection wakes all workers that sleep. `Prefork` refuses `ReusePortPerCpu`, and
/// on NetBSD, OpenBSD and macOS `ReusePort` too. For `ReusePort` the listener must be bound with `SO_REUSEPORT_LB`
/// (FreeBSD 12) or `SO_REUSEPORT` (DragonFly), and not to an IPv6 wildcard that takes IPv4 too.
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
/// [socket(7)]: https://man7.org/linux/man-pages/man7/socket.7.html
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Distribution {
    /// One queue for all workers. A connection wakes one of the sleeping workers (`EPOLLEXCLUSIVE`). Busy workers find the
    /// connection at their next accept, if it still waits.
    ///
    /// The kernel wakes the first worker on its list, which in a quiet server would always be the same one. So a worker that
    /// has accepted moves to the end of the list, at most once in a millisecond.
    ///
    /// A worker that stops calling [`accept`](super::Acceptor::accept) for a while must
    /// [`pause`](super::Acceptor::pause), because the kernel may wake only this worker.
    ///
    /// The default: no connection waits for a busy worker while another one is idle. If a worker dies, no waiting connection
    /// is lost or delayed.
    #[default]
    Shared,
    /// A queue for each worker. The kernel chooses one by a hash of both addresses and ports, even if its worker is busy.
    ///
    /// The supervisor makes one listening socket per worker, at the address of the given listener. The first worker gets
    /// that listener itself. The supervisor keeps all sockets open, so that a worker that ends leaves its queue to its
    /// successor. On Linux, `Prefork` sets the option `SO_REUSEPORT` after the bind, so that binding a port in use fails. From
    /// then on, other programs of the same user can bind the port with that option, and would share its connections.
    ///
    /// The sockets get `SO_REUSEADDR`, `IPV6_V6ONLY`, `SO_BINDTODEVICE`, `TCP_NODELAY`, `SO_KEEPALIVE` and the length of the
    /// queue from the given listener. A worker can set other options itself. For TCP only: a Unix socket has one queue.
    ReusePort,
    /// Like [`ReusePort`](Distribution::ReusePort), but a worker stays on one CPU (`sched_setaffinity(2)`), and the kernel
    /// prefers its socket for the connections whose packets arrive on that CPU (`SO_INCOMING_CPU`).
    ///
    /// With one worker per CPU, and packets that the network card spreads over the CPUs, a connection's packets and its
    /// worker use the same caches. Over loopback a connection arrives on the CPU of its client.
    ReusePortPerCpu,
    /// One queue for all workers. A worker with a quarter more connections than the mean stops accepting.
    ///
    /// Workers publish in shared memory how many connections they have open. An accepted connection counts as long as its
    /// [`Counted`](super::Counted) lives. A worker that has stopped accepting begins again once it is at the mean or
    /// below: the worker that sees this first wakes it. There is always a worker at or below the mean. If that worker does
    /// not accept, because it hangs or is frozen by SIGSTOP, a connection waits for half a second to one second. The
    /// other workers then continue without that worker until it accepts again.
    ///
    /// A worker takes part from its first call of [`accept`](super::Acceptor::accept) on. Each connection wakes all workers
    /// that accept, and each accept writes to memory that all of them read. So for connections that live for milliseconds,
    /// [`Shared`](Distribution::Shared) is cheaper.
    Balanced,
}
