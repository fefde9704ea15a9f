//! Errors for sources. Those of registrations have mio's kinds and texts.

use std::io::{Error, ErrorKind};

/// Returns the error of a read if a fork has severed the source: its descriptor refers to a dead endpoint.
pub(crate) fn severed() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "the source belongs to the process that this one was forked from")
}

/// Returns the error of `register` if the source is registered, with this selector or another one.
#[cold]
pub(crate) fn already_registered() -> Error {
    Error::new(ErrorKind::AlreadyExists, "I/O source already registered with a `Registry`")
}

/// Returns the error of `reregister` if the source is registered with another selector.
#[cold]
pub(crate) fn registered_elsewhere() -> Error {
    Error::new(ErrorKind::AlreadyExists, "I/O source already registered with a different `Registry`")
}

/// Returns the error of `reregister` if the source is not registered, and of `deregister` if it is not registered with this
/// selector.
#[cold]
pub(crate) fn not_registered() -> Error {
    Error::new(ErrorKind::NotFound, "I/O source not registered with `Registry`")
}
