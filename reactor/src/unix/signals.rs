use std::io;

use crate::io_source::{IoSource, SourceKind, source};
use crate::{fork, sys};

/// Signals of this process as a source: [readable](crate::event::Event::is_readable) when one has arrived.
///
/// The signals wait in the kernel until [`receive`](Signals::receive) takes them, one by one. A signal below `SIGRTMIN` that is
/// sent twice before it is received arrives once.
///
/// # Blocking
///
/// Only blocked signals wait; others take effect as usual. [`new`](Signals::new) blocks its signals in the calling thread, and
/// so in threads and programs that this thread starts afterwards. So call `new` before you make other threads, or block the
/// signals in those threads (`pthread_sigmask(3)`). The signals stay blocked when the value is dropped: otherwise a signal that
/// is still pending could end the process.
///
/// # Fork
///
/// The registration is inherited, and each process receives the signals that are sent to *it*. Signals that were pending at
/// the fork stay with the parent ([fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)). A signal to the process
/// group reaches both processes.
///
/// # Platforms
///
/// Linux: [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html). kqueue systems: `EVFILT_SIGNAL`.
///
/// # Examples
///
/// ```
/// use forkio_reactor::unix::Signals;
/// use forkio_reactor::{Events, Interest, Poll, Token};
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// let mut signals = Signals::new([libc::SIGUSR1, libc::SIGTERM])?;
/// poll.registry().register(&mut signals, Token(0), Interest::READABLE)?;
///
/// # // SAFETY: the signal is blocked.
/// # unsafe { libc::raise(libc::SIGUSR1) };
/// poll.poll(&mut events, None)?;
/// let received = signals.receive()?;
/// assert_eq!(received.signal(), libc::SIGUSR1);
/// assert_eq!(received.sender(), Some(std::process::id()));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Signals {
    inner: IoSource<sys::SignalQueue>,
}

impl Signals {
    /// Blocks `signals`, such as `libc::SIGTERM`, in the calling thread, and makes a source that receives them.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a number that is no signal, and for `SIGKILL` and `SIGSTOP`;
    /// otherwise those of `signalfd(2)` or `kqueue(2)`: no descriptor left. After an error, `new` has blocked nothing.
    pub fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<Signals> {
        let queue = fork::while_no_fork("receiving signals", || sys::SignalQueue::new(signals))?;
        Ok(Signals { inner: IoSource::new(queue, SourceKind::Signal) })
    }

    /// Takes a signal that has arrived for this process or the calling thread.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no signal; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if a
    /// fork has severed the source.
    pub fn receive(&self) -> io::Result<SignalInfo> {
        fork::settle();
        self.inner.take()
    }
}

source! {
    /// A descriptor for waiting by other means: a kqueue with the signals, or a signalfd, whose set must not be changed,
    /// because processes share it.
    Signals
}

/// A signal that was received.
///
/// # Platforms
///
/// OpenBSD and Apple systems report only the number of the signal: the sender and the user are `None`, and the other fields
/// are 0. NetBSD does not report the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    pub(crate) signal: i32,
    pub(crate) code: i32,
    pub(crate) sender: Option<u32>,
    pub(crate) user: Option<u32>,
    pub(crate) value: i32,
}

impl SignalInfo {
    /// Returns the number of the signal, such as `libc::SIGTERM`.
    pub fn signal(&self) -> i32 {
        self.signal
    }

    /// Returns the process that sent the signal; for `SIGCHLD`, the child. `None` if the kernel sent the signal, or does not
    /// say which process did.
    pub fn sender(&self) -> Option<u32> {
        self.sender
    }

    /// Returns the real user id of the [`sender`](SignalInfo::sender); `None` if there is no sender.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// Returns the reason why the signal was sent: `si_code` in
    /// [sigaction(2)](https://man7.org/linux/man-pages/man2/sigaction.2.html).
    pub fn code(&self) -> i32 {
        self.code
    }

    /// Returns the value that `sigqueue(3)` sent with the signal; otherwise 0.
    pub fn value(&self) -> i32 {
        self.value
    }
}
