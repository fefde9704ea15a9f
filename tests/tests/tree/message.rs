//! The commands of the driver to the processes of the tree, and their answers. Each message is a line of JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) type Fd = i32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Policy {
    Inherit,
    NoFork,
    Sever,
    Renew,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Listener,
    Datagram,
    Stream,
    Pipe,
    Pair,
    Waker,
    Queue,
    Timer,
    Other,
}

/// An interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wanted {
    Readable,
    Writable,
    Both,
}

/// The sources that a process can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Object {
    TcpListener,
    UnixListener,
    /// Connected to the driver.
    TcpStream,
    /// Connected to the driver.
    UnixStream,
    Udp,
    /// Takes two slots.
    StreamPair,
    /// Takes two slots.
    DatagramPair,
    /// Takes two slots. The first one is the sender.
    Pipe,
    /// A bare descriptor.
    Eventfd,
    /// A bare descriptor.
    Timerfd,
    /// The reactor's `unix::Timer`.
    Timer,
}

/// A command to a process. A *slot* holds a source. It has the same index in a process and in its children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    NewSelector {
        selector: usize,
    },
    DropSelector {
        selector: usize,
    },
    Open {
        slot: usize,
        object: Object,
    },
    NewWaker {
        slot: usize,
        selector: usize,
        token: usize,
    },
    /// Duplicates the descriptor of a slot. The duplicate is a bare descriptor.
    Duplicate {
        slot: usize,
        into: usize,
    },
    /// Takes the descriptor out of the source.
    TakeFd {
        slot: usize,
    },
    /// Drops the source, whether or not it is registered.
    Close {
        slot: usize,
    },
    Register {
        selector: usize,
        target: Target,
        token: usize,
        wanted: Wanted,
        policy: Option<Policy>,
    },
    Reregister {
        selector: usize,
        target: Target,
        token: usize,
        wanted: Wanted,
    },
    Deregister {
        selector: usize,
        target: Target,
    },
    SetPolicy {
        fd: Fd,
        policy: Policy,
    },
    SetDefault {
        kind: Kind,
        policy: Policy,
    },
    Mute {
        fd: Fd,
    },
    Unmute {
        fd: Fd,
    },
    Wake {
        slot: usize,
    },
    /// Sets a timer, which is due now or in a year.
    Arm {
        slot: usize,
        due: bool,
    },
    Accept {
        slot: usize,
    },
    Read {
        slot: usize,
        most: usize,
    },
    /// Writes one byte, or adds one to an eventfd.
    Write {
        slot: usize,
        byte: u8,
    },
    Poll {
        selector: usize,
        capacity: usize,
        millis: u64,
    },
    /// Waits until the network has delivered all sent data.
    Settle {
        fd: Fd,
        until: Arrival,
    },
    Report,
    /// Prepares the next fork in advance.
    PrepareAhead,
    Fork {
        child: usize,
        unplanned: bool,
    },
    Exit,
    /// Drops everything and waits for all children.
    Reset,
}

/// The object of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    /// The source in a slot.
    Source(usize),
    /// A bare descriptor, through `SourceFd`.
    Fd(Fd),
}

/// The arrival that [`Command::Settle`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Arrival {
    Readable,
    Bytes(usize),
    End,
}

/// The answer of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The first line of a process: its number, its id, and the descriptor of its connection to the driver.
    Hello {
        child: usize,
        pid: i32,
        control: Fd,
    },
    Done,
    /// The name of the [`std::io::ErrorKind`] that the operation failed with, and the text of the error.
    Failed {
        kind: String,
        text: String,
    },
    Opened {
        fds: Vec<Fd>,
        address: String,
    },
    Events(Vec<Event>),
    Bytes(Vec<u8>),
    Report(Report),
    /// The object that could not be prepared.
    Refused {
        object: String,
        text: String,
    },
    Baseline(Baseline),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) token: usize,
    pub(crate) readiness: Readiness,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) read_closed: bool,
    pub(crate) write_closed: bool,
    pub(crate) error: bool,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.readable, "readable"),
            (self.writable, "writable"),
            (self.read_closed, "read-closed"),
            (self.write_closed, "write-closed"),
            (self.error, "error"),
        ];
        f.write_str(&names.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect::<Vec<_>>().join("|"))
    }
}

/// The view that a process has of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) generation: u32,
    pub(crate) selectors: usize,
    pub(crate) registrations: Vec<Registration>,
    /// The descriptor of each selector, with the descriptors and tokens that its kernel queue has.
    pub(crate) watched: Vec<(Fd, Vec<(Fd, u64)>)>,
    pub(crate) descriptors: Vec<Fd>,
    /// Whether the next fork is prepared. `descriptors` then includes those of the prepared objects.
    pub(crate) ahead: bool,
}

/// An element of `forkio_reactor::fork::registrations`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) selector: Fd,
    pub(crate) fd: Fd,
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) kind: Option<Kind>,
    pub(crate) policy: Policy,
    pub(crate) muted: bool,
}

/// The state of the first process between cases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    pub(crate) descriptors: Vec<Fd>,
    pub(crate) registrations: usize,
    pub(crate) selectors: usize,
    pub(crate) children_failed: Vec<String>,
    pub(crate) blocks: usize,
    pub(crate) bytes: usize,
    pub(crate) resident_kib: usize,
}
