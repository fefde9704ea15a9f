//! The parent's handle to a child.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};

use forkio_reactor::fork::{ForkPolicy, generation};
use forkio_reactor::unix::Process;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use crate::{ForkError, Forked, sys};

/// A child process that [`fork`](crate::fork) made.
///
/// No SIGCHLD is involved, and no signal reaches another process because the number was used again.
///
/// Dropping it does not kill the child. Dropped inside a runtime, it leaves no zombie: that runtime goes on waiting for
/// the child for as long as it runs.
///
/// # Fork
///
/// The handle belongs to the process that forked. In a child forked later, [`wait`](Child::wait) fails at once, also
/// when it was waiting at the fork; dropping it there does nothing.
///
/// # Platforms
///
/// Linux: [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html). Elsewhere: `EVFILT_PROC` of
/// [kqueue(2)](https://man.freebsd.org/cgi/man.cgi?query=kqueue&sektion=2), and the process id, which is the child's until
/// it has been waited for: so nothing else in the process may wait for any child (`waitpid(-1)`).
pub struct Child {
    pid: u32,
    generation: u32,
    state: State,
    /// Of a child that has been waited for.
    status: Option<ExitStatus>,
    /// Nobody has the handle any more: the runtime waits.
    detached: bool,
}

enum State {
    /// Nobody has waited yet.
    Idle(Process),
    Watched(AsyncFd<Process>),
    /// Taken out for a change of state, or by drop.
    Gone,
}

impl Child {
    /// Takes charge of a process that was just forked.
    pub(crate) fn adopt(pid: u32) -> Result<Child, ForkError> {
        match Process::open(pid) {
            Ok(process) => {
                Ok(Child { pid, generation: generation(), state: State::Idle(process), status: None, detached: false })
            }
            Err(error) => {
                sys::destroy_process(pid.cast_signed());
                Err(ForkError::Watch(error))
            }
        }
    }

    /// The process id. Once the child has been waited for, the system may give the number to another process.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits until the child has ended, and reaps it. Cancel safe; after the end it gives the same status again.
    ///
    /// # Errors
    ///
    /// In a process forked from the one that the child belongs to, an error whose source is [`Forked`]; otherwise those
    /// of `waitid(2)`, as when other code in this process reaps all children.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    /// As [`wait`](Child::wait), for hand-written futures.
    ///
    /// # Errors
    ///
    /// As [`wait`](Child::wait).
    pub fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Poll::Ready(Ok(status));
            }
            self.watch()?;
            if let State::Watched(process) = &self.state {
                ready!(process.poll_read_ready(cx))?.clear_ready();
            }
        }
    }

    /// Registers the child with the current runtime, as waiting for it does first of all, unless it is.
    ///
    /// To be called before [`prepare_ahead`](crate::prepare_ahead), which a registration would undo. It lasts until the handle
    /// is dropped. After the child's end there is nothing to do.
    ///
    /// # Errors
    ///
    /// Those of registering: no memory, or the user's limit of watches; in another process than the child's parent, as
    /// [`wait`](Child::wait).
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn watch(&mut self) -> io::Result<()> {
        if self.status.is_some() {
            return Ok(());
        }
        self.process()?;
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(process) => {
                let watched = sys::watch(process).map_err(|(process, error)| {
                    self.state = State::Idle(process);
                    error
                })?;
                // In a child forked later, whoever waits is to be woken.
                crate::set_policy(&watched, ForkPolicy::Sever)?;
                self.state = State::Watched(watched);
            }
            state => self.state = state,
        }
        Ok(())
    }

    /// The exit status if the child has ended, and reaps it.
    ///
    /// # Errors
    ///
    /// As [`wait`](Child::wait).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.process()?.try_wait()?;
        }
        Ok(self.status)
    }

    /// Sends a signal by its number, from 1 on, as `libc::SIGTERM`.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the child has been reaped; [`InvalidInput`](io::ErrorKind::InvalidInput) for another number;
    /// in another process than the child's parent, as [`wait`](Child::wait).
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::send_signal(self.process()?, signal)
    }

    /// Ends the child with SIGKILL. It is still to be waited for.
    ///
    /// # Errors
    ///
    /// As [`signal`](Child::signal).
    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    pub(crate) fn process(&self) -> io::Result<&Process> {
        if self.generation != generation() {
            return Err(io::Error::other(Forked));
        }
        match &self.state {
            State::Idle(process) if self.status.is_none() => Ok(process),
            State::Watched(process) if self.status.is_none() => Ok(process.get_ref()),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The common cases first: it was waited for, or is another process's.
        if self.detached || !matches!(self.try_wait(), Ok(None)) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let state = std::mem::replace(&mut self.state, State::Gone);
            let mut child = Child { state, detached: true, ..*self };
            // A failure leaves a zombie until this process ends, as it would without us.
            runtime.spawn(async move { child.wait().await });
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Child");
        debug.field("pid", &self.pid);
        if let Some(status) = &self.status {
            debug.field("status", status);
        }
        debug.finish_non_exhaustive()
    }
}
