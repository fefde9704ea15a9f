//! How a prefork server ends.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::options::MAX_WORKERS;
use crate::ForkError;

/// The result of a server that was told to stop, or that an upgrade has replaced.
#[derive(Clone, Debug)]
pub struct Stopped {
    workers: Vec<ExitStatus>,
}

impl Stopped {
    pub(super) fn new(workers: Vec<ExitStatus>) -> Stopped {
        Stopped { workers }
    }

    /// Returns the exit statuses of the workers that ran when the server was told to stop, or was replaced. A worker that other
    /// code in this process has reaped counts as 255.
    ///
    /// If this process has stayed as process 1 after an upgrade, the only status is that of the last program.
    pub fn workers(&self) -> &[ExitStatus] {
        &self.workers
    }

    /// Returns the status that the process should exit with: 0 if every worker exited with 0, otherwise the first other
    /// status, encoded as a shell does. A worker that was killed counts as 128 plus the signal's number: 137 if it outlived
    /// the shutdown timeout.
    pub fn exit_code(&self) -> u8 {
        self.workers.iter().map(shell_status).find(|code| *code != 0).unwrap_or(0)
    }
}

fn shell_status(status: &ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    // An exit code has eight bits, and so has 128 plus a signal's number.
    (code & 0xff) as u8
}

/// Why a prefork server ended, or did not start.
#[non_exhaustive]
pub enum PreforkError {
    /// The number of workers is zero.
    NoWorkers,
    /// The number of workers is greater than 1024.
    TooManyWorkers(usize),
    /// The signal handlers could not be installed.
    Signals(io::Error),
    /// forkio does not find the registration of a listener, or the supervisor cannot mute the listener.
    Listener(io::Error),
    /// A listener cannot share its address with other sockets, which
    /// [`Distribution::ReusePort`](super::Distribution::ReusePort) requires.
    ReusePort(io::Error),
    /// The memory that the supervisor and its workers share could not be made.
    Share(io::Error),
    /// The user or group of the workers cannot be looked up, or the supervisor could not signal workers of that user.
    Privileges(io::Error),
    /// The status page, or the control socket, cannot be served at an address.
    Status(String, io::Error),
    /// The pid file could not be written, or belongs to another server that runs.
    PidFile(PathBuf, io::Error),
    /// In an upgrade, this program could not tell the old one that it is ready. The old one continues.
    Upgrade(io::Error),
    /// One of the first workers or their template could not be forked, or no worker runs and none could be forked.
    Fork(ForkError),
    /// The application could not be loaded. The text is the error of `load`, or says how the template ended.
    Load(String),
    /// Workers kept ending before they were ready, or one of the first workers could not change its privileges.
    #[non_exhaustive]
    CrashLoop {
        /// The worker's index.
        worker: usize,
        /// How many times in a row the worker ended.
        ends: u32,
        /// The worker's last exit status.
        status: ExitStatus,
    },
    /// A worker asked to stop the server: [`halt`](super::WorkerHandle::halt).
    #[non_exhaustive]
    Halted {
        /// The worker's index.
        worker: usize,
    },
}

impl PreforkError {
    /// Returns the exit status for the process. After a crash loop it is the last status of the worker, encoded as a
    /// shell does, or 1 if the worker exited with 0. It is 2 if the server cannot listen for its status page or control
    /// socket, and otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            PreforkError::CrashLoop { status, .. } => shell_status(status).max(1),
            PreforkError::Status(..) => 2,
            _ => 1,
        }
    }
}

debug_like_display!(PreforkError);

impl fmt::Display for PreforkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PreforkError::NoWorkers => f.write_str("a prefork server needs at least one worker"),
            PreforkError::TooManyWorkers(workers) => {
                write!(f, "a prefork server cannot have {workers} workers; choose at most {MAX_WORKERS}")
            }
            PreforkError::Signals(error) => write!(f, "cannot install signal handlers: {error}"),
            PreforkError::Listener(error) => write!(f, "cannot mute a listener in the supervisor: {error}"),
            PreforkError::ReusePort(error) => write!(f, "cannot make a queue for each worker: {error}"),
            PreforkError::Share(error) => {
                write!(f, "cannot make the memory that the supervisor and its workers share: {error}")
            }
            PreforkError::Privileges(error) => write!(f, "cannot use the user or group of the workers: {error}"),
            PreforkError::Status(address, error) => {
                write!(f, "cannot serve the status page or the control socket at {address}: {error}")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        f.write_str("; stop the program that listens there, or choose another address")
                    }
                    _ => Ok(()),
                }
            }
            PreforkError::PidFile(path, error) => write!(f, "cannot write the pid file {}: {error}", path.display()),
            PreforkError::Upgrade(error) => write!(f, "cannot tell the old program that this one is ready: {error}"),
            PreforkError::Fork(ForkError::MultiThreadRuntime(_)) => f.write_str(
                "cannot fork workers from a multi-threaded runtime; run the supervisor in a current-thread runtime \
                 (`#[tokio::main(flavor = \"current_thread\")]`), and build runtimes with threads in the workers \
                 (`Prefork::run_on`)",
            ),
            PreforkError::Fork(error) => write!(f, "cannot fork a worker: {error}"),
            PreforkError::Load(error) => write!(f, "cannot load the application: {error}"),
            PreforkError::CrashLoop { worker, ends: 1, status } => {
                write!(f, "worker {worker} ended before it was ready, with {status}")
            }
            PreforkError::CrashLoop { worker, ends, status } => {
                write!(f, "worker {worker} ended {ends} times in a row before it was ready, last with {status}")
            }
            PreforkError::Halted { worker } => write!(f, "worker {worker} asked to stop the server"),
        }
    }
}

impl std::error::Error for PreforkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PreforkError::Signals(error)
            | PreforkError::Listener(error)
            | PreforkError::ReusePort(error)
            | PreforkError::Share(error)
            | PreforkError::Privileges(error)
            | PreforkError::Status(_, error)
            | PreforkError::PidFile(_, error)
            | PreforkError::Upgrade(error) => Some(error),
            PreforkError::Fork(error) => Some(error),
            _ => None,
        }
    }
}
