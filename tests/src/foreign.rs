//! The library in `foreign/forks.c`, which forks behind the program's back.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

mod library {
    use super::*;

    unsafe extern "C" {
        pub(super) fn foreign_fork() -> c_int;
        pub(super) fn foreign_run(argv: *const *const c_char) -> c_int;
        pub(super) fn foreign_daemon() -> c_int;
        pub(super) fn foreign_fork_on_thread(in_child: extern "C" fn(*mut c_void), argument: *mut c_void) -> c_int;
        pub(super) fn foreign_fork_on_signal(signal: c_int) -> c_int;
        pub(super) fn foreign_forked_in_handler() -> c_int;
    }
}

/// Forks; `None` in the child, the child's process id in the parent.
#[track_caller]
pub fn fork() -> Option<i32> {
    // SAFETY: fixtures have one thread, or their child does nothing that another thread could hold a lock for.
    let child = unsafe { library::foreign_fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    (child > 0).then_some(child)
}

/// Forks; the child runs `child` and exits. In the parent: the child's process id.
#[track_caller]
pub fn fork_child(child: impl FnOnce()) -> i32 {
    fork().unwrap_or_else(|| {
        child();
        std::process::exit(0)
    })
}

/// Forks, and executes a program in the child. Its status, as of wait(2).
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> i32 {
    let words: Vec<CString> =
        [program].iter().chain(args).map(|word| CString::new(*word).expect("a word without a zero byte")).collect();
    let argv: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    // SAFETY: the words live until the program has ended.
    unsafe { library::foreign_run(argv.as_ptr()) }
}

/// Forks twice, as daemons do. `true` in the daemon.
#[track_caller]
pub fn daemon() -> bool {
    // SAFETY: as in `fork`.
    let side = unsafe { library::foreign_daemon() };
    assert!(side >= 0, "forking twice");
    side == 0
}

/// Forks on a thread of its own, which is gone when this returns. The child's process id.
#[track_caller]
pub fn fork_on_thread(mut child: impl FnMut()) -> i32 {
    extern "C" fn call<F: FnMut()>(child: *mut c_void) {
        // SAFETY: it is the closure below, which lives in the child too.
        unsafe { (*child.cast::<F>())() }
    }
    fn call_of<F: FnMut()>(_: &F) -> extern "C" fn(*mut c_void) {
        call::<F>
    }
    // SAFETY: the closure outlives the thread.
    let pid = unsafe { library::foreign_fork_on_thread(call_of(&child), (&raw mut child).cast()) };
    assert!(pid > 0, "forking on a thread: {pid}");
    pid
}

/// From now on `signal` makes the process fork, in its handler.
pub fn fork_on_signal(signal: i32) {
    // SAFETY: the handler forks, which is what its scenario is about.
    assert_eq!(unsafe { library::foreign_fork_on_signal(signal) }, 0);
}

/// What the last fork in a handler has returned: 0 in the child; -1 if there was none.
pub fn forked_in_handler() -> i32 {
    // SAFETY: reads a variable.
    unsafe { library::foreign_forked_in_handler() }
}
