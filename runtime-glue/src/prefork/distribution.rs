//! Who gets the next connection.

/// Who gets the next connection.
///
/// | | what it is | when to use it |
/// |---|---|---|
/// | [`Shared`](Distribution::Shared) | one queue; an arrival wakes one worker, the next one in turn | as a rule |
/// | [`ReusePort`](Distribution::ReusePort) | a queue per worker; the kernel chooses by a hash of the addresses | many short connections: no worker waits for another one |
/// | [`ReusePortPerCpu`](Distribution::ReusePortPerCpu) | a queue per worker, which stays on a CPU and gets what arrives there | network cards that spread their packets over the CPUs |
/// | [`Balanced`](Distribution::Balanced) | one queue; only those workers accept that have no more connections open than the others | long-lived connections: WebSockets, database sessions |
///
/// It holds for workers that accept with an [`Acceptor`](super::Acceptor), which [`Worker::acceptor`](super::Worker::acceptor)
/// makes of a listener. Where a worker accepts from a listener as [`take_listeners`](super::Worker::take_listeners) gives it,
/// `Shared` and `Balanced` tell all workers of each connection, and whoever is first has it: no connection is overlooked, and
/// nothing is even.
///
/// # How even it is
///
/// The most connections that a worker has, divided by the mean: 20 long-lived connections per worker, in five bursts. Median
/// of five runs, and the worst. (The clients are one thread, so that all connections of a burst arrive on one CPU or two.)
///
/// | five bursts | 2 workers | 4 workers | 8 workers | 16 workers | 32 workers |
/// |---|---:|---:|---:|---:|---:|
/// | (one queue, all workers told) | 1.20 (1.30) | 1.75 (2.90) | 3.20 (3.50) | 4.90 (7.40) | 11.05 (15.25) |
/// | `Shared` | 1.70 (2.00) | 2.65 (3.20) | 3.40 (3.80) | 1.35 (3.75) | 1.55 (6.55) |
/// | (`SO_REUSEPORT` by each worker) | 1.05 (1.15) | 1.15 (1.20) | 1.35 (1.45) | 1.50 (1.60) | 1.45 (1.65) |
/// | `ReusePort` | 1.20 (1.30) | 1.25 (1.40) | 1.25 (1.45) | 1.45 (1.50) | 1.40 (1.55) |
/// | `ReusePortPerCpu` | 2.00 (2.00) | 2.25 (2.50) | 2.30 (2.55) | 2.40 (2.80) | 2.60 (2.85) |
/// | `Balanced` | 1.05 (1.05) | 1.15 (1.25) | 1.20 (1.20) | 1.20 (1.20) | 1.20 (1.20) |
///
/// The same number of connections, one at a time:
///
/// | one at a time | 2 workers | 4 workers | 8 workers | 16 workers | 32 workers |
/// |---|---:|---:|---:|---:|---:|
/// | (one queue, all workers told) | 1.20 (1.50) | 1.30 (1.45) | 2.10 (2.25) | 4.40 (5.35) | 3.65 (19.25) |
/// | `Shared` | 1.00 (1.00) | 1.00 (1.15) | 1.00 (1.00) | 1.00 (1.00) | 1.00 (1.00) |
/// | (`SO_REUSEPORT` by each worker) | 1.10 (1.20) | 1.25 (1.30) | 1.25 (1.35) | 1.30 (1.65) | 1.35 (1.70) |
/// | `ReusePort` | 1.10 (1.20) | 1.20 (1.45) | 1.30 (1.40) | 1.35 (1.65) | 1.45 (1.60) |
/// | `ReusePortPerCpu` | 2.00 (2.00) | 2.10 (2.35) | 1.90 (2.30) | 2.30 (2.40) | 2.50 (2.70) |
/// | `Balanced` | 1.10 (1.15) | 1.15 (1.15) | 1.20 (1.25) | 1.20 (1.20) | 1.20 (1.20) |
///
/// `Balanced` promises what it gave. With `T` connections on `n` workers none has more than 5/4 `T/n`, and where that is no
/// whole number more than `T/n`, none has more than `T/n` rounded up. From four connections per worker on that is at most
/// 1.25 of the mean; with fewer, no other way to spread them has a smaller maximum. It is about who gets the next one: where
/// connections end, what is left is as uneven as their ends were, and whoever has too many gets none until the others have
/// caught up.
///
/// # What a worker takes along that hangs and is killed
///
/// Its open connections, in any case; what has not been accepted is in the kernel's queue. Here 20 times one of 4 workers
/// hangs for 50 ms and is killed, while 16 clients connect, are served in 5 ms, and connect again:
///
/// | | served | lost, accepted by the worker | lost in its queue | longest wait to be accepted |
/// |---|---:|---:|---:|---:|
/// | (one queue, all workers told) | 58051 | 49 | 0 | 76 ms |
/// | `Shared` | 59938 | 62 | 0 | 64 ms |
/// | (`SO_REUSEPORT` by each worker) | 56254 | 62 | 236 | 66 ms |
/// | `ReusePort` | 58054 | 70 | 0 | 75 ms |
/// | `ReusePortPerCpu` | 57625 | 37 | 0 | 62 ms |
/// | `Balanced` | 51414 | 60 | 0 | 231 ms |
///
/// - `Shared`: nothing of the queue. A connection that only this worker was told of, and that it did not come to accept, is
///   looked for by the others when the parent has noticed the end.
/// - `ReusePort`, `ReusePortPerCpu`: nothing, but what is in this worker's queue waits for the next one, as does what goes on
///   arriving there: the parent keeps the queue open. The next worker is forked at once as a rule, and after up to five
///   seconds in place of one that ends again and again. With workers that set `SO_REUSEPORT` by themselves, the queue ends
///   with the worker, and its clients' connections are reset.
/// - `Balanced`: nothing of the queue, which the others go on with. Its connections are off the count as soon as the parent
///   has noticed the end. While it hangs, the others leave it its share for half a second to one, and then go on without it.
///
/// When the whole server is told to stop, workers accept what is in their queues ([`Acceptor::close`](super::Acceptor::close)),
/// and what the kernel completes between that and the close is reset, in each of them. With `ReusePort` a queue whose worker
/// has ended and not been replaced yet is reset too.
///
/// # Measure it
///
/// `cargo run --release --example distribution` prints these tables. They are from a virtual machine with 2 processors and
/// other work running, Linux 6.18. The rows in parentheses are what the distributions are to be compared with.
///
/// # Platforms
///
/// Linux. `EPOLLEXCLUSIVE`: [epoll_ctl(2)], since 4.5. `SO_REUSEPORT` and `SO_INCOMING_CPU`: [socket(7)]; the latter is heeded
/// within a group of listeners since 6.2 (kernel commit b261eda84ec1), and without effect before.
///
/// FreeBSD and DragonFly: with `Shared` all workers that sleep are told of each connection. For `ReusePort` the listener has to be
/// bound with `SO_REUSEPORT_LB` (FreeBSD 12), respectively `SO_REUSEPORT`, and not to an IPv6 wildcard that takes IPv4 too.
/// NetBSD, OpenBSD and macOS: as these, without `ReusePort`, which is refused. `ReusePortPerCpu` is Linux's.
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
/// [socket(7)]: https://man7.org/linux/man-pages/man7/socket.7.html
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Distribution {
    /// One queue for all workers. A connection wakes one of those that sleep (`EPOLLEXCLUSIVE`); busy ones find it when they
    /// come back, if it is still there.
    ///
    /// The kernel tells the first on its list, which would be the same one each time in a quiet server. So a worker that has
    /// accepted moves to the end of the list, at most once in a millisecond.
    ///
    /// A worker that stops calling [`accept`](super::Acceptor::accept) for a while has to
    /// [`pause`](super::Acceptor::pause): it may be the only one that is told.
    ///
    /// The default: no connection waits for a worker that is busy while another one is not, and none is lost or delayed by a
    /// worker that dies.
    #[default]
    Shared,
    /// A queue for each worker. The kernel chooses one by a hash of both addresses and ports, whether its worker is busy or
    /// not.
    ///
    /// The parent makes one listening socket per worker at the address of the listener that it was given, which becomes
    /// the first worker's. It keeps all of them open, so that a worker that ends leaves its queue to the next one. The option
    /// `SO_REUSEPORT` need not be set before; it is set here, after the bind, so that a port in use is noticed. From then
    /// on other programs of the same user can bind the port with that option, and would share its connections.
    ///
    /// The sockets have the first one's `SO_REUSEADDR`, `IPV6_V6ONLY`, `SO_BINDTODEVICE`, `TCP_NODELAY`, `SO_KEEPALIVE` and
    /// the length of its queue. Others, a worker can set on its own. For TCP only: a Unix socket has one queue.
    ReusePort,
    /// As [`ReusePort`](Distribution::ReusePort), and steered: a worker stays on one CPU (`sched_setaffinity(2)`), and its
    /// socket is preferred for the connections whose packets arrive there (`SO_INCOMING_CPU`).
    ///
    /// With one worker per CPU, and packets that the network card spreads over the CPUs, a connection's packets and its
    /// worker use the same caches. Over loopback a connection arrives on the CPU of its client.
    ReusePortPerCpu,
    /// One queue for all workers, of which those accept that have no more than their share.
    ///
    /// Workers publish in shared memory how many connections they have open: what their acceptors have accepted, for as long
    /// as the [`Counted`](super::Counted) connection lives. One that has a quarter more than the mean
    /// [mutes](crate::mute) its listener, until another one calls it because it is at the mean or below. Of those at or below
    /// there is always one; should it not accept, because it hangs or was stopped, a connection waits for half a second to
    /// one, and the others go on without it until it is back.
    ///
    /// A worker takes part from its first call of [`accept`](super::Acceptor::accept) on. Each connection is announced to all
    /// workers that accept, and each that is accepted is an entry in memory that all of them read: for connections that live
    /// for milliseconds, [`Shared`](Distribution::Shared) is cheaper.
    Balanced,
}
