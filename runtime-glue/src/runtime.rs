//! Checks of the current runtime before a fork, and repairs after a fork.

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forkio_reactor::Token;
use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{Registration, glue};
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle, Id, RuntimeFlavor};
use tokio::sync::Notify;

use crate::sys::ProcessKey;
use crate::{ForkError, lineage, paused_workers, sys};

/// The token under which tokio's driver registers its duplicate of the signal pipe's receiving end
/// (`tokio/src/runtime/io/driver.rs`, `TOKEN_SIGNAL`).
///
/// If a version of tokio changes the token, the pipe follows the policy of streams. The child's driver then panics with a message
/// that names the pipe, and steals no signals of the parent.
pub(crate) const SIGNAL_TOKEN: Token = Token(1);

/// How often a waiting fork checks whether the other threads have ended.
const THREADS_PERIOD: Duration = Duration::from_millis(5);

/// Checks the flavour and the selector of the current runtime.
pub(crate) fn check() -> Result<(), ForkError> {
    let handle = Handle::try_current().map_err(|_| ForkError::NoRuntime)?;
    if handle.runtime_flavor() != RuntimeFlavor::CurrentThread {
        return Err(ForkError::MultiThreadRuntime(sys::other_threads().map_err(ForkError::Inspect)?));
    }
    if paused_workers::contains(handle.id()) {
        return Err(ForkError::InsideProcessRuntime);
    }
    check_selector(handle.id())
}

/// Checks that forks can handle the selector of the current runtime, whose id is `id`.
fn check_selector(id: Id) -> Result<(), ForkError> {
    thread_local! {
        /// The runtime that was checked last. On upstream mio also the process: after an unplanned fork, check again, because
        /// the child's runtime has the parent's epoll instance.
        static CHECKED: Cell<Option<(Id, Option<ProcessKey>)>> = const { Cell::new(None) };
    }
    match CHECKED.get() {
        Some((checked, None)) if checked == id => return Ok(()),
        Some((checked, process @ Some(_))) if checked == id && process == Some(sys::process_key()) => return Ok(()),
        _ => {}
    }
    let probe = probe()?;
    CHECKED.set(Some((id, glue::is_adopted(&probe).then(sys::process_key))));
    Ok(())
}

/// Makes forks handle the current runtime, if there is one, even if it runs on upstream mio.
pub(crate) fn adopt_current() {
    if Handle::try_current().is_ok() {
        // After an error, forkio does not know the runtime's registrations. A caller that needs one then returns an error.
        let _ = probe();
    }
}

/// Returns whether tokio was built with its feature `parking_lot`. A child can then use tokio's locks only after
/// [`keep_inherited_stacks`](sys::keep_inherited_stacks).
pub(crate) fn uses_parking_lot() -> bool {
    // tokio has no function for this. Only with `parking_lot`, the debug output of tokio's mutexes has this marker.
    format!("{:?}", Notify::new()).contains("PhantomData")
}

/// Registers a descriptor with the current runtime. If the runtime's selector is not forkio's, adopts it or fails.
fn probe() -> Result<AsyncFd<OwnedFd>, ForkError> {
    // This socket is never readable.
    let probe = OwnedFd::from(UnixDatagram::unbound().map_err(ForkError::Inspect)?);
    // tokio has no function that says whether there is an I/O driver: it panics if there is none.
    let registered = catch_unwind(AssertUnwindSafe(|| sys::watch(probe)));
    let registered = registered.map_err(|_| ForkError::NoIoDriver)?.map_err(ForkError::Inspect)?;
    if reactor::policy(&registered).is_none() {
        if !glue::can_adopt() {
            return Err(ForkError::ForeignSelector);
        }
        glue::adopt(&registered).map_err(ForkError::Prepare)?;
    }
    Ok(registered)
}

/// Keeps the current runtime to this process: children get no queue for its selector.
pub(crate) fn keep_from_children() -> Result<(), ForkError> {
    glue::retire_in_children(&probe()?).map_err(ForkError::Inspect)?;
    Ok(())
}

/// Gives this process and each later child a signal pipe of its own. Then empties the pipe of this process: a signal that the
/// parent had received at the fork must not be delivered here.
pub(crate) fn renew_signal_pipe() -> Result<(), ForkError> {
    // tokio makes the pipe with the first runtime, under a lock. Hold off forks, so that no child inherits that lock locked.
    let held = glue::hold_off().map_err(ForkError::Inspect)?;
    let runtime = Builder::new_current_thread().enable_io().build().map_err(ForkError::Inspect)?;
    let probe = {
        let _context = runtime.enter();
        probe()?
    };
    let receivers = glue::renewed_receivers();
    let registrations = reactor::registrations();
    let own = registrations.iter().find(|registration| registration.fd == probe.as_raw_fd());
    // Use the receiver of this runtime: another runtime may close its own at any time.
    let is_own = |entry: &&Registration| own.is_some_and(|own| own.selector == entry.selector);
    let mut candidates = registrations.iter().filter(is_own).map(|registration| registration.fd);
    let receiver = candidates.find(|fd| receivers.contains(fd)).ok_or(ForkError::ForeignSelector)?;
    glue::renew_pair_in_children(&receiver).map_err(ForkError::Inspect)?;
    drop(held);
    // tokio also has a flag for each signal. A runtime clears the flags when it has read from the pipe, so write a byte, and let
    // this runtime read it.
    let emptied = runtime.block_on(async {
        glue::nudge_pair_end(&receiver)?;
        while glue::pending_bytes(&receiver)? > 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    });
    emptied.map_err(ForkError::Inspect)
}

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
        // This fails after a spurious event, which is harmless.
        let _ = ready.try_io(|ticker| ticker.get_mut().expirations());
        if sys::is_single_threaded().map_err(ForkError::Inspect)? {
            return Ok(());
        }
    }
}

/// The registered duplicates of tokio's signal pipe. Each driver registers one when it is built, so the list is valid until
/// there is a newer selector.
static SIGNAL_PIPES: Mutex<SignalPipes> = Mutex::new(SignalPipes { newest_selector: 0, receivers: Vec::new() });

pub(crate) fn signal_pipes() -> MutexGuard<'static, SignalPipes> {
    SIGNAL_PIPES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct SignalPipes {
    newest_selector: u64,
    receivers: Vec<RawFd>,
}

/// Returns whether a signal has arrived that tokio's driver has not passed to the `Signal` streams.
pub(crate) fn is_signal_pending() -> bool {
    let mut pipes = signal_pipes();
    let newest_selector = glue::newest_selector();
    if pipes.newest_selector != newest_selector {
        *pipes = SignalPipes { newest_selector, receivers: glue::renewed_receivers() };
    }
    // A descriptor may be closed with its runtime. The other descriptors are duplicates of the same socket.
    pipes.receivers.iter().any(|fd| glue::pending_bytes(&fd.as_raw_fd()).is_ok_and(|bytes| bytes > 0))
}

/// Completes an unplanned fork in the child. Call it before the child's first poll.
pub(crate) fn before_first_poll() {
    // If a signal reached the child before its pipe was renewed, the handler has written to the parent's pipe. Write again:
    // tokio's driver checks all signals when it has read a byte.
    for receiver in glue::renewed_receivers() {
        // An error means that the runtime has ended meanwhile.
        let _ = glue::nudge_pair_end(&receiver);
    }
    lineage::finish_fork(glue::is_single_threaded());
}
