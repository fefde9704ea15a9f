//! The errors of sources that are registered twice, nowhere or elsewhere. Kinds and texts are mio's.

use std::io::{Error, ErrorKind};

/// Of `register`: the source is registered, with this selector or another one.
#[cold]
pub(crate) fn already_registered() -> Error {
    Error::new(ErrorKind::AlreadyExists, "I/O source already registered with a `Registry`")
}

/// Of `reregister`: another selector has the source.
#[cold]
pub(crate) fn registered_elsewhere() -> Error {
    Error::new(ErrorKind::AlreadyExists, "I/O source already registered with a different `Registry`")
}

/// Of `reregister` and `deregister`: this selector does not have the source.
#[cold]
pub(crate) fn not_registered() -> Error {
    Error::new(ErrorKind::NotFound, "I/O source not registered with `Registry`")
}
