/// The kind of a registered object, which decides its default fork policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum SourceKind {
    /// A listening socket, TCP or Unix.
    Listener = 1,
    /// A datagram socket.
    Datagram = 2,
    /// A connected (or connecting) stream socket, TCP or Unix.
    Stream = 3,
    /// One end of a pipe that other code made, such as a child process's standard output.
    Pipe = 4,
    /// One end of a `UnixStream::pair`, `UnixDatagram::pair` or `unix::pipe` made in this process. If tokio runs on upstream mio,
    /// also an end of any stream socket pair or pipe that is registered with tokio, and has both ends in this process.
    Pair = 5,
    /// A [`Waker`](crate::Waker).
    Waker = 6,
    /// A watch on a process: a `unix::Process`, or a pidfd.
    Process = 7,
    /// A kernel queue registered in another one.
    Queue = 8,
    /// An inotify or fanotify descriptor. Linux only.
    Watch = 9,
    /// A kernel timer: a `unix::Timer`, or a timerfd.
    Timer = 10,
    /// Signals of the process: a `unix::Signals`, or a signalfd.
    Signal = 11,
    /// Anything else: an eventfd of the application's own, a terminal, a device.
    Other = 12,
}

impl SourceKind {
    /// Every kind, in the order of their discriminants, which count from one.
    pub(crate) const ALL: [SourceKind; 12] = {
        use SourceKind::{Datagram, Listener, Other, Pair, Pipe, Process, Queue, Signal, Stream, Timer, Waker, Watch};
        [Listener, Datagram, Stream, Pipe, Pair, Waker, Process, Queue, Watch, Timer, Signal, Other]
    };

    pub(crate) fn is_socket(self) -> bool {
        matches!(self, SourceKind::Listener | SourceKind::Stream | SourceKind::Datagram)
    }

    pub(crate) fn from_bits(bits: u8) -> Option<SourceKind> {
        Self::ALL.get(usize::from(bits).checked_sub(1)?).copied()
    }
}
