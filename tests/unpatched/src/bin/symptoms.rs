//! What a plain `fork(2)` does to tokio on upstream mio: the symptoms that `forkio::guide` describes, each shown by the
//! scenario that the first argument names. Exits with 0 if the symptom was seen.
//!
//! That something hangs is shown by giving it [`PATIENCE`]: on a machine however slow it hangs all the more.

use std::fs;
use std::future::{Future, pending};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use forkio::{ForkError, SharedObject};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

/// How long something must not have happened to count as hanging.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long something may take that is to happen.
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let scenarios: [(&str, fn()); 11] = [
        ("threads-that-are-not-there", threads_that_are_not_there),
        ("blocking-pool", blocking_pool),
        ("parent-goes-deaf", parent_goes_deaf),
        ("registered-twice", registered_twice),
        ("stolen-wake", stolen_wake),
        ("stolen-signal", stolen_signal),
        ("stolen-signal-fresh-runtime", stolen_signal_fresh_runtime),
        ("one-queue", one_queue),
        ("connection-stays-open", connection_stays_open),
        ("lock-in-pre-exec", lock_in_pre_exec),
        ("audit", audit),
    ];
    let name = std::env::args().nth(1).unwrap_or_default();
    let (_, scenario) = scenarios.iter().find(|(known, _)| *known == name).unwrap_or_else(|| {
        panic!("no scenario {name:?}; there are {:?}", scenarios.map(|(name, _)| name));
    });
    scenario();
}

fn current_thread() -> Runtime {
    // Idle threads are to be there when the process forks, however long that takes.
    Builder::new_current_thread().enable_all().thread_keep_alive(LIMIT).build().expect("a runtime")
}

/// A child, ended with the value.
struct Child(libc::pid_t);

impl Child {
    /// Forks as a library would that knows nothing of the runtime; the child runs `work` and exits with 0.
    fn fork(work: impl FnOnce()) -> Child {
        let parent = std::process::id();
        // SAFETY: what comes of it is what is to be seen.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            0 => {
                // SAFETY: no memory is involved.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if std::os::unix::process::parent_id() == parent {
                    work();
                }
                exit(0);
            }
            pid => Child(pid),
        }
    }

    fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.0)).expect("a living child").count()
    }

    /// Whether it has ended, with 0, within the time given to it.
    fn ends_within(&self, limit: Duration) -> bool {
        let start = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes the status.
            match unsafe { libc::waitpid(self.0, &mut status, libc::WNOHANG) } {
                0 if start.elapsed() < limit => thread::sleep(Duration::from_millis(2)),
                0 => return false,
                _ => {
                    assert_eq!(status, 0, "the child's status");
                    return true;
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: no memory is involved; the number is the child's until it is waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the process sleeps in epoll_wait(2).
fn is_polling(pid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number: i64 = call.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(-1);
    [libc::SYS_epoll_wait, libc::SYS_epoll_pwait].contains(&number)
}

async fn hangs(future: impl Future) -> bool {
    timeout(PATIENCE, future).await.is_err()
}

/// A multi-threaded runtime, made before the fork: in the child it has no worker threads, and so nothing happens.
fn threads_that_are_not_there() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let nap = async || sleep(Duration::from_millis(1)).await;
    runtime.block_on(nap());
    let child = Child::fork(|| runtime.block_on(nap()));
    assert!(!child.ends_within(PATIENCE));
    assert_eq!(child.threads(), 1);
    let child = Child::fork(|| {
        let _ = runtime.block_on(runtime.spawn(async {}));
    });
    assert!(!child.ends_within(PATIENCE));
}

/// The parent has used `spawn_blocking`: the child believes in an idle thread.
fn blocking_pool() {
    let runtime = current_thread();
    runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
    // Once the thread waits for more, which is where it will not be in the child.
    let other_threads = || fs::read_dir("/proc/self/task").unwrap().flatten().map(|entry| entry.path());
    wait_until("the thread sleeps", || {
        other_threads().all(|path| {
            path.ends_with(std::process::id().to_string())
                || fs::read_to_string(path.join("syscall"))
                    .is_ok_and(|call| call.starts_with(&format!("{} ", libc::SYS_futex)))
        })
    });
    let child = Child::fork(|| {
        let _ = runtime.block_on(runtime.spawn_blocking(|| ()));
    });
    assert!(!child.ends_within(PATIENCE));
}

/// The child drops its listener, and the parent's accepts no more.
fn parent_goes_deaf() {
    let runtime = current_thread();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async |listener: &TcpListener| timeout(PATIENCE, listener.accept()).await.is_ok();
    let connect = || std::net::TcpStream::connect(address).unwrap();
    // A child that only exits closes nothing that the parent has not.
    assert!(Child::fork(|| ()).ends_within(LIMIT));
    let _first = connect();
    assert!(runtime.block_on(accept(&listener)));

    let mut listener = Some(listener);
    assert!(Child::fork(|| drop(listener.take())).ends_within(LIMIT));
    let listener = listener.unwrap();
    // tokio looks at the queue as long as it believes that there is more.
    assert!(!runtime.block_on(accept(&listener)));
    let _second = connect();
    assert!(!runtime.block_on(accept(&listener)));
}

/// Both processes give the same socket to what is still one epoll: the second gets EEXIST.
fn registered_twice() {
    let runtime = current_thread();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let _context = runtime.enter();
    let (mut receiver, sender) = io::pipe().unwrap();
    let duplicate = |listener: &std::net::TcpListener| listener.try_clone().unwrap();
    let child = Child::fork(|| {
        let _registered = TcpListener::from_std(duplicate(&listener)).unwrap();
        (&sender).write_all(&[1]).unwrap();
        thread::sleep(LIMIT);
    });
    receiver.read_exact(&mut [0]).unwrap();
    let error = TcpListener::from_std(duplicate(&listener)).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::AlreadyExists, Some(libc::EEXIST)));
    drop(child);
}

/// A thread of the parent wakes the parent's runtime, and the child gets the event. The runtime believes that it was woken,
/// so later wakes make no system call, and it sleeps on with the child gone, until some I/O comes along.
fn stolen_wake() {
    let runtime = current_thread();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let parent = std::process::id();
    let child = Child::fork(|| {
        // Of several that wait on one epoll, the last one is woken.
        wait_until("the parent polls", || is_polling(parent));
        runtime.block_on(pending::<()>());
    });
    let (send_first, first) = tokio::sync::oneshot::channel();
    let (send_second, second) = tokio::sync::oneshot::channel();
    let waker = thread::spawn(move || {
        wait_until("both poll", || is_polling(parent) && is_polling(child.0.cast_unsigned()));
        send_first.send(Instant::now()).unwrap();
        wait_until("the child goes on polling", || is_polling(child.0.cast_unsigned()));
        drop(child);
        send_second.send(Instant::now()).unwrap();
        thread::sleep(PATIENCE);
        std::net::TcpStream::connect(address).unwrap()
    });
    let since = async |sent: tokio::sync::oneshot::Receiver<Instant>| sent.await.unwrap().elapsed();
    let late = runtime.block_on(async { tokio::join!(since(first), since(second), listener.accept()) });
    waker.join().unwrap();
    assert!(late.0 >= PATIENCE && late.1 >= PATIENCE, "{late:?}");
}

/// A signal to the parent, whose byte in the signal pipe the child reads.
fn stolen_signal() {
    let runtime = current_thread();
    let mut stream = runtime.block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
    let child = Child::fork(|| runtime.block_on(pending::<()>()));
    signal_is_stolen(&runtime, &mut stream, child);
}

/// The same if the child builds a runtime of its own: the pipe is one per program.
fn stolen_signal_fresh_runtime() {
    let runtime = current_thread();
    let mut stream = runtime.block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
    let child = Child::fork(|| current_thread().block_on(pending::<()>()));
    signal_is_stolen(&runtime, &mut stream, child);
}

fn signal_is_stolen(runtime: &Runtime, stream: &mut tokio::signal::unix::Signal, child: Child) {
    wait_until("the child polls", || is_polling(child.0.cast_unsigned()));
    // SAFETY: there is a handler.
    unsafe { libc::raise(libc::SIGUSR1) };
    wait_until("somebody has read the pipe", || (3..64).all(|fd| pending_bytes(fd) == 0));
    assert!(runtime.block_on(hangs(stream.recv())));
    drop(child);
    // The next one, with the child gone, brings both.
    // SAFETY: as above.
    unsafe { libc::raise(libc::SIGUSR1) };
    runtime.block_on(async { timeout(LIMIT, stream.recv()).await }).unwrap();
}

fn pending_bytes(fd: i32) -> i32 {
    let mut bytes = 0;
    // SAFETY: the kernel writes an int.
    unsafe { libc::ioctl(fd, libc::FIONREAD, &mut bytes) };
    bytes
}

/// What the parent registers after the fork stands in what the child takes for its own epoll.
fn one_queue() {
    let runtime = current_thread();
    let child = Child::fork(|| thread::sleep(LIMIT));
    let epoll = (3..64)
        .find(|fd| {
            fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|name| name.ends_with("anon_inode:[eventpoll]"))
        })
        .unwrap();
    let watched = |process: &str| fs::read_to_string(format!("/proc/{process}/fdinfo/{epoll}")).unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let line = format!("tfd: {:8} events:", listener.as_raw_fd());
    let childs = watched(&child.0.to_string());
    assert!(childs.contains(&line), "{line:?} in {childs}");
    assert_eq!(childs, watched("self"));
}

/// The parent closes a connection, and its peer does not see the end, because a child has it too.
fn connection_stays_open() {
    let runtime = current_thread();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = runtime.block_on(listener.accept()).unwrap();
    let child = Child::fork(|| thread::sleep(LIMIT));
    drop(stream);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(child);
    client.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);

    // shutdown(2) is the connection's, not the descriptor's.
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = runtime.block_on(listener.accept()).unwrap();
    let _child = Child::fork(|| thread::sleep(LIMIT));
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// A lock that another thread holds at the fork stays locked in the child, and `spawn` waits for the child's exec.
fn lock_in_pre_exec() {
    let lock = Arc::new(Mutex::new(()));
    let guard = lock.lock().unwrap();
    let locked = Arc::clone(&lock);
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut command = Command::new("true");
        // SAFETY: that this is wrong is what is to be seen.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                drop(locked.lock());
                Ok(())
            })
        };
        sender.send(command.status()).unwrap();
    });
    assert!(receiver.recv_timeout(PATIENCE).is_err());
    drop(guard);
    // Free here, and locked for ever there.
    assert!(receiver.recv_timeout(PATIENCE).is_err());
    exit(0);
}

/// The audit names an epoll that is not forkio's; a fork is refused.
fn audit() {
    let runtime = current_thread();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let audit = forkio::audit().unwrap();
    let objects: Vec<_> = audit.found().iter().map(|untagged| untagged.object).collect();
    assert!(objects.contains(&SharedObject::Epoll) && objects.contains(&SharedObject::Eventfd), "{audit}");
    assert!(audit.found().iter().any(|untagged| untagged.fd == listener.as_raw_fd()), "{audit}");
    assert!(matches!(runtime.block_on(forkio::fork()), Err(ForkError::ForeignSelector)));
}
