//! The object behind a descriptor.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::net::{SocketAddrAny, SocketAddrUnix, getpeername, getsockname};

use crate::audit::SharedObject;

/// A descriptor as an audit shows it.
pub(crate) struct Descriptor {
    pub(crate) object: SharedObject,
    pub(crate) name: String,
}

/// Returns the addresses of a socket, such as "127.0.0.1:80 to 127.0.0.1:54321" or "/run/socket", or `None` if it has no address.
pub(crate) fn addresses(fd: RawFd) -> Option<String> {
    // SAFETY: the descriptor was open a moment ago. If another thread closes it meanwhile, the calls below fail or see another
    // socket, which is harmless.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    let own = getsockname(socket).ok().and_then(address);
    let peer = getpeername(socket).ok().flatten().and_then(address);
    match (own, peer) {
        (Some(own), Some(peer)) => Some(format!("{own} to {peer}")),
        (Some(name), None) | (None, Some(name)) => Some(name),
        (None, None) => None,
    }
}

fn address(address: SocketAddrAny) -> Option<String> {
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(address.to_string());
    }
    let address = SocketAddrUnix::try_from(address).ok()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = address.abstract_name().filter(|name| !name.is_empty()) {
        return Some(format!("@{}", String::from_utf8_lossy(name)));
    }
    Some(address.path()?.to_string_lossy().into_owned())
}
