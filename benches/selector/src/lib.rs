//! The operations of a selector, for each contender.
//!
//! All contenders link into one process, so that one run can alternate between them: forkio with its registration table
//! (feature `cponfork`), forkio without it, upstream mio, and the bare system calls. An operation is written once, over the
//! trait `Library`, and compiled once for each contender.

use std::io;
use std::time::Duration;

mod clock;
pub mod instructions;
mod library;
#[macro_use]
mod mio_like;
mod operation;
mod operations;
pub mod rounds;
mod sockets;
mod system_calls;
mod team;

pub use operation::{Operation, Source, Threads};
pub use sockets::raise_file_limit;

mio_like!(Forkio, forkio_reactor);
mio_like!(WithoutCponfork, forkio_without_cponfork);
mio_like!(Mio, mio);

/// Runs an operation the given number of times; returns the processor time of its measured part.
///
/// If several threads do the operation, each does it that many times. The result is then the mean of their times.
/// [`Operation::WakeStormThreads`] differs: all its threads do one operation together. In every case, the time of one
/// operation is the result divided by the argument.
pub type Batch = Box<dyn FnMut(u64) -> io::Result<Duration>>;

/// One library that can do the operations.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// The name in tables.
    pub name: &'static str,
    /// Makes the objects that the operation needs: sockets, a selector, registrations.
    pub prepare: fn(Operation) -> io::Result<Batch>,
}

/// forkio with its registration table.
pub const FORKIO: Contender = Contender { name: "forkio", prepare: operations::prepare::<Forkio> };

/// forkio without `cponfork`.
pub const WITHOUT_CPONFORK: Contender =
    Contender { name: "forkio without `cponfork`", prepare: operations::prepare::<WithoutCponfork> };

/// Upstream mio.
pub const MIO: Contender = Contender { name: "mio", prepare: operations::prepare::<Mio> };

/// Upstream mio a second time: its ratio to the first is the noise of a run.
pub const MIO_AGAIN: Contender = Contender { name: "mio again", ..MIO };

/// The system calls alone.
pub const LIBC: Contender = Contender { name: "libc", prepare: operations::prepare::<system_calls::SystemCalls> };
