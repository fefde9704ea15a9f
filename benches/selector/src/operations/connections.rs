//! Connections that are accepted.

use std::io::{self, Read};

use super::repeat;
use crate::library::{Interest, Library, Register};
use crate::{Batch, sockets};

/// Connects, accepts and closes. The contenders differ only in whether and how they convert the address.
pub(super) fn accept<L: Library>() -> io::Result<Batch> {
    let listener = sockets::listener()?;
    let address = listener.local_addr()?;
    let listener = L::tcp_listener(listener);
    repeat(move || {
        let client = sockets::client(address)?;
        let stream = L::accept(&listener)?;
        drop(client);
        drop(stream);
        Ok(())
    })
}

pub(super) fn churn<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let listener = sockets::listener()?;
    let address = listener.local_addr()?;
    let mut listener = L::tcp_listener(listener);
    L::registry(&poll).add(&mut listener, 0, Interest::Read)?;
    repeat(move || {
        let client = sockets::client(address)?;
        L::poll(&mut poll, &mut events, None)?;
        let mut stream = L::accept(&listener)?;
        // A server accepts until no connection is left.
        expect(L::accept(&listener), io::ErrorKind::WouldBlock)?;
        L::registry(&poll).add(&mut stream, 1, Interest::ReadWrite)?;
        drop(client);
        L::poll(&mut poll, &mut events, None)?;
        expect(stream.read(&mut [0]), io::ErrorKind::ConnectionReset)?;
        L::registry(&poll).remove(&mut stream)
    })
}

fn expect<T>(result: io::Result<T>, kind: io::ErrorKind) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other(format!("the call succeeded instead of failing with {kind:?}"))),
    }
}
