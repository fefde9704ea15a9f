//! The upgrade: another program takes over the listeners.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};

use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::{Child, ForkPolicy, sys};

/// The environment variable that names the descriptor on which the new program says that it is ready.
const UPGRADE: &str = "FORKIO_UPGRADE";

/// The second word of the variable, if a service manager has given the listeners to the first program, and keeps them.
const KEPT: &str = "kept";

/// The message of a new program that is ready.
const READY: &[u8] = b"ready\n";

/// The program and arguments of this process, read at its start: the system may not know the path once the file is replaced.
#[derive(Debug)]
pub(super) struct Program {
    path: io::Result<PathBuf>,
    arguments: Vec<OsString>,
}

impl Program {
    pub(super) fn of_this_process() -> Program {
        Program { path: std::env::current_exe(), arguments: std::env::args_os().skip(1).collect() }
    }

    /// Starts the program again, with listeners from descriptor 3 on. It then has until `deadline` to say that it is ready.
    pub(super) fn start(&self, listeners: &[RawFd], are_kept: bool, deadline: Option<Instant>) -> io::Result<Upgrade> {
        let path = self.path.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let (own_end, program_end) = StdUnixStream::pair()?;
        let pid = sys::spawn_with_descriptors(
            path,
            &self.arguments,
            listeners,
            program_end.as_raw_fd(),
            (UPGRADE, if are_kept { KEPT } else { "" }),
        )
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        drop(program_end);
        let mut child = Child::adopt(pid).map_err(io::Error::other)?;
        own_end.set_nonblocking(true)?;
        let channel = UnixStream::from_std(own_end)?;
        crate::set_policy(&channel, ForkPolicy::NoFork)?;
        child.watch()?;
        Ok(Upgrade { child, channel, deadline })
    }
}

/// A new program that is not ready yet.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) child: Child,
    channel: UnixStream,
    pub(super) deadline: Option<Instant>,
}

/// The result of starting the new program.
#[derive(Debug)]
pub(super) enum Progress {
    Ready,
    Ended(ExitStatus),
}

impl Upgrade {
    /// Whether the new program has said that it is ready, even if the runtime does not know it yet.
    pub(super) fn is_ready(&self) -> bool {
        rustix::io::read(&self.channel, &mut [0; READY.len()]).is_ok_and(|length| length > 0)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        loop {
            match self.channel.try_read(&mut [0; READY.len()]) {
                // The program has closed the channel and may still run: wait for its end or the deadline.
                Ok(0) => break,
                Ok(_) => return Poll::Ready(Progress::Ready),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.channel.poll_read_ready(cx).is_pending() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        let status = ready!(self.child.poll_wait(cx));
        // A program that has ended has not taken over, even if it was ready.
        Poll::Ready(Progress::Ended(status.unwrap_or_else(|_| super::supervisor::unknown_status())))
    }
}

/// Whether a service manager has given this program its listeners, and keeps them open itself.
pub(super) fn is_socket_activated() -> bool {
    let is_own = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let is_named = is_own && std::env::var("LISTEN_FDS").is_ok_and(|count| count != "0");
    is_named || super::inherited::has_inherited()
}

/// The program that this one replaces.
#[derive(Debug)]
pub(super) struct Predecessor {
    /// Where to say that this program is ready.
    channel: StdUnixStream,
    /// Whether a service manager keeps the listeners open.
    pub(super) listeners_are_kept: bool,
}

impl Predecessor {
    /// Returns the program that this one replaces, or `None` if there is none.
    pub(super) fn from_env() -> Option<Predecessor> {
        let value = std::env::var(UPGRADE).ok()?;
        let (number, rest) = value.split_once(' ').unwrap_or((&value, ""));
        let channel = sys::take_socket(number.parse().ok()?, UPGRADE)?;
        Some(Predecessor { channel, listeners_are_kept: rest == KEPT })
    }

    /// Tells the other program that this one is ready, so that it retires.
    pub(super) fn ready(self) {
        if let Err(error) = (&self.channel).write_all(READY) {
            tracing::warn!(%error, "cannot tell the old program that this one is ready");
        }
    }
}
