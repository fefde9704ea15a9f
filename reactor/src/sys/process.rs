//! The system calls of a fork.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::syscall;

/// All signals blocked, in the calling thread, until dropped: a handler that ran in the child before commit would still find the parent's
/// objects under its descriptors.
#[derive(Debug)]
pub struct SignalsBlocked {
    before: libc::sigset_t,
    /// A mask belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl SignalsBlocked {
    pub(crate) fn new() -> SignalsBlocked {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset fills `all`; pthread_sigmask reads it and fills `before`. Neither can fail with these
        // arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            SignalsBlocked { before: before.assume_init(), _not_send: PhantomData }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask is one that pthread_sigmask gave us.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Where the C library says whether the process is certainly single-threaded: glibc's `__libc_single_threaded`
/// (`sys/single_threaded.h`, since 2.32), looked up at run time. Elsewhere nobody says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SingleThreaded(*const libc::c_char);

// SAFETY: it is written by the only thread there is, when that makes another one, and never unmapped.
unsafe impl Send for SingleThreaded {}
// SAFETY: see `Send`.
unsafe impl Sync for SingleThreaded {}

impl SingleThreaded {
    pub(crate) fn find() -> SingleThreaded {
        static FOUND_OUT: Once = Once::new();
        FOUND_OUT.call_once(|| {
            // SAFETY: the name ends with a zero byte; looking it up runs no code of ours.
            let variable = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
            if !variable.is_null() {
                FOUND.store(variable.cast(), Ordering::Relaxed);
            }
        });
        SingleThreaded(FOUND.load(Ordering::Relaxed))
    }

    /// Whether the calling thread is certainly the only one. `false` says nothing.
    #[inline(always)]
    pub(crate) fn holds(self) -> bool {
        // SAFETY: a static of ours, or the C library's variable.
        unsafe { *self.0 != 0 }
    }
}

static FOUND: AtomicPtr<libc::c_char> = AtomicPtr::new((&raw const NOT_CERTAIN).cast_mut());
static NOT_CERTAIN: libc::c_char = 0;

/// Whether the calling thread is certainly the only one, as far as [`SingleThreaded::find`] has found out.
#[inline]
pub(crate) fn is_single_threaded() -> bool {
    SingleThreaded(FOUND.load(Ordering::Relaxed)).holds()
}

/// The process id. Async-signal-safe, and made in line where the system allows it.
pub(crate) fn id() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned()
}

/// pthread_atfork(3): `before` runs before each fork(2) of the process, then one of the others in parent and child.
#[cfg(feature = "atfork")]
pub(crate) fn at_fork(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: the functions are there for as long as the program or library that they are in, and so is their registration.
    match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// fork(2): 0 in the child.
///
/// # Safety
///
/// If the process has other threads, the child may only do what signal-safety(7) allows, until it has called exec.
pub(crate) unsafe fn fork() -> io::Result<libc::pid_t> {
    syscall!(fork())
}
