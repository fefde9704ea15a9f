//! The errors for a source that is registered already, with another selector, or not at all. Kinds and texts are mio's.

use std::io::{Error, ErrorKind};

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

/// Returns the error of `reregister` and `deregister` if the source is not registered with this selector.
#[cold]
pub(crate) fn not_registered() -> Error {
    Error::new(ErrorKind::NotFound, "I/O source not registered with `Registry`")
}
