//! Unplanned forks: a C library, `c/unplanned.c`, makes them.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use crate::process::run_child;
use crate::{limit, reap};

mod library {
    use super::*;

    unsafe extern "C" {
        pub(super) fn unplanned_fork() -> c_int;
        pub(super) fn unplanned_run(argv: *const *const c_char) -> c_int;
        pub(super) fn unplanned_daemon() -> c_int;
        pub(super) fn unplanned_fork_on_thread(in_child: extern "C" fn(*mut c_void), argument: *mut c_void) -> c_int;
        pub(super) fn unplanned_fork_on_signal(signal: c_int) -> c_int;
        pub(super) fn unplanned_forked_in_handler() -> c_int;
    }
}

/// Forks. Returns the child's process id in the parent, `None` in the child.
#[track_caller]
pub fn fork() -> Option<i32> {
    // SAFETY: a scenario has one thread, or its child needs no lock that another thread could hold.
    let child = unsafe { library::unplanned_fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    (child > 0).then_some(child)
}

/// Forks. The child runs `child` and exits. Returns the child's process id.
#[track_caller]
pub fn fork_child(child: impl FnOnce()) -> i32 {
    fork().unwrap_or_else(|| run_child(child))
}

/// Forks. The child runs `child` and exits, and the parent waits for it.
#[track_caller]
pub fn in_child(child: impl FnOnce()) {
    reap(fork_child(child));
}

/// Forks, and executes a program in the child. Returns its status, as wait(2) gives it.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> i32 {
    let words: Vec<CString> =
        [program].iter().chain(args).map(|word| CString::new(*word).expect("a word without a zero byte")).collect();
    let argv: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    // SAFETY: the words live until the program has ended.
    unsafe { library::unplanned_run(argv.as_ptr()) }
}

/// Forks twice, like a daemon. Returns `true` in the daemon. If the daemon hangs, a signal ends it: the harness does
/// not find the daemon, which has a session of its own.
#[track_caller]
pub fn daemon() -> bool {
    // SAFETY: as in `fork`.
    let side = unsafe { library::unplanned_daemon() };
    assert!(side >= 0, "forking twice");
    if side == 0 {
        // SAFETY: no memory is involved.
        unsafe { libc::alarm(2 * limit().as_secs() as u32) };
    }
    side == 0
}

/// Forks on a new thread, and waits until the thread has ended. The child runs `child` and exits. Returns the child's
/// process id.
#[track_caller]
pub fn fork_on_thread(mut child: impl FnMut()) -> i32 {
    extern "C" fn call<F: FnMut()>(child: *mut c_void) {
        // SAFETY: the pointer is to the closure below, which the child has too.
        unsafe { (*child.cast::<F>())() }
    }
    fn call_of<F: FnMut()>(_: &F) -> extern "C" fn(*mut c_void) {
        call::<F>
    }
    // SAFETY: the closure outlives the thread.
    let pid = unsafe { library::unplanned_fork_on_thread(call_of(&child), (&raw mut child).cast()) };
    assert!(pid > 0, "forking on a thread: {pid}");
    pid
}

/// Makes the process fork whenever it handles `signal`.
pub fn fork_on_signal(signal: i32) {
    // SAFETY: fork(2) is allowed in a handler.
    assert_eq!(unsafe { library::unplanned_fork_on_signal(signal) }, 0);
}

/// Returns the result of the last fork in a handler: 0 in the child, -1 if no handler has forked.
pub fn forked_in_handler() -> i32 {
    // SAFETY: the call reads a variable.
    unsafe { library::unplanned_forked_in_handler() }
}

/// Registers fork handlers, as another library would.
pub fn pthread_atfork(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    // SAFETY: the functions exist as long as the process.
    assert_eq!(unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) }, 0);
}

/// A handler that does nothing.
pub extern "C" fn nothing() {}
