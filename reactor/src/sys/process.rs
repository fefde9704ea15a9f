//! The system calls that fork a process, mask its signals and return its id.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::syscall;

/// Blocks signals of the calling thread until it is dropped. A fork blocks all signals: a handler that ran in the child before
/// commit would still use the parent's objects.
#[derive(Debug)]
pub struct SignalsBlocked {
    before: libc::sigset_t,
    /// A mask belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl SignalsBlocked {
    pub(crate) fn new() -> SignalsBlocked {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset fills `all`, and cannot fail.
        let all = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            all.assume_init()
        };
        SignalsBlocked::block(&all)
    }

    pub(crate) fn block(signals: &libc::sigset_t) -> SignalsBlocked {
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: pthread_sigmask reads the set and fills `before`. It cannot fail, because the operation is valid.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, signals, before.as_mut_ptr());
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

/// Makes the set of these signals. Fails for a number that is not a signal's, and for signals that the kernel would silently
/// leave out.
#[cfg(feature = "os-ext")]
pub(crate) fn signal_set(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills `set`, and cannot fail.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: the set is initialised.
        let is_signal = signal > 0 && unsafe { libc::sigaddset(&mut set, signal) } == 0;
        if !is_signal || signal == libc::SIGKILL || signal == libc::SIGSTOP {
            let text = format!("{signal} is not the number of a signal that a process can block");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(set)
}

/// Whether the calling thread is certainly the only one that the process has, and has ever had. `false` means unknown: only
/// glibc reports it, since 2.32 (`__libc_single_threaded` in `sys/single_threaded.h`, looked up at run time).
pub fn is_single_threaded() -> bool {
    // SAFETY: the name ends with a zero byte; looking it up runs no code of this crate.
    let variable = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
    // SAFETY: `variable` is null or the address of the C library's variable, which is never unmapped.
    unsafe { variable.cast::<libc::c_char>().as_ref() }.is_some_and(|is_single| *is_single != 0)
}

/// Returns the process id. Async-signal-safe. rustix makes the system call inline where the system allows it.
pub(crate) fn id() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

/// Registers `handler` with pthread_atfork(3): it runs in the child of each fork(2) of the process.
pub(crate) fn at_fork_in_child(handler: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the function exists for as long as the program or library that it is in, and so does its registration.
    match unsafe { libc::pthread_atfork(None, None, Some(handler)) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Calls fork(2). Returns 0 in the child.
///
/// # Safety
///
/// If the process has other threads, the child may only do what signal-safety(7) allows, until it has called exec.
pub(crate) unsafe fn fork() -> io::Result<libc::pid_t> {
    syscall!(fork())
}
