//! Holds a kernel, or the model of one, against the sentences of kqueue(2) that the backend relies on, and measures what a
//! fork costs there. A program of its own: it forks. Quoted is FreeBSD's manual of July 27, 2026 (`lib/libsys/kqueue.2` at
//! commit 0e3a044e4c4b); systems that have their own say less. What stands in parentheses the manual does not say, and the
//! backend relies on all the same.
//!
//! Exit status: 0 if every sentence holds that the kernel claims to know.

#[cfg(not(any(
    forkio_kqueue,
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_vendor = "apple"
)))]
fn main() {
    println!("no kqueue here");
}

#[cfg(any(
    forkio_kqueue,
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_vendor = "apple"
))]
fn main() {
    manual::main();
}

#[cfg(any(
    forkio_kqueue,
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_vendor = "apple"
))]
mod manual {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::{Duration, Instant};

    use forkio_reactor::fork::{ForkResult, block_signals, prepare};
    use forkio_reactor::testing::kqueue::*;
    use forkio_reactor::{Interest, Poll, Token};

    const LONG: Option<Duration> = Some(Duration::from_secs(20));
    const NOW: Option<Duration> = Some(Duration::ZERO);

    /// A queue, closed when dropped where it was opened.
    struct Kqueue(RawFd);

    impl Kqueue {
        fn new() -> Kqueue {
            Kqueue(kqueue().expect("kqueue"))
        }

        fn call(&self, changes: &[Kevent], room: usize, timeout: Option<Duration>) -> io::Result<Vec<Kevent>> {
            let mut events = Vec::with_capacity(room);
            // SAFETY: as many changes, and as much room, as there are; the kernel fills what it counts.
            unsafe {
                let count =
                    kevent(self.0, changes.as_ptr(), changes.len(), events.as_mut_ptr(), events.capacity(), timeout)?;
                events.set_len(count);
            }
            Ok(events)
        }

        fn change(&self, change: Kevent) {
            self.call(&[change], 0, NOW).expect("a change");
        }

        fn refused(&self, change: Kevent) -> Option<i32> {
            self.call(&[change], 0, NOW).err().and_then(|error| error.raw_os_error())
        }

        fn wait(&self) -> Vec<Kevent> {
            self.call(&[], 8, LONG).expect("events")
        }

        fn poll(&self) -> Vec<Kevent> {
            self.call(&[], 8, NOW).expect("events")
        }
    }

    impl Drop for Kqueue {
        fn drop(&mut self) {
            close(self.0);
        }
    }

    fn ev(ident: usize, filter: Filter, flags: Flags) -> Kevent {
        kevent_of(ident, filter, flags, 0)
    }

    fn read(fd: &impl AsRawFd, flags: Flags) -> Kevent {
        ev(fd.as_raw_fd() as usize, EVFILT_READ, flags)
    }

    fn user(flags: Flags, fflags: u32) -> Kevent {
        Kevent { fflags, ..ev(1, EVFILT_USER, flags) }
    }

    /// After `nanos`.
    fn timer(flags: Flags, nanos: i64) -> Kevent {
        let data = (nanos as u64).div_ceil(TIMER_UNIT.1);
        Kevent { fflags: TIMER_UNIT.0, data: data as _, ..ev(7, EVFILT_TIMER, flags) }
    }

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().expect("a pair")
    }

    /// Forks; the child's answer is its exit status.
    fn in_child(child: impl FnOnce() -> bool) -> bool {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => {
                let held = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(i32::from(!held)) };
            }
            child => {
                let mut status = 0;
                // SAFETY: the kernel writes the status.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                status == 0
            }
        }
    }

    /// Whether a sentence holds; `None`: this kernel does not know what it speaks of.
    type Check = fn() -> Option<bool>;

    /// Where the sentence stands, the sentence, and a check of it.
    const SENTENCES: &[(&str, &str, Check)] = &[
        ("DESCRIPTION", "there may only be one unique kevent per kqueue", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD));
            queue.change(read(&a, EV_ADD));
            b.write_all(b"x").ok()?;
            Some(queue.wait().len() == 1)
        }),
        (
            "DESCRIPTION",
            "executed upon the initial registration of a kevent in order to detect whether a preexisting condition",
            || {
                let (queue, (a, mut b)) = (Kqueue::new(), pair());
                b.write_all(b"x").ok()?;
                queue.change(read(&a, EV_ADD));
                Some(queue.poll().len() == 1)
            },
        ),
        ("DESCRIPTION", "the condition ... no longer holds, the kevent is removed ... and is not returned", || {
            let (queue, (mut a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD));
            b.write_all(b"x").ok()?;
            a.read_exact(&mut [0]).ok()?;
            Some(queue.poll().is_empty())
        }),
        ("DESCRIPTION", "the filter will aggregate the events into a single struct kevent", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            for _ in 0..3 {
                b.write_all(b"x").ok()?;
            }
            Some(queue.wait().len() == 1 && queue.poll().is_empty())
        }),
        ("DESCRIPTION", "close() on a file descriptor will remove any kevents that reference the descriptor", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            let duplicate = a.try_clone().ok()?;
            queue.change(read(&a, EV_ADD));
            drop(a);
            b.write_all(b"x").ok()?;
            drop(duplicate);
            Some(queue.poll().is_empty())
        }),
        ("DESCRIPTION", "The queue is not inherited by a child created with fork(2)", || {
            let queue = Kqueue::new();
            Some(in_child(|| queue.call(&[], 1, NOW).is_err_and(|error| error.raw_os_error() == Some(libc::EBADF))))
        }),
        ("DESCRIPTION", "The same array may be used for the changelist and eventlist", || {
            let (queue, (a, _b)) = (Kqueue::new(), pair());
            let mut list = vec![read(&a, EV_ADD | EV_RECEIPT); 20];
            let array = list.as_mut_ptr();
            // SAFETY: there are twenty.
            let count = unsafe { kevent(queue.0, array, 20, array, 20, NOW) }.ok()?;
            Some(count == 20 && list.iter().all(|answer| answer.flags & EV_ERROR != 0 && { answer.data } == 0))
        }),
        ("EV_ADD", "Re-adding an existing event will modify the parameters of the original event", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(kevent_of(a.as_raw_fd() as usize, EVFILT_READ, EV_ADD, 1));
            queue.change(kevent_of(a.as_raw_fd() as usize, EVFILT_READ, EV_ADD, 2));
            b.write_all(b"x").ok()?;
            Some(queue.wait().first()?.udata as usize == 2)
        }),
        ("EV_ADD", "(a registration that was retrieved with EV_CLEAR and is still ready is reported anew)", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            b.write_all(b"x").ok()?;
            let first = queue.wait().len();
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            Some((first, queue.poll().len()) == (1, 1))
        }),
        ("EV_KEEPUDATA", "(without it, any change sets udata: the backend passes it always)", || {
            let queue = with_user_event()?;
            queue.change(Kevent { udata: 5_usize as _, ..user(EV_ADD | EV_CLEAR, 0) });
            queue.change(Kevent { udata: 5_usize as _, ..user(0, NOTE_TRIGGER) });
            Some(queue.wait().first()?.udata as usize == 5)
        }),
        ("EV_ENABLE", "(of an enabled event: changes nothing, and of one that is not there: ENOENT)", || {
            let (queue, (a, _b)) = (Kqueue::new(), pair());
            let missing = queue.refused(read(&a, EV_ENABLE));
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            queue.change(read(&a, EV_ENABLE));
            Some(missing == Some(libc::ENOENT) && queue.poll().is_empty())
        }),
        ("EV_DELETE", "Removes the event from the kqueue", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD));
            b.write_all(b"x").ok()?;
            queue.change(read(&a, EV_DELETE));
            Some(queue.poll().is_empty())
        }),
        ("EV_RECEIPT", "without draining any pending events ... forces EV_ERROR to always be returned", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            b.write_all(b"x").ok()?;
            let change = ev(b.as_raw_fd() as usize, EVFILT_READ, EV_ADD | EV_RECEIPT);
            let answers = queue.call(&[change, read(&a, EV_ADD | EV_CLEAR | EV_RECEIPT)], 8, NOW).ok()?;
            let receipts = answers.iter().all(|answer| answer.flags & EV_ERROR != 0 && { answer.data } == 0);
            Some(receipts && answers.len() == 2 && queue.poll().len() == 1)
        }),
        ("EV_RECEIPT", "no remaining space in eventlist ... then subsequent changes will not get processed", || {
            let (queue, (a, b)) = (Kqueue::new(), pair());
            let changes = [read(&a, EV_ADD | EV_RECEIPT), read(&a, EV_ADD | EV_RECEIPT), read(&b, EV_ADD)];
            let answers = queue.call(&changes, 1, NOW).ok()?;
            Some(answers.len() == 1 && queue.refused(read(&b, EV_DELETE)) == Some(libc::ENOENT))
        }),
        ("EV_ONESHOT", "After the user retrieves the event from the kqueue, it is deleted", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD | EV_ONESHOT));
            b.write_all(b"x").ok()?;
            Some(queue.wait().len() == 1 && queue.refused(read(&a, EV_DELETE)) == Some(libc::ENOENT))
        }),
        ("EV_CLEAR", "Reset the state of the event after it is retrieved by the user", || {
            let (queue, (a, mut b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            b.write_all(b"x").ok()?;
            let first = queue.wait().len();
            let then = queue.poll().len();
            b.write_all(b"x").ok()?;
            Some((first, then, queue.wait().len()) == (1, 0, 1))
        }),
        ("EVFILT_READ", "passed to listen(2) return when there is an incoming connection pending", || {
            let (queue, listener) = (Kqueue::new(), TcpListener::bind("127.0.0.1:0").ok()?);
            queue.change(read(&listener, EV_ADD | EV_CLEAR));
            let before = queue.poll().len();
            let _client = TcpStream::connect(listener.local_addr().ok()?).ok()?;
            Some((before, queue.wait().len()) == (0, 1))
        }),
        ("EVFILT_READ", "If the read direction of the socket has shutdown, then the filter also sets EV_EOF", || {
            let (queue, (a, b)) = (Kqueue::new(), pair());
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            drop(b);
            Some(queue.wait().iter().any(|event| event.flags & EV_EOF != 0))
        }),
        ("EVFILT_WRITE", "will set EV_EOF when the reader disconnects", || {
            let (queue, (reader, writer)) = (Kqueue::new(), io::pipe().ok()?);
            queue.change(ev(writer.as_raw_fd() as usize, EVFILT_WRITE, EV_ADD | EV_CLEAR));
            queue.wait();
            drop(reader);
            Some(queue.wait().iter().any(|event| event.flags & EV_EOF != 0))
        }),
        ("EVFILT_PROC", "The process has exited. The exit status will be stored in data", || {
            let queue = Kqueue::new();
            let child = std::process::Command::new("false").spawn();
            let mut child = child.ok()?;
            queue.change(Kevent { fflags: NOTE_EXIT, ..ev(child.id() as usize, EVFILT_PROC, EV_ADD) });
            let ended = queue.wait().first().is_some_and(|event| event.fflags & NOTE_EXIT != 0);
            child.wait().ok()?;
            Some(ended)
        }),
        ("EVFILT_SIGNAL", "(records a signal that is blocked) ... the number of times the signal has occurred", || {
            let queue = Kqueue::new();
            // SAFETY: the set is filled before it is used.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, libc::SIGUSR1);
                libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            }
            queue.change(ev(libc::SIGUSR1 as usize, EVFILT_SIGNAL, EV_ADD));
            // SAFETY: the signal is blocked.
            unsafe { libc::raise(libc::SIGUSR1) };
            let events = queue.wait();
            Some(events.len() == 1 && { events[0].data } == 1 && queue.poll().is_empty())
        }),
        ("EVFILT_TIMER", "data contains the number of times the timeout has expired since", || {
            let queue = Kqueue::new();
            queue.change(timer(EV_ADD, 2_000_000));
            std::thread::sleep(Duration::from_millis(30));
            Some(queue.wait().first().map(|event| event.data)? > 1)
        }),
        ("EVFILT_TIMER", "The timer will be periodic unless EV_ONESHOT ... is specified (deleting forgets)", || {
            let queue = Kqueue::new();
            queue.change(timer(EV_ADD | EV_ONESHOT, 1_000_000));
            let once = queue.wait().len();
            queue.change(timer(EV_ADD | EV_ONESHOT, 1_000_000));
            std::thread::sleep(Duration::from_millis(20));
            queue.change(timer(EV_DELETE, 0));
            Some(once == 1 && queue.poll().is_empty())
        }),
        ("EVFILT_TIMER", "throwing away any undelivered record of previous timer expiration) and re-started", || {
            let queue = Kqueue::new();
            queue.change(timer(EV_ADD | EV_ONESHOT, 1_000_000));
            std::thread::sleep(Duration::from_millis(20));
            queue.change(timer(EV_ADD | EV_ONESHOT, 3_600_000_000_000));
            let thrown_away = queue.poll().is_empty();
            queue.change(timer(EV_ADD | EV_ONESHOT, 1_000_000));
            Some(thrown_away && queue.wait().len() == 1)
        }),
        ("EVFILT_USER", "NOTE_TRIGGER: Cause the event to be triggered", || {
            let queue = with_user_event()?;
            let before = queue.poll().len();
            queue.change(user(0, NOTE_TRIGGER));
            Some((before, queue.poll().len(), queue.poll().len()) == (0, 1, 0))
        }),
        ("EVFILT_READ", "Kqueues: Returns when pending events are present on the queue", || {
            let (outer, inner, (a, mut b)) = (Kqueue::new(), Kqueue::new(), pair());
            inner.change(read(&a, EV_ADD | EV_CLEAR));
            outer.change(ev(inner.0 as usize, EVFILT_READ, EV_ADD | EV_CLEAR));
            let before = outer.poll().len();
            b.write_all(b"x").ok()?;
            Some((before, outer.wait().len(), inner.poll().len()) == (0, 1, 1))
        }),
        ("RETURN VALUES", "with EV_ERROR set in flags and the system error in data. Otherwise, -1", || {
            let (queue, (a, _b)) = (Kqueue::new(), pair());
            let answer = *queue.call(&[read(&a, EV_DELETE)], 1, NOW).ok()?.first()?;
            let errno: i64 = answer.data as _;
            let told = answer.flags & EV_ERROR != 0 && errno == i64::from(libc::ENOENT);
            Some(told && queue.refused(read(&a, EV_DELETE)) == Some(libc::ENOENT))
        }),
        ("ERRORS", "[EBADF] The specified descriptor is invalid", || {
            // A number that is not open.
            Some(Kqueue::new().refused(ev(900, EVFILT_READ, EV_ADD)) == Some(libc::EBADF))
        }),
        ("ERRORS", "[ESRCH] The specified process to attach to does not exist", || {
            let mut child = std::process::Command::new("true").spawn().ok()?;
            child.wait().ok()?;
            let change = Kevent { fflags: NOTE_EXIT, ..ev(child.id() as usize, EVFILT_PROC, EV_ADD) };
            Some(Kqueue::new().refused(change) == Some(libc::ESRCH))
        }),
        (
            "KQUEUE_CPONFORK",
            "the created kqueue is copied into the child ... the numeric value of the descriptor will remain",
            || {
                let (queue, (a, mut b)) = (copied()?, pair());
                queue.change(read(&duplicate(&a), EV_ADD));
                Some(in_child(|| b.write_all(b"x").is_ok() && queue.wait().len() == 1) && queue.wait().len() == 1)
            },
        ),
        (
            "KQUEUE_CPONFORK",
            "(\"The current active events list is also duplicated\", says commit b11289f87123)",
            || {
                let (queue, (a, mut b)) = (copied()?, pair());
                queue.change(read(&duplicate(&a), EV_ADD | EV_CLEAR));
                b.write_all(b"x").ok()?;
                Some(in_child(|| queue.poll().len() == 1) && queue.poll().len() == 1)
            },
        ),
        ("KQUEUE_CPONFORK", "Copying is deep, that is, each registered event ... is copied (and not shared)", || {
            let (queue, (a, mut b)) = (copied()?, pair());
            let number = duplicate(&a);
            queue.change(read(&number, EV_ADD));
            let child = in_child(|| {
                queue.change(read(&number, EV_DELETE));
                true
            });
            b.write_all(b"x").ok()?;
            Some(child && queue.wait().len() == 1)
        }),
        ("KQUEUE_CPONFORK", "(re-adding in the copy what was copied makes no duplicate there either)", || {
            let (queue, (a, mut b)) = (copied()?, pair());
            let number = duplicate(&a);
            queue.change(read(&number, EV_ADD | EV_CLEAR));
            b.write_all(b"x").ok()?;
            Some(in_child(|| {
                queue.change(read(&number, EV_ADD | EV_CLEAR));
                queue.poll().len() == 1
            }))
        }),
        ("KQUEUE_CPONFORK", "reference file descriptors which are not duplicated on fork, are not copied", || {
            let (queue, (a, mut b)) = (copied()?, pair());
            let number = duplicate(&a);
            set_close_on_fork(number)?;
            queue.change(read(&number, EV_ADD));
            b.write_all(b"x").ok()?;
            Some(in_child(|| queue.poll().is_empty()) && queue.poll().len() == 1)
        }),
        (
            "KQUEUE_CPONFORK",
            "references a kqueue opened without the KQUEUE_CPONFORK flag, the event is not copied",
            || {
                let (queue, inner) = (copied()?, Kqueue::new());
                inner.change(user(EV_ADD, NOTE_TRIGGER));
                inner.change(user(0, NOTE_TRIGGER));
                queue.change(ev(inner.0 as usize, EVFILT_READ, EV_ADD));
                Some(in_child(|| queue.poll().is_empty()) && queue.wait().len() == 1)
            },
        ),
        ("KQUEUE_CPONFORK", "when the flag is not set ... file descriptor indeces are unused in the child", || {
            kqueuex(KQUEUE_CLOEXEC | KQUEUE_CPONFORK)?.map(close).ok()?;
            let queue = Kqueue::new();
            // The first number that is free.
            Some(in_child(|| kqueue().is_ok_and(|fresh| fresh == queue.0)))
        }),
        ("KQUEUE_CPONFORK", "(a user event is copied with its state)", || {
            let queue = copied()?;
            queue.change(user(EV_ADD | EV_CLEAR, 0));
            queue.change(user(0, NOTE_TRIGGER));
            Some(in_child(|| queue.poll().len() == 1) && queue.poll().len() == 1)
        }),
    ];

    /// A queue with a user event, not triggered; `None`: this kernel has no such thing.
    fn with_user_event() -> Option<Kqueue> {
        let queue = Kqueue::new();
        (queue.refused(user(EV_ADD | EV_CLEAR, 0)) != Some(libc::EINVAL)).then_some(queue)
    }

    /// A queue that is copied on fork; `None`: this kernel copies none.
    fn copied() -> Option<Kqueue> {
        kqueuex(KQUEUE_CLOEXEC | KQUEUE_CPONFORK)?.ok().map(Kqueue)
    }

    /// A number for the same object that is not close-on-exec, never closed.
    fn duplicate(fd: &impl AsRawFd) -> RawFd {
        // SAFETY: no memory is involved.
        unsafe { libc::dup(fd.as_raw_fd()) }
    }

    /// Marks a number as close-on-fork; `None`: this system has no such thing.
    fn set_close_on_fork(number: RawFd) -> Option<()> {
        #[cfg(forkio_kqueue)]
        {
            forkio_reactor::testing::kqueue::set_close_on_fork(number);
            Some(())
        }
        #[cfg(target_os = "freebsd")]
        {
            /// fcntl.h, since 15.0; older systems ignore or refuse it.
            const FD_CLOFORK: libc::c_int = 4;
            // SAFETY: no memory is involved.
            unsafe {
                libc::fcntl(number, libc::F_SETFD, FD_CLOFORK);
                (libc::fcntl(number, libc::F_GETFD) & FD_CLOFORK != 0).then_some(())
            }
        }
        #[cfg(not(any(forkio_kqueue, target_os = "freebsd")))]
        {
            let _ = number;
            None
        }
    }

    /// Whether the copy has events of close-on-exec descriptors, which the manual of July 2026 denies.
    fn copies_close_on_exec() -> Option<bool> {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD));
        Some(in_child(|| b.write_all(b"x").is_ok() && !queue.poll().is_empty()))
    }

    pub(super) fn main() {
        let mut failed = 0;
        for (section, sentence, check) in SENTENCES {
            let result = catch_unwind(AssertUnwindSafe(check));
            let verdict = match result {
                Ok(Some(true)) => "holds",
                Ok(None) => "not here",
                Ok(Some(false)) | Err(_) => {
                    failed += 1;
                    "FAILS"
                }
            };
            println!("{verdict:8} {section}: {sentence}");
        }
        match copies_close_on_exec() {
            Some(copied) => {
                println!("answer   KQUEUE_CPONFORK: events of close-on-exec descriptors are copied: {copied}")
            }
            None => println!("answer   KQUEUE_CPONFORK: this kernel does not copy queues; the table is replayed"),
        }
        // A model's cost says nothing.
        let sizes: &[usize] = if cfg!(forkio_kqueue) { &[10] } else { &[0, 10, 1_000] };
        for &registrations in sizes {
            cost_of_a_fork(registrations);
        }
        println!("{} hold or are not here, {failed} fail", SENTENCES.len() - failed);
        std::process::exit(i32::from(failed > 0));
    }

    /// Medians over some forks, in microseconds.
    fn cost_of_a_fork(registrations: usize) {
        const ROUNDS: usize = 21;
        let poll = Poll::new().expect("a selector");
        let mut sockets: Vec<_> = (0..registrations)
            .map_while(|_| UdpSocket::bind("127.0.0.1:0").ok())
            .map(forkio_reactor::net::UdpSocket::from_std)
            .collect();
        for (index, socket) in sockets.iter_mut().enumerate() {
            poll.registry().register(socket, Token(index), Interest::READABLE).expect("registering");
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1e6
        };
        let (mut prepared_in, mut ready_in, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (mut reader, mut writer) = io::pipe().expect("a pipe");
            let mut tell = |since: Instant| {
                let nanos = since.elapsed().as_nanos() as u64;
                let _ = writer.write_all(&nanos.to_ne_bytes());
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(0) };
            };
            let mut hear = || {
                let mut nanos = [0; 8];
                reader.read_exact(&mut nanos).expect("the child's time");
                let mut status = 0;
                // SAFETY: the kernel writes the status.
                unsafe { libc::waitpid(-1, &mut status, 0) };
                Duration::from_nanos(u64::from_ne_bytes(nanos))
            };
            let blocked = block_signals();
            let start = Instant::now();
            let prepared = prepare().expect("preparing");
            prepared_in.push(start.elapsed());
            let start = Instant::now();
            // SAFETY: this process has one thread, and signals are blocked.
            match unsafe { prepared.fork() }.expect("forking") {
                ForkResult::Child => tell(start),
                ForkResult::Parent { .. } => ready_in.push(hear()),
            }
            drop(blocked);
            let start = Instant::now();
            // SAFETY: as above.
            match unsafe { libc::fork() } {
                0 => tell(start),
                _ => bare.push(hear()),
            }
        }
        println!(
            "fork     {:5} registrations: prepare {:.0} us, child ready after {:.0} us (bare fork {:.0} us)",
            sockets.len(),
            median(prepared_in),
            median(ready_in),
            median(bare)
        );
    }
}
