//! What sort of object stands behind a registration.

/// What sort of object stands behind a registration: decides its default fork policy.
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
    /// One end of a pipe that came from elsewhere, as a child process's standard output.
    Pipe = 4,
    /// One end of a `UnixStream::pair`, `UnixDatagram::pair` or `unix::pipe` made in this process.
    Pair = 5,
    /// A [`Waker`](crate::Waker).
    Waker = 6,
    /// A watch on a process: a pidfd.
    Process = 7,
    /// A kernel queue registered in another one.
    Queue = 8,
    /// An inotify or fanotify descriptor.
    Watch = 9,
    /// A kernel timer: a timerfd.
    Timer = 10,
    /// Signals of the process: a signalfd.
    Signal = 11,
    /// Anything else: an eventfd of the application's own, a terminal, a device.
    Other = 12,
}

impl SourceKind {
    /// Every kind, in the order of their discriminants, which count from one.
    pub(crate) const ALL: [SourceKind; 12] = [
        SourceKind::Listener,
        SourceKind::Datagram,
        SourceKind::Stream,
        SourceKind::Pipe,
        SourceKind::Pair,
        SourceKind::Waker,
        SourceKind::Process,
        SourceKind::Queue,
        SourceKind::Watch,
        SourceKind::Timer,
        SourceKind::Signal,
        SourceKind::Other,
    ];

    pub(crate) fn from_bits(bits: u8) -> Option<SourceKind> {
        Self::ALL.get(usize::from(bits).checked_sub(1)?).copied()
    }
}

/// What the registration table keeps of a source: see `fork::table::About`, of which these are the bits, ready to be put in,
/// because that is done for each registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceTag(u16);

impl SourceTag {
    /// Where the kind is.
    pub(crate) const KIND: u32 = 6;

    /// A bare descriptor number: a fork finds out what it is when it needs to know.
    pub(crate) const BARE: SourceTag = SourceTag(1 << 13);

    pub(crate) const fn of(kind: SourceKind) -> SourceTag {
        SourceTag((kind as u16) << SourceTag::KIND)
    }

    pub(crate) const fn bits(self) -> u16 {
        self.0
    }
}
