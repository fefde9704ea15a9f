//! The selector of forkio.

#[cfg(feature = "net")]
pub use forkio_reactor::net;
#[cfg(feature = "os-ext")]
pub use forkio_reactor::unix;
pub use forkio_reactor::{Events, Interest, Poll, Registry, Token, Waker, event, features, guide};

#[cfg(feature = "cponfork")]
pub use forkio_reactor::fork;
