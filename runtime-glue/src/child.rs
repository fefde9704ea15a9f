//! The parent's handle to a child.

use std::future::poll_fn;
use std::io;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};

use forkio_reactor::fork::{ForkPolicy, generation};
use forkio_reactor::unix::Process;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use crate::{ForkError, NotInChild, policy, sys};

/// The parent's handle to a child process that [`fork`](crate::fork()) made.
///
/// Dropping the handle does not kill the child. If you drop it inside a runtime, that runtime reaps the child when the child ends.
/// Outside a runtime, the child becomes a zombie when it ends. The handle needs no SIGCHLD, and never signals another process
/// that got the same id.
///
/// # Fork
///
/// The handle belongs to the process that forked. In a child that is forked later, all methods but [`id`](Child::id)
/// fail with an error whose [inner error](io::Error::get_ref) is [`NotInChild`]. So does a [`wait`](Child::wait) that
/// was pending at the fork. If the handle already had the exit status, `wait` and [`try_wait`](Child::try_wait) return
/// it. Dropping the handle in that child does nothing.
///
/// # Platforms
///
/// On Linux the handle is a pidfd. Elsewhere it is an `EVFILT_PROC` event and the process id, so other code of the process must
/// not reap all children (`waitpid(-1)`).
///
/// # Examples
///
/// ```no_run
/// use forkio::Fork;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// if let Fork::Parent(mut child) = forkio::fork().await? {
///     child.kill()?;
///     println!("{} ended: {}", child.id(), child.wait().await?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # References
///
/// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html),
/// [kqueue(2)](https://man.freebsd.org/cgi/man.cgi?query=kqueue&sektion=2)
#[derive(Debug)]
pub struct Child {
    pid: u32,
    generation: u32,
    state: State,
    /// The exit status of a child that was reaped.
    status: Option<ExitStatus>,
    /// Whether the handle was dropped, and a task of the runtime waits for the child.
    detached: bool,
}

#[derive(Debug)]
enum State {
    /// The process is not registered with a runtime yet.
    Idle(Process),
    Watched(AsyncFd<Process>),
    /// The state is being changed, or the handle is being dropped, or the child was reaped before the handle was made.
    Gone,
}

impl Child {
    /// Makes the handle of a process that was just forked.
    pub(crate) fn adopt(pid: u32) -> Result<Child, ForkError> {
        match Process::open(pid) {
            Ok(process) => Ok(Child::new(pid, State::Idle(process))),
            // The child has ended already, and other code has reaped it, or SIGCHLD is ignored.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(Child::new(pid, State::Gone)),
            Err(error) => {
                sys::destroy_process(pid);
                Err(ForkError::Watch(error))
            }
        }
    }

    /// Makes the handle of a child whose id another process has reported. Checks that the id is a child's, because the other
    /// process may have fewer privileges than this one.
    pub(crate) fn claim(pid: u32) -> Result<Child, ForkError> {
        let mut child = Child::adopt(pid)?;
        child.try_wait().map_err(ForkError::Watch)?;
        Ok(child)
    }

    /// Makes the handle of a process that may become a child of this process later. [`wait`](Child::wait) fails before that.
    pub(crate) fn open(pid: u32) -> io::Result<Child> {
        Ok(Child::new(pid, State::Idle(Process::open(pid)?)))
    }

    fn new(pid: u32, state: State) -> Child {
        Child { pid, generation: generation(), state, status: None, detached: false }
    }

    /// Returns the process id. Once the child has been reaped, the system may give this id to another process.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits until the child has ended, and reaps it. Later calls return the same status.
    ///
    /// # Errors
    ///
    /// Those of `waitid(2)` and of registering the child with the runtime. `ESRCH`, for example if other code of this
    /// process reaps all children. In a child that was forked later, [`NotInChild`]: see [`Child`](Child#fork).
    ///
    /// # Panics
    ///
    /// If the child still runs, and the first call is not made inside a runtime with an I/O driver.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next call continues.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        self.poll_until(cx, Child::try_wait)
    }

    /// Polls for the end of the process, which need not be a child of this one. Does not reap it.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_until(cx, |child| Ok(child.process()?.has_ended()?.then_some(())))
    }

    /// Calls `look` now, and again at each event of the process, until it returns a value.
    fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        look: impl Fn(&mut Child) -> io::Result<Option<T>>,
    ) -> Poll<io::Result<T>> {
        loop {
            if let Some(seen) = look(self)? {
                return Poll::Ready(Ok(seen));
            }
            self.watch()?;
            if let State::Watched(process) = &self.state {
                ready!(process.poll_read_ready(cx))?.clear_ready();
            }
        }
    }

    /// Registers the child with the current runtime, if it is not registered yet. [`wait`](Child::wait) does so too. A
    /// supervisor calls this early, because a registration discards a fork prepared in advance.
    pub(crate) fn watch(&mut self) -> io::Result<()> {
        if self.status.is_some() {
            return Ok(());
        }
        self.process()?;
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(process) => {
                let watched = sys::try_watch(process).map_err(|(process, error)| {
                    self.state = State::Idle(process);
                    error
                })?;
                // In a child that is forked later, a pending `wait` must return an error.
                if let Err(error) = policy::set_policy(&watched, ForkPolicy::Sever) {
                    self.state = State::Idle(watched.into_inner());
                    return Err(error);
                }
                self.state = State::Watched(watched);
            }
            state => self.state = state,
        }
        Ok(())
    }

    /// Reaps the child if it has ended. Returns its exit status, or `None` if the child still runs.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Child::wait).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.process()?.try_wait()?;
        }
        Ok(self.status)
    }

    /// Sends a signal to the child, such as `libc::SIGTERM`.
    ///
    /// # Errors
    ///
    /// - `ESRCH` if the child has been reaped.
    /// - `EPERM` if the child runs as another user, whose processes this process cannot signal.
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if there is no signal with this number.
    /// - In a child that was forked later, the same error as [`wait`](Child::wait).
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::send_signal(self.process()?, signal)
    }

    /// Kills the child with SIGKILL. Call [`wait`](Child::wait) afterwards to reap it.
    ///
    /// # Errors
    ///
    /// Those of [`signal`](Child::signal).
    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    pub(crate) fn process(&self) -> io::Result<&Process> {
        if self.generation != generation() {
            return Err(NotInChild.into());
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
        // A child that was reaped, or that belongs to another process, needs nothing.
        if self.detached || !matches!(self.try_wait(), Ok(None)) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let state = std::mem::replace(&mut self.state, State::Gone);
            let mut child = Child { state, detached: true, ..*self };
            // A failure leaves a zombie until this process ends.
            runtime.spawn(async move { child.wait().await });
        }
    }
}
