//! Checks which traits the types have, and which they lack.

use std::fmt::Debug;
use std::fs::File;
use std::hash::Hash;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

use static_assertions::{assert_impl_all, assert_not_impl_any, assert_obj_safe};

use crate::mio::event::{Event, Iter, Source};
use crate::mio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use crate::mio::unix::SourceFd;
use crate::mio::unix::pipe::{Receiver, Sender};
use crate::mio::{Events, Interest, Poll, Registry, Token, Waker};

macro_rules! auto_traits {
    ($($name:ty),+ $(,)?) => {
        $(assert_impl_all!($name: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, Debug);)+
    };
}

auto_traits!(
    Event,
    Events,
    Interest,
    Iter<'static>,
    Poll,
    Receiver,
    Registry,
    Sender,
    SourceFd<'static>,
    TcpListener,
    TcpStream,
    Token,
    UdpSocket,
    UnixDatagram,
    UnixListener,
    UnixStream,
    Waker,
);

macro_rules! descriptor_owners {
    ($($name:ty),+ $(,)?) => {
        $(assert_impl_all!($name: Source, AsFd, AsRawFd, FromRawFd, IntoRawFd, From<OwnedFd>);)+
        $(assert_impl_all!(OwnedFd: From<$name>);)+
        $(assert_not_impl_any!($name: Clone);)+
    };
}

descriptor_owners!(Receiver, Sender, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream,);

assert_impl_all!(std::net::TcpListener: From<TcpListener>);
assert_impl_all!(std::net::TcpStream: From<TcpStream>);
assert_impl_all!(std::net::UdpSocket: From<UdpSocket>);
assert_impl_all!(std::os::unix::net::UnixDatagram: From<UnixDatagram>);
assert_impl_all!(std::os::unix::net::UnixListener: From<UnixListener>);
assert_impl_all!(std::os::unix::net::UnixStream: From<UnixStream>);

assert_impl_all!(TcpStream: Read, Write);
assert_impl_all!(&'static TcpStream: Read, Write);
assert_impl_all!(UnixStream: Read, Write);
assert_impl_all!(&'static UnixStream: Read, Write);
assert_impl_all!(Receiver: Read, From<ChildStdout>, From<ChildStderr>);
assert_impl_all!(&'static Receiver: Read);
assert_not_impl_any!(Receiver: Write, From<File>);
assert_impl_all!(Sender: Write, From<ChildStdin>);
assert_impl_all!(&'static Sender: Write);
assert_not_impl_any!(Sender: Read, From<File>);
assert_impl_all!(SourceFd<'static>: Source);

assert_impl_all!(Poll: AsRawFd);
assert_not_impl_any!(Poll: Clone, AsFd);
assert_impl_all!(Registry: AsFd, AsRawFd);
assert_not_impl_any!(Registry: Clone);
assert_not_impl_any!(Waker: Clone, Source);

assert_impl_all!(Event: Clone);
assert_not_impl_any!(Event: Copy, PartialEq);
assert_not_impl_any!(Events: Clone);
assert_impl_all!(&'static Events: IntoIterator<Item = &'static Event, IntoIter = Iter<'static>>);
assert_impl_all!(Iter<'static>: Clone, Iterator<Item = &'static Event>);
assert_impl_all!(Interest: Copy, Clone, Eq, Ord);
assert_not_impl_any!(Interest: Hash, Default);
assert_impl_all!(Token: Copy, Clone, Eq, Ord, Hash);
assert_not_impl_any!(Token: Default, From<usize>);
assert_impl_all!(usize: From<Token>);

assert_obj_safe!(Source);
assert_impl_all!(Box<dyn Source>: Source);
assert_impl_all!(Box<TcpStream>: Source);
