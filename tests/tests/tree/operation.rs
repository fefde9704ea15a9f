//! Random operations. An operation chooses its process, selector and source when it is carried out, among those that
//! exist then. So every part of a sequence is valid too, and proptest can shorten a sequence.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde::{Deserialize, Serialize};

use crate::message::{Kind, Object, Policy, Wanted};
use crate::process::KINDS;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    /// Chooses a running process.
    pub(crate) process: u8,
    pub(crate) act: Act,
}

/// An act of a process. `selector` and `source` choose a selector and a source for which the act can succeed. If `any`
/// is true, they may also choose those for which the act must fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    NewSelector,
    DropSelector {
        selector: u8,
    },
    Open {
        object: Object,
    },
    NewWaker {
        selector: u8,
    },
    Duplicate {
        source: u8,
        of_pair: bool,
    },
    TakeFd {
        source: u8,
    },
    Close {
        source: u8,
    },
    Register {
        selector: u8,
        source: u8,
        any: bool,
        by_fd: bool,
        wanted: Wanted,
        policy: Option<Policy>,
    },
    Reregister {
        selector: u8,
        source: u8,
        any: bool,
        by_fd: bool,
        wanted: Wanted,
    },
    Deregister {
        selector: u8,
        source: u8,
        any: bool,
        by_fd: bool,
    },
    SetPolicy {
        source: u8,
        any: bool,
        policy: Policy,
    },
    /// Sets the policy of an end of a pair to *renew*.
    RenewPair {
        source: u8,
    },
    SetDefault {
        kind: Kind,
        policy: Policy,
    },
    Mute {
        source: u8,
        any: bool,
    },
    Unmute {
        source: u8,
    },
    Wake {
        source: u8,
    },
    Arm {
        source: u8,
        due: bool,
    },
    Accept {
        source: u8,
    },
    Read {
        source: u8,
        most: u8,
    },
    Write {
        source: u8,
    },
    /// The driver writes to the source, or connects to it.
    Send {
        source: u8,
    },
    /// The driver shuts its end of the connection.
    Shut {
        source: u8,
    },
    Poll {
        selector: u8,
        capacity: u8,
    },
    Report,
    PrepareAhead,
    /// If the model cannot predict the result of an unplanned fork, the driver makes a planned fork instead.
    Fork {
        unplanned: bool,
    },
    Exit,
}

impl Act {
    /// Whether the act may change what a child gets, which discards a preparation. `false` for a fork, which the driver
    /// handles itself.
    pub(crate) fn may_change_plans(&self) -> bool {
        !matches!(
            self,
            Act::Wake { .. }
                | Act::Arm { .. }
                | Act::Accept { .. }
                | Act::Read { .. }
                | Act::Write { .. }
                | Act::Send { .. }
                | Act::Shut { .. }
                | Act::Poll { .. }
                | Act::Report
                | Act::PrepareAhead
                | Act::Fork { .. }
        )
    }
}

/// Generates sequences of operations. Each has only a few kinds of objects, so that each object takes part in more
/// operations.
pub(crate) fn sequences() -> impl Strategy<Value = Vec<Operation>> {
    subsequence(&OBJECTS[..], 1..=4).prop_flat_map(|objects| {
        vec((any::<u8>(), acts(objects)).prop_map(|(process, act)| Operation { process, act }), 1..100)
    })
}

fn acts(objects: Vec<Object>) -> impl Strategy<Value = Act> {
    let at = any::<u8>;
    let rarely = || prop::bool::weighted(0.2);
    prop_oneof![
        1 => Just(Act::NewSelector),
        1 => at().prop_map(|selector| Act::DropSelector { selector }),
        8 => select(objects).prop_map(|object| Act::Open { object }),
        2 => at().prop_map(|selector| Act::NewWaker { selector }),
        3 => (at(), any::<bool>()).prop_map(|(source, of_pair)| Act::Duplicate { source, of_pair }),
        2 => at().prop_map(|source| Act::TakeFd { source }),
        4 => at().prop_map(|source| Act::Close { source }),
        16 => (at(), at(), rarely(), rarely(), wanted(), prop::option::weighted(0.3, policies())).prop_map(
            |(selector, source, any, by_fd, wanted, policy)| {
                Act::Register { selector, source, any, by_fd, wanted, policy }
            }
        ),
        4 => (at(), at(), rarely(), rarely(), wanted()).prop_map(|(selector, source, any, by_fd, wanted)| {
            Act::Reregister { selector, source, any, by_fd, wanted }
        }),
        3 => (at(), at(), rarely(), rarely()).prop_map(|(selector, source, any, by_fd)| {
            Act::Deregister { selector, source, any, by_fd }
        }),
        4 => (at(), rarely(), policies()).prop_map(|(source, any, policy)| Act::SetPolicy { source, any, policy }),
        6 => at().prop_map(|source| Act::RenewPair { source }),
        1 => (select(&KINDS[..]), policies()).prop_map(|(kind, policy)| Act::SetDefault { kind, policy }),
        3 => (at(), rarely()).prop_map(|(source, any)| Act::Mute { source, any }),
        2 => at().prop_map(|source| Act::Unmute { source }),
        4 => at().prop_map(|source| Act::Wake { source }),
        2 => (at(), any::<bool>()).prop_map(|(source, due)| Act::Arm { source, due }),
        2 => at().prop_map(|source| Act::Accept { source }),
        6 => (at(), 1..4_u8).prop_map(|(source, most)| Act::Read { source, most }),
        6 => at().prop_map(|source| Act::Write { source }),
        8 => at().prop_map(|source| Act::Send { source }),
        1 => at().prop_map(|source| Act::Shut { source }),
        10 => (at(), prop_oneof![3 => Just(64), 1 => 1..4_u8]).prop_map(|(selector, capacity)| {
            Act::Poll { selector, capacity }
        }),
        2 => Just(Act::Report),
        10 => Just(Act::PrepareAhead),
        8 => any::<bool>().prop_map(|unplanned| Act::Fork { unplanned }),
        2 => Just(Act::Exit),
    ]
}

const OBJECTS: [Object; 11] = [
    Object::TcpListener,
    Object::UnixListener,
    Object::TcpStream,
    Object::UnixStream,
    Object::Udp,
    Object::StreamPair,
    Object::DatagramPair,
    Object::Pipe,
    Object::Eventfd,
    Object::Timerfd,
    Object::Timer,
];

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![3 => Just(Wanted::Readable), 1 => Just(Wanted::Writable), 1 => Just(Wanted::Both)]
}

/// Generates policies. *Renew* is rare, because few kinds of sources can follow it, and a refused fork tests little.
fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        4 => Just(Policy::Inherit),
        4 => Just(Policy::NoFork),
        4 => Just(Policy::Sever),
        1 => Just(Policy::Renew),
    ]
}
