//! The crate on systems without `fork(2)`, such as Windows. A program that uses only this module needs no `cfg`.
//!
//! | item | on these systems |
//! |---|---|
//! | [`ProcessRuntime`] | one runtime, built on first use |
//! | `serve`, `Server` (feature `http`) | one process serves TCP, without the options listed at `Server` |
//! | the functions that fork, `prefork::Prefork`, fork policies | absent |

#[cfg(feature = "http")]
pub mod prefork;
mod process_runtime;
#[cfg(feature = "http")]
mod serve;

pub use process_runtime::{ProcessRuntime, RuntimeError};
#[cfg(feature = "http")]
pub use serve::{Address, AddressError, HttpService, Hyper, Load, NoLoad, ServeError, Server, Serving, Tower, serve};
