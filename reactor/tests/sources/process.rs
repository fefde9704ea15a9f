//! `unix::Process`.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use static_assertions::{assert_impl_all, assert_not_impl_any};

use super::util::{LIMIT, Loop, READ, check_registration, making_a_child};
use crate::mio::event::{Event, Source};
use crate::mio::unix::Process;

assert_impl_all!(Process: Source, Send, Sync, Unpin, std::fmt::Debug);
assert_not_impl_any!(Process: Clone);

/// Starts a child that runs `script` once its standard input has a line or ends.
fn child(script: &str) -> Child {
    let _guard = making_a_child();
    let script = format!("read -r line; {script}");
    Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap()
}

fn tell(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
}

#[test]
fn registers() {
    let mut child = child("true");
    check_registration(&mut Process::open(child.id()).unwrap());
    tell(&mut child);
    child.wait().unwrap();
}

#[test]
fn tells_the_end_of_a_child_and_reaps_it() {
    for (script, code, signal) in
        [("exit 0", Some(0), None), ("exit 203", Some(203), None), ("kill -TERM $$", None, Some(libc::SIGTERM))]
    {
        let mut run = Loop::new();
        let mut child = child(script);
        let mut process = Process::open(child.id()).unwrap();
        assert_eq!(process.id(), child.id());
        run.register(&mut process, 1, READ);
        run.expect_nothing();
        assert!(!process.has_ended().unwrap());
        assert_eq!(process.try_wait().unwrap(), None);
        tell(&mut child);
        run.expect(1, Event::is_readable);
        assert!(process.has_ended().unwrap());
        let status = process.try_wait().unwrap().unwrap();
        assert_eq!((status.code(), status.signal()), (code, signal));
        // The child was reaped.
        assert_eq!(process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert!(process.has_ended().unwrap());
    }
}

#[test]
fn a_process_that_has_ended_already_gives_an_event() {
    let mut run = Loop::new();
    let mut child = child("true");
    let watch = Process::open(child.id()).unwrap();
    tell(&mut child);
    while !watch.has_ended().unwrap() {
        std::thread::yield_now();
    }
    let mut process = Process::open(child.id()).unwrap();
    run.register(&mut process, 1, READ);
    run.expect(1, Event::is_readable);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_process_that_is_not_a_child() {
    let parent = std::os::unix::process::parent_id();
    let process = Process::open(parent).unwrap();
    assert!(!process.has_ended().unwrap());
    assert_eq!(process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
}

#[test]
fn an_id_without_a_process_is_refused() {
    let mut child = child("true");
    tell(&mut child);
    let pid = child.id();
    child.wait().unwrap();
    for pid in [pid, u32::MAX, 0] {
        assert_eq!(Process::open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
    }
    // A refused watch leaves no descriptor open. Other tests of this program open up to a thousand descriptors meanwhile, but
    // a leak in 5,000 attempts would show.
    const ATTEMPTS: usize = 5_000;
    let before = lowest_free_descriptor();
    for _ in 0..ATTEMPTS {
        Process::open(pid).unwrap_err();
    }
    let after = lowest_free_descriptor();
    assert!(after < before + 2_500, "{before}, then {after}");
}

fn lowest_free_descriptor() -> i32 {
    std::fs::File::open("/dev/null").unwrap().as_raw_fd()
}

/// `has_ended` does not fail if a signal interrupts poll(2), which can happen even if poll(2) does not wait.
#[test]
fn signals_do_not_disturb_has_ended() {
    static HANDLED: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handle(_: i32) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler is async-signal-safe.
    unsafe { libc::signal(libc::SIGWINCH, handle as extern "C" fn(i32) as libc::sighandler_t) };
    let mut child = child("true");
    let process = Process::open(child.id()).unwrap();
    let is_over = AtomicBool::new(false);
    // SAFETY: no memory is involved.
    let this_thread = unsafe { libc::pthread_self() } as usize;
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // SAFETY: the thread that waits for the scope lives until this thread has ended.
                unsafe { libc::pthread_kill(this_thread as libc::pthread_t, libc::SIGWINCH) };
            }
        });
        let mut found = Ok(false);
        // If both threads share a CPU, few signals arrive: each switch between the threads delivers only one.
        let start = Instant::now();
        while found == Ok(false) && HANDLED.load(Ordering::Relaxed) < 8_000 && start.elapsed() < LIMIT / 6 {
            found = process.has_ended().map_err(|error| error.kind());
        }
        is_over.store(true, Ordering::Relaxed);
        found
    });
    assert_eq!(found, Ok(false));
    tell(&mut child);
    child.wait().unwrap();
}
