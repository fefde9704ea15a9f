//! The cases. Each runs with every kernel.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use forkio_kqueue_model::{self as model, Call, Kernel};

use crate::kernel::*;
use crate::tools::*;

type Case = (&'static str, fn(Kernel));

pub(crate) const CASES: &[Case] = &[
    ("calls fail after a given number of calls", injected_errors),
    ("changes are counted from the fork on", counted_changes),
    ("a queue's descriptors are listed", listed_descriptors),
    ("the model's descriptors are not counted as the program's", own_descriptors),
    ("a duplicate is found, and a queue without a descriptor is gone", duplicates),
    ("a mark for close-on-fork ends with the descriptor", closed_mark),
    ("on FreeBSD, a new queue in the child does not reuse the descriptor of a dropped one", dropped_descriptor),
    ("at the limit, the child does not have the queue, and can create one", missing_copy),
    ("timers are copied, or end the child", timers),
    ("the child of a fork without handlers has its own queues", fork_without_handlers),
    ("answers that differ between kernels", other_answers),
    ("a signal event is active in parent and child", active_signal),
];

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn injected_errors(kernel: Kernel) {
    model::inject(Call::Create, 1, libc::ENFILE);
    let queue = Kqueue::new();
    assert_eq!(errno(kqueue()), Some(libc::ENFILE));
    model::inject(Call::Create, 0, 0);
    drop(Kqueue::new());

    let (a, b) = pair();
    model::inject(Call::Change, 1, libc::ENOMEM);
    queue.change(read(&a, EV_ADD));
    assert_eq!(queue.refused(read(&b, EV_ADD)), Some(libc::ENOMEM));
    let answer = queue.call(&[read(&b, EV_ADD)], 1, NOW).unwrap()[0];
    assert_eq!((answer.flags, answer.data), (EV_ERROR, libc::ENOMEM.into()));
    model::inject(Call::Change, 0, 0);
    queue.change(read(&b, EV_ADD));

    if kernel.is_copying() && kernel != Kernel::AtLimit {
        let queues = [copied().unwrap(), Kqueue::new(), copied().unwrap()];
        model::inject(Call::Copy, 1, libc::ENOMEM);
        let is_there = || queues.each_ref().map(|queue| descriptor_flags(queue.0).is_some());
        assert!(in_child(|| is_there() == [true, false, false]));
        model::inject(Call::Copy, 0, 0);
        assert!(in_child(|| is_there() == [true, false, true]));
    }
}

fn counted_changes(_: Kernel) {
    let (queue, (a, b)) = (ManuallyDrop::new(with_flag().unwrap_or_else(Kqueue::new)), pair());
    model::reset_changes();
    queue.call(&[read(&a, EV_ADD), read(&b, EV_ADD | EV_RECEIPT), read(&b, EV_DELETE)], 3, NOW).unwrap();
    queue.poll();
    // A refused change counts, too.
    assert_eq!(queue.refused(ev(900, EVFILT_READ, EV_ADD)), Some(libc::EBADF));
    assert_eq!(model::changes(), 4);
    assert!(in_child(|| {
        let before = model::changes();
        Kqueue::new().change(read(&a, EV_ADD));
        (before, model::changes()) == (0, 1)
    }));
    assert_eq!(model::changes(), 4);
    model::reset_changes();
    assert_eq!(model::changes(), 0);
    close(queue.0);
}

fn listed_descriptors(_: Kernel) {
    let (queue, (a, b)) = (Kqueue::new(), pair());
    queue.change(kevent_of(a.as_raw_fd() as usize, EVFILT_READ, EV_ADD, 5));
    queue.change(kevent_of(a.as_raw_fd() as usize, EVFILT_WRITE, EV_ADD, 5));
    queue.change(kevent_of(b.as_raw_fd() as usize, EVFILT_WRITE, EV_ADD, 6));
    assert_eq!(model::watched(queue.0), [(a.as_raw_fd(), 5), (b.as_raw_fd(), 6)]);
    let fd = a.as_raw_fd();
    drop(a);
    assert_eq!(model::watched(queue.0), [(b.as_raw_fd(), 6)]);
    assert_eq!(model::watched(fd), []);
}

/// Returns the descriptors of this process without those of the model.
fn visible() -> Vec<RawFd> {
    let own = model::own();
    let is_visible = |fd: &RawFd| descriptor_flags(*fd).is_some() && !own.contains(fd);
    (0..1000).filter(is_visible).collect()
}

fn own_descriptors(_: Kernel) {
    let before = visible();
    let (queue, (a, b)) = (Kqueue::new(), pair());
    queue.change(ev(libc::SIGUSR2 as usize, EVFILT_SIGNAL, EV_ADD));
    queue.change(Kevent { fflags: NOTE_EXIT, ..ev(std::process::id() as usize, EVFILT_PROC, EV_ADD) });
    queue.change(timer(EV_ADD, 1_000_000_000));
    let mut expected = before.clone();
    expected.extend([queue.0, a.as_raw_fd(), b.as_raw_fd()]);
    expected.sort_unstable();
    assert_eq!(visible(), expected);
    assert!(model::own().iter().all(|fd| model::owns(*fd)) && !model::owns(queue.0));
    assert!(!model::is_working());
    drop((queue, a, b));
    assert_eq!(visible(), before);
}

fn duplicates(_: Kernel) {
    let (queue, (a, mut b)) = (Kqueue::new(), pair());
    queue.change(read(&a, EV_ADD));
    let other = Kqueue(duplicate(&queue));
    let before = model::own();
    drop(queue);
    b.write_all(b"x").unwrap();
    assert_eq!(other.wait().len(), 1);
    assert_eq!(errno(other.call(&[], 0, NOW)), None);
    let fd = other.0;
    drop(other);
    assert_eq!(model::watched(fd), []);
    // A fork detects that the queue is gone.
    assert!(in_child(|| true));
    assert!(model::own().is_disjoint(&before));
}

fn closed_mark(_: Kernel) {
    let (a, _b) = pair();
    set_close_on_fork(a.as_raw_fd());
    assert!(in_child(|| descriptor_flags(a.as_raw_fd()).is_none()));
    let fd = a.as_raw_fd();
    drop(a);
    let (c, _d) = pair();
    assert_eq!(c.as_raw_fd(), fd);
    assert!(in_child(|| descriptor_flags(fd).is_some()));

    let queue = Kqueue::new();
    set_close_on_fork(queue.0);
    let fd = queue.0;
    drop(queue);
    let (c, d) = pair();
    assert_eq!(c.as_raw_fd(), fd);
    assert!(in_child(|| descriptor_flags(fd).is_some()));
    drop((c, d));
    if let Some(queue) = copied() {
        assert_eq!(queue.0, fd);
        assert!(in_child(|| queue.poll().is_empty()));
    }
}

fn dropped_descriptor(kernel: Kernel) {
    let (queue, fresh) = (Kqueue::new(), Kqueue::new().0);
    assert!(fresh > queue.0);
    assert!(in_child(|| {
        let first = kqueue().unwrap();
        let is_first_free = first == queue.0;
        // The program puts the new queue at that descriptor, and closes it.
        // SAFETY: the descriptor is free, or is the new queue itself.
        let placed = unsafe { libc::dup2(first, queue.0) };
        let works = Kqueue(placed).call(&[], 0, NOW).is_ok();
        works && is_first_free != kernel.is_freebsd()
    }));
}

fn missing_copy(kernel: Kernel) {
    let Some(queue) = with_flag() else { return };
    assert!(in_child(|| descriptor_flags(queue.0).is_some() == (kernel != Kernel::AtLimit) && kqueue().is_ok()));
}

fn timers(kernel: Kernel) {
    let (queue, plain) = (with_flag(), Kqueue::new());
    plain.change(timer(EV_ADD, 1_000_000));
    assert!(in_child(|| descriptor_flags(plain.0).is_none()));
    let Some(queue) = queue else { return };
    queue.change(timer(EV_ADD | EV_ONESHOT, 20_000_000));
    match kernel {
        Kernel::UnsafeTimers => {
            // SAFETY: this process has one thread.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: the call ends the process.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: the kernel writes the status.
            unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!(ExitStatus::from_raw(status).signal(), Some(libc::SIGABRT));
        }
        Kernel::Copying => {
            let expires_once = || (queue.wait().len(), queue.poll().len()) == (1, 0);
            assert!(in_child(expires_once) && expires_once());
            queue.change(timer(EV_ADD | EV_ONESHOT, 1));
            std::thread::sleep(Duration::from_millis(5));
            // The timer is due, and its event was not taken.
            assert!(in_child(expires_once) && expires_once());
            queue.change(timer(EV_ADD, 1_000_000));
            let expires_again = || queue.wait().len() + queue.wait().len() == 2;
            assert!(in_child(expires_again) && expires_again());
        }
        _ => {}
    }
}

fn fork_without_handlers(kernel: Kernel) {
    let (queue, plain, (a, mut b)) = (with_flag(), Kqueue::new(), pair());
    let Some(queue) = queue.filter(|_| kernel != Kernel::AtLimit) else { return };
    queue.change(read(&a, EV_ADD | EV_CLEAR));
    // SAFETY: this process has one thread, and the child ends with `_exit`.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if child == 0 {
        let is_own = || {
            b.write_all(b"x").unwrap();
            let seen = queue.wait().len();
            queue.change(read(&a, EV_DELETE));
            seen == 1 && descriptor_flags(plain.0).is_none()
        };
        let is_own = std::panic::catch_unwind(std::panic::AssertUnwindSafe(is_own)).unwrap_or(false);
        // SAFETY: the call ends the process.
        unsafe { libc::_exit(i32::from(!is_own)) };
    }
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    unsafe { libc::waitpid(child as i32, &mut status, 0) };
    assert_eq!((status, queue.wait().len()), (0, 1));
    plain.change(read(&a, EV_ADD));
}

fn other_answers(kernel: Kernel) {
    let (queue, (a, _b)) = (Kqueue::new(), pair());
    let process_0 = queue.refused(Kevent { fflags: NOTE_EXIT, ..ev(0, EVFILT_PROC, EV_ADD) });
    assert_eq!(process_0, if kernel.is_freebsd() { None } else { Some(libc::ESRCH) });
    let no_queue = ManuallyDrop::new(Kqueue(a.as_raw_fd()));
    let expected = if kernel.is_freebsd() { libc::EINVAL } else { libc::EBADF };
    assert_eq!(errno(no_queue.call(&[], 0, NOW)), Some(expected));
    assert_eq!(fstat(queue.0).unwrap().st_mode & libc::S_IFMT == libc::S_IFIFO, kernel.is_freebsd());
    assert_eq!(with_user_event().is_none(), kernel == Kernel::NoUserEvents);
    let kqueuex = |flags| kqueuex(flags).map(errno);
    let (plain, flag) = match kernel {
        Kernel::Dropping | Kernel::NoUserEvents => (None, None),
        Kernel::Einval => (Some(None), Some(Some(libc::EINVAL))),
        _ => (Some(None), Some(None)),
    };
    assert_eq!((kqueuex(KQUEUE_CLOEXEC), kqueuex(KQUEUE_CPONFORK)), (plain, flag));
}

fn active_signal(_: Kernel) {
    let Some(queue) = copied() else { return };
    block(libc::SIGUSR2);
    queue.change(ev(libc::SIGUSR2 as usize, EVFILT_SIGNAL, EV_ADD));
    raise(libc::SIGUSR2);
    let is_reported_once = || (queue.wait().len(), queue.poll().len()) == (1, 0);
    assert!(in_child(is_reported_once) && is_reported_once());
    queue.change(ev(libc::SIGUSR2 as usize, EVFILT_SIGNAL, EV_ADD));
    assert!(queue.poll().is_empty());
    take(libc::SIGUSR2);
}
