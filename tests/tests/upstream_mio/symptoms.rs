//! The effects of an unplanned fork on tokio with upstream mio: the symptoms that `forkio::guide` describes.
//!
//! To show that a call hangs, a scenario waits for [`PATIENCE`]. A slow machine cannot make such a check fail.

use std::fs;
use std::future::{Future, pending};
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Command, exit};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use forkio_tests::runtime::*;
use tokio::sync::oneshot;

/// How long to wait for an event that must not happen.
const PATIENCE: Duration = Duration::from_secs(1);

fn current_thread() -> Runtime {
    // Idle threads must not end before the fork.
    Builder::new_current_thread().enable_all().thread_keep_alive(limit()).build().expect("a runtime")
}

/// A child process. It is killed on drop.
struct Child(libc::pid_t);

impl Child {
    /// Forks. The child runs `work` and exits, at the latest when its parent ends.
    fn fork(work: impl FnOnce()) -> Child {
        let parent = std::process::id();
        Child(unplanned::fork_child(|| {
            // SAFETY: no memory is involved.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if parent_id() == parent {
                work();
            }
        }))
    }

    fn threads(&self) -> usize {
        thread_names(self.0).len()
    }

    /// Whether the child ends within a time. It must exit with 0.
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
        // SAFETY: no memory is involved. The id is the child's until it is waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Whether a future is still pending after [`PATIENCE`].
async fn hangs(future: impl Future) -> bool {
    timeout(PATIENCE, future).await.is_err()
}

/// Checks that the child gets the byte of a signal to the parent.
fn signal_is_stolen(runtime: &Runtime, stream: &mut Signal, child: Child) {
    wait_until("the child polls", || is_in_epoll_wait(child.0));
    raise(libc::SIGUSR1);
    wait_until("a process has read the pipe", || (3..64).all(|fd| pending_bytes(fd) == 0));
    assert!(runtime.block_on(hangs(stream.recv())));
    drop(child);
    // The child has ended. The next signal makes the runtime deliver the stolen signal too.
    raise(libc::SIGUSR1);
    runtime.block_on(async { timeout(limit(), stream.recv()).await }).unwrap();
}

fn pending_bytes(fd: i32) -> i32 {
    let mut bytes = 0;
    // SAFETY: the kernel writes an int.
    unsafe { libc::ioctl(fd, libc::FIONREAD, &mut bytes) };
    bytes
}

scenarios!(
    /// A child does not have the worker threads of an inherited multi-threaded runtime, so no task runs.
    #[limit(900)]
    fn missing_threads() {
        let runtime = multi_thread().unwrap();
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

    /// The parent has used `spawn_blocking`. The child waits for an idle thread that it does not have.
    #[limit(900)]
    fn blocking_pool() {
        let runtime = current_thread();
        runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
        let threads = || fs::read_dir("/proc/self/task").unwrap().flatten().map(|entry| entry.path());
        wait_until("the thread sleeps", || {
            threads().all(|path| {
                path.ends_with(own_pid().to_string())
                    || fs::read_to_string(path.join("syscall"))
                        .is_ok_and(|call| call.starts_with(&format!("{} ", libc::SYS_futex)))
            })
        });
        let child = Child::fork(|| {
            let _ = runtime.block_on(runtime.spawn_blocking(|| ()));
        });
        assert!(!child.ends_within(PATIENCE));
    }

    /// The child drops its listener, and the parent accepts no more.
    #[limit(900)]
    fn listener_stops() {
        let runtime = current_thread();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let accept = async |listener: &TcpListener| timeout(PATIENCE, listener.accept()).await.is_ok();
        let connect = || std::net::TcpStream::connect(address).unwrap();
        // A child that only exits disturbs nothing.
        assert!(Child::fork(|| ()).ends_within(limit()));
        let _first = connect();
        assert!(runtime.block_on(accept(&listener)));

        let mut listener = Some(listener);
        assert!(Child::fork(|| drop(listener.take())).ends_within(limit()));
        let listener = listener.unwrap();
        // tokio accepts without an event as long as it believes that there are more connections.
        assert!(!runtime.block_on(accept(&listener)));
        let _second = connect();
        assert!(!runtime.block_on(accept(&listener)));
    }

    /// Parent and child register the same socket with the shared epoll instance. The second registration gets EEXIST.
    #[limit(900)]
    fn registered_twice() {
        let runtime = current_thread();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let _context = runtime.enter();
        let turn = Turn::new();
        let duplicate = |listener: &std::net::TcpListener| listener.try_clone().unwrap();
        let child = Child::fork(|| {
            let _registered = TcpListener::from_std(duplicate(&listener)).unwrap();
            turn.give();
            thread::sleep(limit());
        });
        turn.wait();
        let error = TcpListener::from_std(duplicate(&listener)).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::AlreadyExists, Some(libc::EEXIST)));
        drop(child);
    }

    /// A thread of the parent wakes the parent's runtime, and the child gets the event. The parent's later wakes make
    /// no system call, and the runtime sleeps until some I/O comes.
    #[limit(900)]
    fn stolen_wake() {
        let runtime = current_thread();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let parent = own_pid();
        let child = Child::fork(|| {
            // The kernel wakes the process that waited last.
            wait_until("the parent polls", || is_in_epoll_wait(parent));
            runtime.block_on(pending::<()>());
        });
        let (send_first, first) = oneshot::channel();
        let (send_second, second) = oneshot::channel();
        let waker = thread::spawn(move || {
            wait_until("parent and child poll", || is_in_epoll_wait(parent) && is_in_epoll_wait(child.0));
            send_first.send(Instant::now()).unwrap();
            wait_until("the child still polls", || is_in_epoll_wait(child.0));
            drop(child);
            send_second.send(Instant::now()).unwrap();
            thread::sleep(PATIENCE);
            std::net::TcpStream::connect(address).unwrap()
        });
        let since = async |sent: oneshot::Receiver<Instant>| sent.await.unwrap().elapsed();
        let late = runtime.block_on(async { tokio::join!(since(first), since(second), listener.accept()) });
        waker.join().unwrap();
        assert!(late.0 >= PATIENCE && late.1 >= PATIENCE, "{late:?}");
    }

    /// The parent gets a signal, and the child reads that signal's byte from the signal pipe.
    #[limit(900)]
    fn stolen_signal() {
        let runtime = current_thread();
        let mut stream = runtime.block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
        let child = Child::fork(|| runtime.block_on(pending::<()>()));
        signal_is_stolen(&runtime, &mut stream, child);
    }

    /// The child reads the byte of the parent's signal even with a runtime of its own: a program has only one signal
    /// pipe.
    #[limit(900)]
    fn stolen_signal_with_a_fresh_runtime() {
        let runtime = current_thread();
        let mut stream = runtime.block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
        let child = Child::fork(|| current_thread().block_on(pending::<()>()));
        signal_is_stolen(&runtime, &mut stream, child);
    }

    /// A source that the parent registers after the fork is in the child's epoll instance too.
    #[limit(900)]
    fn shared_epoll_instance() {
        let runtime = current_thread();
        let child = Child::fork(|| thread::sleep(limit()));
        let epoll = (3..64).find(|fd| name_of(fd) == "anon_inode:[eventpoll]").unwrap();
        let watched = |process: &str| fs::read_to_string(format!("/proc/{process}/fdinfo/{epoll}")).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let line = format!("tfd: {:8} events:", listener.as_raw_fd());
        let in_child = watched(&child.0.to_string());
        assert!(in_child.contains(&line), "{line:?} in {in_child}");
        assert_eq!(in_child, watched("self"));
    }

    /// The parent closes a connection. Its peer does not see the end, because a child has the connection too.
    #[limit(900)]
    fn connection_stays_open() {
        let runtime = current_thread();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = runtime.block_on(listener.accept()).unwrap();
        let child = Child::fork(|| thread::sleep(limit()));
        drop(stream);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(child);
        client.set_read_timeout(Some(limit())).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);

        // shutdown(2) ends the connection, even if another process has it.
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = runtime.block_on(listener.accept()).unwrap();
        let _child = Child::fork(|| thread::sleep(limit()));
        let stream = stream.into_std().unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        client.set_read_timeout(Some(limit())).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    /// A lock that another thread holds at the fork stays locked in the child, and `spawn` waits for the child's exec.
    #[limit(900)]
    fn lock_in_pre_exec() {
        let lock = Arc::new(Mutex::new(()));
        let guard = lock.lock().unwrap();
        let locked = Arc::clone(&lock);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut command = Command::new("true");
            // SAFETY: the child may hang in the lock, as this scenario shows. The kernel then ends it with its
            // parent.
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
        // The lock is free in the parent, and locked forever in the child.
        assert!(receiver.recv_timeout(PATIENCE).is_err());
        exit(0);
    }

    /// An audit outside the runtime lists tokio's epoll instance. An audit inside the runtime does not.
    #[limit(900)]
    fn audit() {
        let runtime = current_thread();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let audit = forkio::audit::shared_descriptors().unwrap();
        let objects: Vec<_> = audit.found().iter().map(|shared| shared.object).collect();
        assert!(objects.contains(&SharedObject::Epoll) && objects.contains(&SharedObject::Eventfd), "{audit}");
        assert!(audit.found().iter().any(|shared| shared.fd == listener.as_raw_fd()), "{audit}");
        // Inside the runtime, forkio finds the epoll instance. A fork made by forkio gives the child another one.
        let audit = runtime.block_on(async { forkio::audit::shared_descriptors().unwrap() });
        check_eq("shared", audit.found().iter().map(|shared| shared.fd).collect(), vec![listener.as_raw_fd()]);
    }
);
