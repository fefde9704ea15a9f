//! What the driver says to the processes of the tree, and what they answer: one line of JSON each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A descriptor number.
pub type Fd = i32;

/// What becomes of a registration in the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Policy {
    Inherit,
    NoFork,
    Sever,
    Renew,
}

/// What stands behind a registration, as far as the tree has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
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

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Wanted {
    Readable,
    Writable,
    Both,
}

/// What a process can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Object {
    TcpListener,
    UnixListener,
    /// Connected to the driver.
    TcpStream,
    /// Connected to the driver.
    UnixStream,
    Udp,
    /// Two slots.
    StreamPair,
    /// Two slots.
    DatagramPair,
    /// Two slots: the sender first.
    Pipe,
    /// By number.
    Eventfd,
    /// By number.
    Timerfd,
    /// The reactor's own.
    Timer,
}

/// One step of one process. A *slot* holds a source, at the same index in a process and in the child it forks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Command {
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
    /// A duplicate of a slot's descriptor, as a bare number.
    Duplicate {
        slot: usize,
        into: usize,
    },
    /// The source becomes a bare number.
    GiveAway {
        slot: usize,
    },
    /// Drops the source, registered or not.
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
    /// Sets a timer that is due at once, or in a year.
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
    /// One byte; an eventfd counts one up.
    Write {
        slot: usize,
        byte: u8,
    },
    Poll {
        selector: usize,
        capacity: usize,
        millis: u64,
    },
    /// Waits until the kernel has brought what was sent over the loopback network.
    Settle {
        fd: Fd,
        until: Arrival,
    },
    Look,
    /// For the next fork.
    PrepareAhead,
    Fork {
        child: usize,
        foreign: bool,
    },
    Exit,
    /// Drops everything and waits for all children.
    Rest,
}

/// What a registration is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The source in a slot, by itself.
    Source(usize),
    /// A number, through `SourceFd`.
    Number(Fd),
}

/// What to wait for in [`Command::Settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Arrival {
    Readable,
    Bytes(usize),
    End,
}

/// What a process answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Reply {
    /// The first line of a process: its id, and the number of its connection to the driver.
    Hello {
        child: usize,
        pid: i32,
        control: Fd,
    },
    Done,
    /// What [`std::io::ErrorKind`] the operation failed with, and the whole text.
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
    Seen(Look),
    /// What could not be prepared.
    Refused {
        object: String,
        text: String,
    },
    AtRest(Rest),
}

/// An event of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Event {
    pub token: usize,
    pub readiness: Readiness,
}

/// What an event says beside its token.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    pub read_closed: bool,
    pub write_closed: bool,
    pub error: bool,
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

/// What a process sees of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Look {
    pub generation: u32,
    pub selectors: usize,
    pub registrations: Vec<Registration>,
    /// What the kernel watches, by the selector's descriptor.
    pub watched: Vec<(Fd, Vec<(Fd, u64)>)>,
    pub descriptors: Vec<Fd>,
    /// Whether something is prepared for the next fork, which has descriptors of its own.
    pub ahead: bool,
}

/// A line of `forkio_reactor::fork::registrations`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Registration {
    pub selector: Fd,
    pub fd: Fd,
    pub token: usize,
    pub readable: bool,
    pub writable: bool,
    pub kind: Option<Kind>,
    pub policy: Policy,
    pub muted: bool,
}

/// What is left of a case in the process that began it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rest {
    pub descriptors: Vec<Fd>,
    pub registrations: usize,
    pub selectors: usize,
    pub children_failed: Vec<String>,
    pub blocks: usize,
    pub bytes: usize,
    pub resident_kib: usize,
}
