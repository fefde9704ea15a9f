//! Processes and signals, and [`Turn`], by which one process lets another one continue.

use std::fmt::Debug;
use std::fs::File;
use std::future::Future;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::limits::limit;
use crate::sys::processes;

/// Waits until `condition` holds. Panics with `what` if it does not hold within the [`limit()`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Waits until `find` returns a value. Panics with `what` if `find` does not return one within the [`limit()`].
#[track_caller]
pub fn until<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = find() {
            return value;
        }
        assert!(start.elapsed() < limit(), "gave up after {:?} of waiting until {what}", limit());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns a path in the scenario's temporary directory, which the harness removes.
pub fn temporary_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Connects to a server. Reads fail after the [`limit()`].
pub fn try_connect_tcp(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit()))?;
    Ok(stream)
}

/// Connects to a server. Reads fail after the [`limit()`].
#[track_caller]
pub fn connect_tcp(address: impl ToSocketAddrs) -> TcpStream {
    try_connect_tcp(address).expect("connecting")
}

/// Reads a text up to the end of the stream.
#[track_caller]
pub fn read_to_end(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("reading to the end");
    text
}

/// Panics unless `left` equals `right`. The message has the process id, because several processes write to one log.
#[track_caller]
pub fn check_eq<T: PartialEq + Debug>(what: &str, left: T, right: T) {
    assert_eq!(left, right, "in process {}: {what}", std::process::id());
}

/// Whether this process may become another user, and use other privileges of root.
pub fn is_root() -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::geteuid() == 0 }
}

/// Returns the id of this process.
pub fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// Runs `child` and exits. Call it in a child. A panic ends the child too: it must not unwind into frames that wait for
/// threads of the parent.
pub fn run_child(child: impl FnOnce()) -> ! {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
    std::process::exit(if result.is_ok() { 0 } else { 101 })
}

/// Waits for a child and returns its status, as waitpid(2) gives it.
#[track_caller]
pub fn wait_status(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    check_eq("waiting for the child", waited, pid);
    status
}

/// Waits for a child, which must exit with 0.
#[track_caller]
pub fn reap(pid: i32) {
    check_eq("the child's status", wait_status(pid), 0);
}

/// Sends a signal to a process, or to the group of this process if `pid` is 0.
#[track_caller]
pub fn kill(pid: i32, signal: i32) {
    try_kill(pid, signal).unwrap_or_else(|error| panic!("sending signal {signal} to process {pid}: {error}"));
}

/// Sends a signal to a process that may have ended, or to a group if `pid` is negative.
pub fn try_kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Freezes a process by SIGSTOP, and waits until it is frozen.
#[track_caller]
pub fn freeze(pid: i32) {
    kill(pid, libc::SIGSTOP);
    wait_until("the process is frozen", || processes()[&pid].state == 'T');
}

/// Sends a signal to this thread.
#[track_caller]
pub fn raise(signal: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::raise(signal) }, 0, "raising signal {signal}");
}

/// Ends this process at once, without destructors and exit handlers. Use it in a child whose parent had other threads: the
/// end of a thread scope would wait for threads that the child does not have.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: the call ends the process.
    unsafe { libc::_exit(code) }
}

/// Starts a thread, and waits until it runs. Before that, the thread does not have its name, and may hold locks of the
/// standard library.
#[track_caller]
pub fn start_thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (runs, is_running) = mpsc::channel();
    let run = move || {
        runs.send(()).expect("the other thread waits");
        work()
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread");
    is_running.recv().expect("the thread runs");
    thread
}

/// Checks that this process has no children, not even zombies.
#[track_caller]
pub fn check_no_children() {
    let own = own_pid();
    let children: Vec<_> = processes().into_values().filter(|process| process.parent == own).collect();
    assert!(children.is_empty(), "{children:?}");
}

/// Calls `act` while each of `works` runs repeatedly on a thread of its own.
pub fn beside_threads<W: FnMut() + Send, T>(works: impl IntoIterator<Item = W>, act: impl FnOnce() -> T) -> T {
    /// Ends the threads, even if `act` panics.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for mut work in works {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        let _stop = Stop(&is_over);
        act()
    })
}

/// Sets the descriptor limit while `act` runs: the kernel then opens no descriptor at or above `limit`.
pub fn with_descriptor_limit<T>(limit: usize, act: impl FnOnce() -> T) -> T {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes `before`.
    check_eq("getrlimit", unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) }, 0);
    let set = |limit: libc::rlimit| {
        // SAFETY: the kernel reads `limit`.
        check_eq("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    };
    set(libc::rlimit { rlim_cur: limit as libc::rlim_t, ..before });
    let result = act();
    set(before);
    result
}

/// Opens files until no descriptor is left. Lowers the descriptor limit first.
#[track_caller]
pub fn use_up_descriptors() -> Vec<File> {
    let limit = libc::rlimit { rlim_cur: 512, rlim_max: 512 };
    // SAFETY: the kernel reads `limit`.
    check_eq("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Runs a future that never waits, without a runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

/// A pipe through which one process lets another one continue. Create it before the fork.
#[derive(Debug)]
pub struct Turn {
    receiver: PipeReader,
    sender: PipeWriter,
}

impl Turn {
    /// Creates a turn that has not been given yet.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it opens descriptors")]
    pub fn new() -> Turn {
        let (receiver, sender) = io::pipe().expect("a pipe");
        Turn { receiver, sender }
    }

    /// Returns a turn that the child gives to the parent, and one that the parent gives to the child.
    #[track_caller]
    pub fn both_ways() -> (Turn, Turn) {
        (Turn::new(), Turn::new())
    }

    /// Lets one [`wait`](Turn::wait) return.
    pub fn give(&self) {
        (&self.sender).write_all(&[1]).expect("telling another process");
    }

    /// Waits for a [`give`](Turn::give).
    pub fn wait(&self) {
        (&self.receiver).read_exact(&mut [0]).expect("waiting for another process");
    }
}

/// The descriptor that a [`give`](Turn::give) makes readable.
impl AsRawFd for Turn {
    fn as_raw_fd(&self) -> RawFd {
        self.receiver.as_raw_fd()
    }
}
