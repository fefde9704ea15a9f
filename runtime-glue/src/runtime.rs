//! What must be true of the current runtime before it can be forked.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "atfork")]
use std::sync::TryLockError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forkio_reactor::Token;
use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkPolicy, Registration, SourceKind};
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle, Id, RuntimeFlavor};
use tokio::sync::Notify;

use crate::{ForkError, sys};

/// The token under which tokio's driver registers its duplicate of the signal pipe's receiving end
/// (`tokio/src/runtime/io/driver.rs`, `TOKEN_SIGNAL`).
const SIGNAL_TOKEN: Token = Token(1);

/// How often the process is looked at again while its other threads are to go.
const THREADS_PERIOD: Duration = Duration::from_millis(5);

/// Checks flavour and selector of the current runtime.
pub(crate) fn check() -> Result<(), ForkError> {
    let handle = Handle::try_current().map_err(|_| ForkError::NoRuntime)?;
    if handle.runtime_flavor() != RuntimeFlavor::CurrentThread {
        return Err(ForkError::MultiThreadRuntime(sys::other_threads().map_err(ForkError::Inspect)?));
    }
    check_selector(handle.id())
}

/// Registers something with the runtime and sees whether our selector has it.
fn check_selector(id: Id) -> Result<(), ForkError> {
    thread_local! {
        static CHECKED: Cell<Option<Id>> = const { Cell::new(None) };
    }
    if CHECKED.get() == Some(id) {
        return Ok(());
    }
    if reactor::selectors() == 0 {
        return Err(ForkError::ForeignSelector);
    }
    probe()?;
    CHECKED.set(Some(id));
    Ok(())
}

/// Checks that tokio's locks survive a fork of a process with threads.
pub(crate) fn check_locks() -> Result<(), ForkError> {
    // There is no way to ask but to look: with `parking_lot`, and only then, tokio's mutexes have a marker.
    let uses_parking_lot = format!("{:?}", Notify::new()).contains("PhantomData");
    if uses_parking_lot { Err(ForkError::ParkingLot) } else { Ok(()) }
}

/// Something that is registered with the current runtime, on our selector.
fn probe() -> Result<AsyncFd<OwnedFd>, ForkError> {
    // Never readable.
    let probe = OwnedFd::from(UnixDatagram::unbound().map_err(ForkError::Inspect)?);
    // tokio has no way to ask for the I/O driver but to use it, and panics if there is none.
    let registered = catch_unwind(AssertUnwindSafe(|| sys::watch(probe)));
    let registered = registered.map_err(|_| ForkError::NoIoDriver)?.map_err(|(_, error)| ForkError::Inspect(error))?;
    if reactor::policy(&registered).is_none() {
        return Err(ForkError::ForeignSelector);
    }
    Ok(registered)
}

/// The current runtime is this process's alone: children do without its selector, and get a signal pipe of their own.
pub(crate) fn keep_from_children() -> Result<(), ForkError> {
    reactor::retire_in_children(&probe()?).map_err(ForkError::Inspect)?;
    tag_signal_receivers().map_err(ForkError::Inspect)?;
    Ok(())
}

/// Sees to it that tokio's signal pipe is this process's, here and in children, and empty: a signal that the parent had
/// received, but not been told of, when it forked this process is not to be delivered here.
pub(crate) fn settle_signals() -> Result<(), ForkError> {
    // tokio makes the pipe with the first runtime, under a lock that a child must not find taken.
    let held = reactor::hold_off();
    let runtime = Builder::new_current_thread().enable_io().build().map_err(ForkError::Inspect)?;
    let probe = {
        let _context = runtime.enter();
        probe()?
    };
    let receivers = tag_signal_receivers().map_err(ForkError::Inspect)?;
    let registrations = reactor::registrations();
    let own = registrations.iter().find(|registration| registration.fd == probe.as_raw_fd());
    // Another runtime's may be gone at any time.
    let is_own = |entry: &&Registration| own.is_some_and(|own| own.selector == entry.selector);
    let mut candidates = registrations.iter().filter(is_own).map(|registration| registration.fd);
    let receiver = candidates.find(|fd| receivers.contains(fd)).ok_or(ForkError::ForeignSelector)?;
    reactor::renew_pair_in_children(&receiver).map_err(ForkError::Inspect)?;
    drop(held);
    // tokio has a flag for each signal beside the pipe. A runtime delivers those that are set when it has read something.
    let settled = runtime.block_on(async {
        reactor::nudge_pair_end(&receiver)?;
        while reactor::pending_bytes(&receiver)? > 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    });
    settled.map_err(ForkError::Inspect)
}

/// Waits for other threads to go, at most `limit`.
pub(crate) async fn wait_for_threads(limit: Duration) -> Result<(), ForkError> {
    if sys::is_single_threaded().map_err(ForkError::Inspect)? {
        return Ok(());
    }
    let start = Instant::now();
    let mut ticker = sys::ticker(THREADS_PERIOD).map_err(ForkError::Inspect)?;
    let threads = sys::other_threads().map_err(ForkError::Inspect)?;
    tracing::info!(?threads, ?limit, "waiting for other threads to end before forking");
    loop {
        if start.elapsed() >= limit {
            let threads = sys::other_threads().map_err(ForkError::Inspect)?;
            return if threads.is_empty() { Ok(()) } else { Err(ForkError::Threads(threads)) };
        }
        let mut ready = ticker.readable_mut().await.map_err(ForkError::Inspect)?;
        // Nothing to take means a spurious event: look at the threads all the same.
        let _ = ready.try_io(|ticker| ticker.get_mut().expirations());
        if sys::is_single_threaded().map_err(ForkError::Inspect)? {
            return Ok(());
        }
    }
}

/// The registered duplicates of tokio's signal pipe, as of the newest selector.
static SIGNAL_PIPES: Mutex<SignalPipes> = Mutex::new(SignalPipes { newest_selector: 0, receivers: Vec::new() });

pub(crate) fn signal_pipes() -> MutexGuard<'static, SignalPipes> {
    SIGNAL_PIPES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct SignalPipes {
    newest_selector: u32,
    receivers: Vec<RawFd>,
}

/// Tags tokio's signal pipe, so that the child gets one of its own.
///
/// The driver registers a duplicate of the pipe's receiving end as it is built, so it is enough to look when there is a
/// new selector. Should tokio change its token, nothing is tagged, and the pipe follows the policy of streams: the
/// child's driver ends with a panic that names the pipe rather than steal the parent's signals.
pub(crate) fn tag_signal_pipes() -> io::Result<()> {
    tag(&mut signal_pipes())
}

/// As [`tag_signal_pipes`], in a fork by others: the thread may have been interrupted in the middle of that function.
#[cfg(feature = "atfork")]
pub(crate) fn try_tag_signal_pipes() {
    let mut pipes = match SIGNAL_PIPES.try_lock() {
        Ok(pipes) => pipes,
        Err(TryLockError::Poisoned(error)) => error.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    // Fails only if the registration is gone meanwhile.
    let _ = tag(&mut pipes);
}

fn tag(pipes: &mut SignalPipes) -> io::Result<()> {
    let newest_selector = reactor::newest_selector();
    if pipes.newest_selector == newest_selector {
        return Ok(());
    }
    pipes.receivers = tag_signal_receivers()?;
    pipes.newest_selector = newest_selector;
    Ok(())
}

/// Tags the duplicates of the signal pipe's receiving end that are registered, and lists them.
fn tag_signal_receivers() -> io::Result<Vec<RawFd>> {
    let mut receivers = Vec::new();
    for registration in reactor::registrations() {
        let is_candidate = registration.token == SIGNAL_TOKEN && registration.kind == Some(SourceKind::Stream);
        if is_candidate && reactor::is_pair_end(registration.fd) {
            match reactor::set_policy(&registration.fd, ForkPolicy::Renew) {
                Ok(()) => receivers.push(registration.fd),
                // Another thread has dropped its runtime meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(receivers)
}

/// Whether a signal has arrived that tokio's driver has not told its streams of.
pub(crate) fn is_signal_pending() -> bool {
    let pipes = signal_pipes();
    // A number may be gone with its runtime; the others are duplicates of the same socket.
    pipes.receivers.iter().any(|fd| reactor::pending_bytes(&fd.as_raw_fd()).is_ok_and(|bytes| bytes > 0))
}
