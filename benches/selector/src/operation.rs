//! The operations that are measured.

/// The kind of a registered source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A listening TCP socket, for reading.
    Listener,
    /// A UDP socket, for reading.
    Udp,
    /// A connected TCP socket, for reading and writing.
    Stream,
    /// An eventfd by its descriptor (`SourceFd`), for reading.
    Descriptor,
}

/// The threads that do the operation, all on one selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The only thread of the process. Such a process avoids some atomic operations.
    Alone,
    /// This many threads in addition to the main thread, which waits.
    Several(usize),
}

/// An operation to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Registers a source and deregisters it.
    Register(Source, Threads),
    /// Makes a UDP socket, registers it, and drops it without deregistering it.
    RegisterAndDrop(Threads),
    /// Registers an idle TCP socket again, with the same token and interest.
    Reregister,
    /// Registers an idle TCP socket again: for reading, and for reading and writing, in turn.
    ReregisterChanged,
    /// Polls without waiting; a waker is registered and idle.
    PollNothing,
    /// Makes an eventfd readable, and polls without a time limit.
    PollReady,
    /// Sends a message there and back over TCP, both ends in one selector: two writes, two polls, two reads.
    PingPong,
    /// Sends a message to one of ten thousand registered streams, each time another one: a write, a poll, a read.
    IdleStreams,
    /// Wakes a selector that is not blocked in a poll, and was not woken since its last poll. Only the wake counts.
    WakeAwake,
    /// Wakes the selector, and polls.
    WakePoll,
    /// Wakes a thousand times, then polls.
    WakeStorm,
    /// Four threads wake a thousand times each, then the main thread polls.
    WakeStormThreads,
    /// Four threads wake a selector whose thread polls all the time and never blocks. Only the wakes count.
    WakeBusy,
    /// Four threads wake a selector whose thread blocks in its polls, and wait for an answer of that thread.
    WakeBlocked,
    /// A client connects, is accepted, and both ends are closed. Nothing is registered.
    Accept,
    /// A client connects. The server accepts and registers the connection, notices that the client closes it, and closes it too.
    AcceptChurn,
    /// Makes a selector and drops it.
    NewPoll,
    /// Makes a second handle of a registry, like every tokio runtime, and drops it.
    CloneRegistry,
}

const BESIDE: Threads = Threads::Several(1);
const TWO: Threads = Threads::Several(2);
const FOUR: Threads = Threads::Several(4);

impl Operation {
    /// All operations, in the order of the report.
    pub const ALL: [Operation; 30] = [
        Operation::Register(Source::Listener, Threads::Alone),
        Operation::Register(Source::Listener, BESIDE),
        Operation::Register(Source::Listener, TWO),
        Operation::Register(Source::Listener, FOUR),
        Operation::Register(Source::Udp, Threads::Alone),
        Operation::Register(Source::Udp, BESIDE),
        Operation::Register(Source::Udp, TWO),
        Operation::Register(Source::Udp, FOUR),
        Operation::RegisterAndDrop(Threads::Alone),
        Operation::RegisterAndDrop(BESIDE),
        Operation::RegisterAndDrop(TWO),
        Operation::RegisterAndDrop(FOUR),
        Operation::Register(Source::Stream, Threads::Alone),
        Operation::Register(Source::Descriptor, Threads::Alone),
        Operation::Reregister,
        Operation::ReregisterChanged,
        Operation::PollNothing,
        Operation::PollReady,
        Operation::PingPong,
        Operation::IdleStreams,
        Operation::Accept,
        Operation::AcceptChurn,
        Operation::NewPoll,
        Operation::CloneRegistry,
        Operation::WakeAwake,
        Operation::WakePoll,
        Operation::WakeStorm,
        Operation::WakeStormThreads,
        Operation::WakeBusy,
        Operation::WakeBlocked,
    ];

    /// Returns the name in tables.
    pub fn name(self) -> String {
        let (name, threads) = match self {
            Operation::Register(Source::Listener, threads) => ("register and deregister a `TcpListener`", threads),
            Operation::Register(Source::Udp, threads) => ("register and deregister a `UdpSocket`", threads),
            Operation::Register(Source::Stream, threads) => {
                ("register and deregister a `TcpStream`, read and write", threads)
            }
            Operation::Register(Source::Descriptor, threads) => {
                ("register and deregister an eventfd by `SourceFd`", threads)
            }
            Operation::RegisterAndDrop(threads) => ("make, register and drop a `UdpSocket`", threads),
            Operation::Reregister => ("reregister, same interest", Threads::Alone),
            Operation::ReregisterChanged => ("reregister, changed interest", Threads::Alone),
            Operation::PollNothing => ("poll of nothing", Threads::Alone),
            Operation::PollReady => ("an event, and the blocking poll that returns it", Threads::Alone),
            Operation::PingPong => ("TCP ping-pong over one `Poll`", Threads::Alone),
            Operation::IdleStreams => ("one of 10 000 idle streams gets a message", Threads::Alone),
            Operation::WakeAwake => ("wake of an awake selector", Threads::Alone),
            Operation::WakePoll => ("wake, and the poll that returns it", Threads::Alone),
            Operation::WakeStorm => ("1 000 wakes, then a poll", Threads::Alone),
            Operation::WakeStormThreads => ("4 threads, 1 000 wakes each, then a poll", Threads::Alone),
            Operation::WakeBusy => ("4 threads wake a selector that never blocks", Threads::Alone),
            Operation::WakeBlocked => ("4 threads wake a blocked selector and wait for it", Threads::Alone),
            Operation::Accept => ("connect, accept, close", Threads::Alone),
            Operation::AcceptChurn => ("connect, accept, register, notice the end, close", Threads::Alone),
            Operation::NewPoll => ("`Poll::new` and drop", Threads::Alone),
            Operation::CloneRegistry => ("`Registry::try_clone` and drop", Threads::Alone),
        };
        match threads {
            Threads::Alone => name.to_owned(),
            Threads::Several(1) => format!("{name}: beside an idle thread"),
            Threads::Several(threads) => format!("{name}: {threads} threads"),
        }
    }

    /// Whether the operation needs too many resources to be prepared for all contenders at the same time.
    pub fn is_large(self) -> bool {
        self == Operation::IdleStreams
    }

    /// Whether the user-level instructions of the operation can be counted. The process must have one thread, and
    /// everything that this thread does must be part of the operation.
    pub fn has_countable_instructions(self) -> bool {
        !matches!(
            self,
            Operation::Register(_, Threads::Several(_))
                | Operation::RegisterAndDrop(Threads::Several(_))
                | Operation::WakeAwake
                | Operation::WakeStormThreads
                | Operation::WakeBusy
                | Operation::WakeBlocked
        )
    }

    /// Returns how many times to do the operation for a count of its instructions.
    pub(crate) fn times_to_count(self) -> u64 {
        if self == Operation::WakeStorm { 20 } else { 500 }
    }
}
