//! Why a fork was refused.

use std::fmt;
use std::io;

use forkio_reactor::fork::PrepareError;

/// A thread of this process, as the system lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Thread {
    /// The system's id of it: gettid(2), pthread_getthreadid_np(3) or the like.
    pub id: u64,
    /// Its name. Systems keep 15 bytes and more.
    pub name: String,
}

/// Why [`fork`](crate::fork) made no process. Nothing has changed.
#[non_exhaustive]
pub enum ForkError {
    /// The process has other threads, and they did not go while [`fork`](crate::fork) waited. The child would have their
    /// locks and counters, without the threads.
    Threads(Vec<Thread>),
    /// The current runtime is a multi-threaded one. Its threads, as far as they have started, are named.
    MultiThreadRuntime(Vec<Thread>),
    /// tokio was built with its feature `parking_lot`, which is part of `full`. That library keeps threads that wait for
    /// something on lists that run through their stacks, which in a child become those of other threads: it would lose
    /// wakes.
    ParkingLot,
    /// The current runtime does not run on forkio's selector.
    ForeignSelector,
    /// Not called inside a tokio runtime.
    NoRuntime,
    /// [`fork_with_threads`](crate::fork_with_threads) was called inside a tokio runtime: the child would go on in a task
    /// of a runtime whose other threads are not there.
    InsideRuntime,
    /// The current runtime has no I/O driver. (tokio can only be asked by a panic: compiled with `panic = "abort"`, the
    /// process ends instead.)
    NoIoDriver,
    /// What the runtime and the process are like could not be found out.
    Inspect(io::Error),
    /// A [`before_fork`](crate::before_fork()) hook returned an error.
    Hook(io::Error),
    /// Something that the child needs could not be made.
    Prepare(PrepareError),
    /// `fork(2)` failed.
    Fork(io::Error),
    /// A new process could not be watched (`pidfd_open(2)` on Linux, `EVFILT_PROC` elsewhere). That is tried out before the fork, so it is found out there,
    /// unless memory runs out at that moment: then the process was killed as soon as it had been made.
    Watch(io::Error),
}

/// As [`Display`](fmt::Display): this is what a `main` prints that returns the error, and what to do is in there.
impl fmt::Debug for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForkError::Threads(threads) => {
                write!(f, "cannot fork while the process has other threads: ")?;
                list(f, threads)?;
                write!(
                    f,
                    "; end them first (for tokio's blocking pool: a shorter `Builder::thread_keep_alive`, or a longer \
                     `ForkOptions::idle_threads`)"
                )
            }
            ForkError::MultiThreadRuntime(threads) => {
                write!(f, "cannot fork a multi-threaded runtime")?;
                if !threads.is_empty() {
                    write!(f, " (")?;
                    list(f, threads)?;
                    write!(f, ")")?;
                }
                write!(
                    f,
                    "; fork from a current-thread runtime (`Builder::new_current_thread`), or hold the runtime in a \
                     `ProcessRuntime`, which builds one in the child, and fork with `fork_with_threads`"
                )
            }
            ForkError::ParkingLot => write!(
                f,
                "tokio's feature `parking_lot` does not survive a fork of a process with threads: name the features of \
                 tokio that the program needs, without `parking_lot` and `full` (`cargo tree -e features -i parking_lot` \
                 says who asks for it)"
            ),
            ForkError::ForeignSelector => write!(
                f,
                "the current runtime does not run on forkio's selector; add these two lines to the Cargo.toml of your \
                 workspace:\n[patch.crates-io]\nmio = {{ git = \"https://github.com/forkio-rs/forkio\" }}"
            ),
            ForkError::NoRuntime => {
                write!(f, "not inside a tokio runtime; call this from a task, or inside `Runtime::block_on`")
            }
            ForkError::InsideRuntime => write!(
                f,
                "cannot fork a process with threads inside a tokio runtime; fork on a thread that is in none, as main is \
                 outside of `block_on`"
            ),
            ForkError::NoIoDriver => {
                write!(f, "the current runtime has no I/O driver; build it with `Builder::enable_all` or `enable_io`")
            }
            ForkError::Inspect(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                write!(
                    f,
                    "cannot find out whether the process can be forked: {error}; raise RLIMIT_NOFILE, or close some"
                )
            }
            ForkError::Inspect(error) => write!(f, "cannot find out whether the process can be forked: {error}"),
            ForkError::Hook(error) => write!(f, "a hook that runs before a fork refused this one: {error}"),
            ForkError::Prepare(error) => error.fmt(f),
            ForkError::Fork(error) => {
                write!(f, "fork(2) failed: {error}; see RLIMIT_NPROC, and pids.max of the control group")
            }
            ForkError::Watch(error) => {
                write!(
                    f,
                    "cannot watch a new process: {error}; raise RLIMIT_NOFILE, or close some (on Linux it takes \
                     pidfd_open(2), 5.3 or later)"
                )
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, threads: &[Thread]) -> fmt::Result {
    for (index, thread) in threads.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}`{}` ({})", thread.name, thread.id)?;
    }
    Ok(())
}

impl std::error::Error for ForkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ForkError::Inspect(error) | ForkError::Hook(error) | ForkError::Fork(error) | ForkError::Watch(error) => {
                Some(error)
            }
            ForkError::Prepare(error) => Some(error),
            _ => None,
        }
    }
}

/// What a [`NoFork`](crate::NoFork) future resolves to in a child that was forked after the future was made, and the
/// source of the error that [`Child::wait`](crate::Child::wait) gives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forked;

impl fmt::Display for Forked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this belongs to the process that this one was forked from")
    }
}

impl std::error::Error for Forked {}
