//! The sentences that are about neither signals nor copies of queues.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::Sentence;
use crate::kernel::*;
use crate::tools::*;

pub(crate) const SENTENCES: &[Sentence] = &[
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
        // SAFETY: the list has twenty changes, and room for twenty events.
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
    ("EV_ADD", "(reports an event again that was retrieved with EV_CLEAR and is still ready)", || {
        let (queue, (a, mut b)) = (Kqueue::new(), pair());
        queue.change(read(&a, EV_ADD | EV_CLEAR));
        b.write_all(b"x").ok()?;
        let first = queue.wait().len();
        queue.change(read(&a, EV_ADD | EV_CLEAR));
        Some((first, queue.poll().len()) == (1, 1))
    }),
    ("EV_KEEPUDATA", "(without it, any change sets udata, so the backend passes udata with each change)", || {
        let queue = with_user_event()?;
        queue.change(Kevent { udata: 5_usize as _, ..user(EV_ADD | EV_CLEAR, 0) });
        queue.change(Kevent { udata: 5_usize as _, ..user(0, NOTE_TRIGGER) });
        Some(queue.wait().first()?.udata as usize == 5)
    }),
    ("EV_ENABLE", "(does not change an enabled event, and gives ENOENT for a missing event)", || {
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
    ("EVFILT_TIMER", "data contains the number of times the timeout has expired since", || {
        let queue = Kqueue::new();
        queue.change(timer(EV_ADD, 2_000_000));
        std::thread::sleep(Duration::from_millis(30));
        Some(queue.wait().first().map(|event| event.data)? > 1)
    }),
    ("EVFILT_TIMER", "The timer will be periodic unless EV_ONESHOT ... is specified (deleting drops events)", || {
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
        // Descriptor 900 is not open.
        Some(Kqueue::new().refused(ev(900, EVFILT_READ, EV_ADD)) == Some(libc::EBADF))
    }),
    ("ERRORS", "[ESRCH] The specified process to attach to does not exist", || {
        let mut child = std::process::Command::new("true").spawn().ok()?;
        child.wait().ok()?;
        let change = Kevent { fflags: NOTE_EXIT, ..ev(child.id() as usize, EVFILT_PROC, EV_ADD) };
        Some(Kqueue::new().refused(change) == Some(libc::ESRCH))
    }),
    ("15.1", "EV_ADD with NOTE_TRIGGER in one change does not trigger; a second change does", || {
        let queue = with_user_event()?;
        queue.change(user(EV_DELETE, 0));
        queue.change(user(EV_ADD | EV_CLEAR, NOTE_TRIGGER));
        let in_one = queue.poll().len();
        queue.change(user(0, NOTE_TRIGGER));
        Some((in_one, queue.poll().len()) == (0, 1))
    }),
    ("15.1", "EVFILT_WRITE of a queue gives EINVAL", || {
        freebsd()?;
        let (queue, inner) = (Kqueue::new(), Kqueue::new());
        Some(queue.refused(write(&inner, EV_ADD)) == Some(libc::EINVAL))
    }),
    ("15.1", "kevent(2) on a descriptor that is not a queue gives EINVAL, on one that is not open EBADF", || {
        freebsd()?;
        let (a, _b) = pair();
        let errno = |fd| {
            // SAFETY: there is no change, and no room for events.
            let result = unsafe { kevent(fd, std::ptr::null(), 0, std::ptr::null_mut(), 0, NOW) };
            result.err().and_then(|error| error.raw_os_error())
        };
        let queue = Kqueue::new();
        let answers = (errno(queue.0), errno(a.as_raw_fd()), errno(900));
        Some(answers == (None, Some(libc::EINVAL), Some(libc::EBADF)))
    }),
    ("15.1", "fstat(2) of a queue gives S_IFIFO", || {
        freebsd()?;
        Some(fstat(Kqueue::new().0).ok()?.st_mode & libc::S_IFMT == libc::S_IFIFO)
    }),
    ("15.1", "fstat(2) of TCP and UDP sockets gives device 0 and inode 0; F_KINFO identifies the socket", || {
        freebsd()?;
        let (listener, udp) = (TcpListener::bind("127.0.0.1:0").ok()?, UdpSocket::bind("127.0.0.1:0").ok()?);
        let client = TcpStream::connect(listener.local_addr().ok()?).ok()?;
        let sockets = [listener.as_raw_fd(), udp.as_raw_fd(), client.as_raw_fd()];
        let are_alike = sockets.iter().all(|fd| fstat(*fd).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (0, 0)));
        let known: Vec<u64> = sockets.iter().filter_map(|fd| socket_pcb(*fd)).collect();
        let differ = known.len() == 3 && known[0] != known[1] && known[1] != known[2] && known[0] != known[2];
        let duplicate = udp.try_clone().ok()?;
        Some(are_alike && differ && socket_pcb(duplicate.as_raw_fd()) == Some(known[1]))
    }),
    ("15.1", "process 0 exists", || {
        freebsd()?;
        let queue = Kqueue::new();
        queue.change(Kevent { fflags: NOTE_EXIT, ..ev(0, EVFILT_PROC, EV_ADD) });
        Some(queue.poll().is_empty())
    }),
];
