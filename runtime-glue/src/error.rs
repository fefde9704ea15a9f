//! Errors of forks, and of values that belong to the parent.

use std::fmt;
use std::io;

use forkio_reactor::fork::{PrepareError, glue};

/// A thread of a process that could not be forked; see [`ForkError::Threads`] and [`ForkError::MultiThreadRuntime`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Thread {
    /// The system's id of the thread: from gettid(2), pthread_getthreadid_np(3) or a similar call.
    pub id: u64,
    /// The name of the thread. Systems keep at least its first 15 bytes.
    pub name: String,
}

/// Why a fork failed. No child exists, and the parent continues as before.
#[non_exhaustive]
pub enum ForkError {
    /// The process has other threads, and they did not end while [`fork`](crate::fork()) waited. The child would inherit
    /// their locks and counters, but not the threads.
    Threads(Vec<Thread>),
    /// The current runtime is multi-threaded. The list has the other threads of the process.
    MultiThreadRuntime(Vec<Thread>),
    /// tokio was built with its feature `parking_lot`, which is part of `full`. `parking_lot` keeps lists of waiting threads in
    /// their stacks, and this error says why the child cannot keep these stacks. Only Linux under glibc on x86_64 is supported.
    ParkingLot(io::Error),
    /// The current runtime does not use forkio's selector, which it must on every system but Linux. The message has the lines
    /// to add to Cargo.toml.
    ForeignSelector,
    /// The caller is not inside a tokio runtime.
    NoRuntime,
    /// [`fork_with_threads`](crate::fork_with_threads()) was called inside a tokio runtime. The child would continue a
    /// task of a runtime that has lost its threads.
    InsideRuntime,
    /// The current runtime belongs to a [`ProcessRuntime`](crate::ProcessRuntime), which children do not continue.
    InsideProcessRuntime,
    /// The current runtime has no I/O driver. (tokio panics then, and forkio catches the panic. In a program that is compiled
    /// with `panic = "abort"`, the process ends instead.)
    NoIoDriver,
    /// The state of the runtime or the process could not be read.
    Inspect(io::Error),
    /// A [`before_fork`](crate::before_fork()) hook returned an error, or panicked.
    Hook(io::Error),
    /// An object that the child needs could not be made.
    Prepare(PrepareError),
    /// `fork(2)` failed.
    Fork(io::Error),
    /// The template of a prefork server could not fork a worker. The text is the error of the template.
    Template(String),
    /// The parent cannot watch the child (`pidfd_open(2)` on Linux, `EVFILT_PROC` elsewhere). If watching failed only
    /// after the fork, the parent has killed the child.
    Watch(io::Error),
}

debug_like_display!(ForkError);

impl fmt::Display for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForkError::Threads(threads) => {
                write!(f, "cannot fork while the process has other threads: ")?;
                list(f, threads)?;
                if threads.iter().any(is_main) {
                    return f.write_str(
                        "; the main thread is one of them: fork on the main thread while it is the only one, or use \
                         `fork_with_threads`",
                    );
                }
                write!(
                    f,
                    "; start them in the child instead, such as in a worker, or end them first (for tokio's blocking pool: a \
                     shorter `Builder::thread_keep_alive`, or a longer `ForkOptions::wait_for_threads`)"
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
                    "; fork from a current-thread runtime (`#[tokio::main(flavor = \"current_thread\")]` or \
                     `Builder::new_current_thread`), or hold the runtime in a `ProcessRuntime`, which builds one in the \
                     child, and fork with `fork_with_threads`"
                )
            }
            ForkError::ParkingLot(error) => write!(
                f,
                "cannot keep the stacks of the parent's threads in a child, which tokio's feature `parking_lot` needs: {error}; \
                 name the features of tokio that the program needs, without `parking_lot` and `full` (`cargo tree -e features \
                 -i parking_lot` lists the packages that enable it)"
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
                "cannot use `fork_with_threads` inside a tokio runtime; call it on a thread outside of the runtime, \
                 such as in `main`, outside of `block_on`"
            ),
            ForkError::InsideProcessRuntime => write!(
                f,
                "cannot fork in a task of a `ProcessRuntime`, because children do not continue its tasks; fork outside of it with \
                 `fork_with_threads`, or fork in a current-thread runtime that is not in a `ProcessRuntime`"
            ),
            ForkError::NoIoDriver => {
                write!(f, "the current runtime has no I/O driver; build it with `Builder::enable_all` or `enable_io`")
            }
            ForkError::Inspect(error) => {
                write!(f, "cannot find out whether the process can be forked: {error}{}", Limit(error))
            }
            ForkError::Hook(error) => write!(f, "a `before_fork` hook refused the fork: {error}"),
            ForkError::Prepare(error) => error.fmt(f),
            ForkError::Fork(error) => {
                write!(f, "fork(2) failed: {error}; see RLIMIT_NPROC and, on Linux, pids.max of the control group")
            }
            ForkError::Template(error) => f.write_str(error),
            ForkError::Watch(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                write!(f, "cannot watch a new process: {error}; on Linux this needs pidfd_open(2), since 5.3")
            }
            ForkError::Watch(error) => write!(f, "cannot watch a new process: {error}{}", Limit(error)),
        }
    }
}

/// Shows the limit that an error has reached, if it has reached one.
struct Limit<'a>(&'a io::Error);

impl fmt::Display for Limit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        glue::limit_behind(self.0).map_or(Ok(()), |limit| write!(f, "; {limit}"))
    }
}

/// Whether this is the thread that `main` runs on. Linux gives it the id of the process.
fn is_main(thread: &Thread) -> bool {
    cfg!(target_os = "linux") && thread.id == u64::from(std::process::id())
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
            ForkError::ParkingLot(error)
            | ForkError::Inspect(error)
            | ForkError::Hook(error)
            | ForkError::Fork(error)
            | ForkError::Watch(error) => Some(error),
            ForkError::Prepare(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ForkError> for io::Error {
    fn from(error: ForkError) -> io::Error {
        io::Error::other(error)
    }
}

/// The error of a value that belongs to the parent, in a child that was forked later.
///
/// A [`ParentOnly`](crate::ParentOnly) future resolves to it, and a [`ParentOwned`](crate::ParentOwned) value returns it. The
/// errors of a [`Child`](crate::Child) handle contain it: see [`io::Error::get_ref`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NotInChild;

impl fmt::Display for NotInChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not available in this process: it belongs to the parent")
    }
}

impl std::error::Error for NotInChild {}

impl From<NotInChild> for io::Error {
    fn from(error: NotInChild) -> io::Error {
        io::Error::other(error)
    }
}
