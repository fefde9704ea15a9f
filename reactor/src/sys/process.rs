//! The system calls of a fork.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

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

/// fork(2): 0 in the child.
///
/// # Safety
///
/// If the process has other threads, the child may only do what signal-safety(7) allows, until it has called exec.
pub(crate) unsafe fn fork() -> io::Result<libc::pid_t> {
    syscall!(fork())
}
