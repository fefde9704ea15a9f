//! The kind of a registered object.

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

/// The part of a table entry that describes the source, as bits (`fork::entry::EntryInfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceTag(u16);

impl SourceTag {
    /// The lowest bit of the kind.
    pub(crate) const KIND: u32 = 6;

    /// A bare descriptor: a fork determines its kind.
    pub(crate) const BARE: SourceTag = SourceTag(1 << 13);

    /// Not in a table entry: the process state has a record of the descriptor.
    const HAS_RECORD: u16 = 1 << 15;

    pub(crate) const fn of(kind: SourceKind) -> SourceTag {
        SourceTag((kind as u16) << SourceTag::KIND)
    }

    pub(crate) const fn bits(self) -> u16 {
        self.0 & !SourceTag::HAS_RECORD
    }

    pub(crate) const fn with_record(self) -> SourceTag {
        SourceTag(self.0 | SourceTag::HAS_RECORD)
    }

    pub(crate) const fn has_record(self) -> bool {
        self.0 & SourceTag::HAS_RECORD != 0
    }
}
