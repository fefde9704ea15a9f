//! All uses of `forkio_reactor::fork` by the programs, in one place, because this API may change.

use std::io;
use std::os::fd::AsRawFd;

use fork_protocol::{self as protocol, Cost, SharedPage, now, spent};
use forkio_reactor::fork;

/// The registrations that a child gets for the registered streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// All registrations.
    Inherited,
    /// No registrations.
    NoFork,
    /// Registrations of dead endpoints.
    Severed,
}

/// Sets the policy of all streams. The next fork follows it, even for streams that are registered already.
pub fn set_policy(streams: Streams) {
    let policy = match streams {
        Streams::Inherited => fork::ForkPolicy::Inherit,
        Streams::NoFork => fork::ForkPolicy::NoFork,
        Streams::Severed => fork::ForkPolicy::Sever,
    };
    fork::set_default_policy(fork::SourceKind::Stream, policy);
}

/// A prepared fork. [`measure`] calls fork(2) itself, to time each step.
#[derive(Debug)]
struct Planned(fork::Prepared);

impl Planned {
    fn prepare() -> io::Result<Planned> {
        fork::prepare().map(Planned).map_err(io::Error::other)
    }

    /// Gives the child its own queues.
    ///
    /// # Safety
    ///
    /// This process must be a child of the process that called [`prepare`](Planned::prepare), with signals blocked. It must not
    /// have used a descriptor yet.
    unsafe fn commit(self) {
        // SAFETY: the caller promises the same.
        unsafe { self.0.commit() };
    }

    /// Drops the prepared objects. Call it in the parent.
    fn abort(self) {
        self.0.abort();
    }
}

/// Makes forks handle the epoll instance of upstream mio that `source` is registered with.
///
/// # Errors
///
/// Those of `fork::glue::adopt`, which handles only instances that look like those of tokio.
pub fn adopt(source: &impl AsRawFd) -> io::Result<()> {
    fork::glue::adopt(source).map_err(io::Error::other)
}

fn block_signals() -> fork::SignalsBlocked {
    fork::block_signals()
}

/// Prepares the next planned fork in advance.
pub fn prepare_ahead() -> io::Result<()> {
    fork::prepare_ahead().map_err(io::Error::other)
}

/// Makes a planned fork, all steps at once; returns 0 in the child.
///
/// # Errors
///
/// Those of preparing and of fork(2).
///
/// # Safety
///
/// The process must have one thread.
pub unsafe fn planned_fork() -> io::Result<i32> {
    // SAFETY: the process has one thread, as the caller promises.
    match unsafe { fork::fork() }.map_err(io::Error::other)? {
        fork::ForkResult::Child => Ok(0),
        fork::ForkResult::Parent { child } => Ok(child.cast_signed()),
    }
}

/// The index of the child's start time in the shared page.
pub const FIRST_INSTRUCTION: usize = 0;
/// The indices of the child's other figures.
const COMMIT: usize = 1;
const FAULTS: usize = 2;
/// The index at which the parent notes that it has cleaned up.
const IS_CLEAN: usize = 3;

/// Makes a planned fork, and measures each step. The child calls `works` to check that its queue reports the right events.
///
/// # Errors
///
/// If preparing or forking fails, or if the queue of the child does not work.
pub fn measure<P>(
    program: &mut P,
    page: fn(&P) -> &SharedPage,
    works: fn(&mut P) -> io::Result<bool>,
) -> io::Result<Cost> {
    let _blocked = block_signals();
    page(program).set(IS_CLEAN, 0);
    let begin = spent();
    let planned = Planned::prepare()?;
    let prepare = spent() - begin;
    let start = now();
    // SAFETY: this process has one thread.
    let child = unsafe { protocol::fork() }?;
    if child == 0 {
        let first_instruction = now();
        protocol::end_in_time();
        let faults = protocol::faults();
        let begin = spent();
        // SAFETY: this is the child, it has used no descriptor, and signals are blocked.
        unsafe { planned.commit() };
        let commit = spent() - begin;
        page(program).set(FAULTS, protocol::faults() - faults);
        page(program).set(COMMIT, commit);
        page(program).set(FIRST_INSTRUCTION, first_instruction);
        let works = works(program).unwrap_or(false);
        // The child outlives the parent's cleanup, like a worker. Otherwise the parent would hold the last reference to
        // the child's queue, and pay for closing it.
        while page(program).get(IS_CLEAN) == 0 {
            std::thread::yield_now();
        }
        protocol::exit(works);
    }
    let begin = spent();
    planned.abort();
    let clean_up = spent() - begin;
    let page = page(program);
    page.set(IS_CLEAN, 1);
    protocol::wait(child)?;
    Ok(Cost {
        prepare: Some(prepare),
        fork: Some(page.get(FIRST_INSTRUCTION) - start),
        commit: Some(page.get(COMMIT)),
        clean_up: Some(clean_up),
        faults: Some(page.get(FAULTS)),
        ..Cost::default()
    })
}
