//! The sentences about `KQUEUE_CPONFORK`. No check puts a timer in a queue with the flag, because of CVE-2026-58083.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::process::{Command, Stdio};

use crate::Sentence;
use crate::kernel::*;
use crate::tools::*;

pub(crate) const SENTENCES: &[Sentence] = &[
    (
        "KQUEUE_CPONFORK",
        "the created kqueue is copied into the child ... the numeric value of the descriptor will remain",
        || {
            let (queue, (a, mut b)) = (copied()?, pair());
            queue.change(kevent_of(a.as_raw_fd() as usize, EVFILT_READ, EV_ADD, 5));
            let is_seen = |queue: &Kqueue| matches!(queue.wait()[..], [event] if event.udata as usize == 5);
            Some(in_child(|| b.write_all(b"x").is_ok() && is_seen(&queue)) && is_seen(&queue))
        },
    ),
    ("KQUEUE_CPONFORK", "(\"The current active events list is also duplicated\", says commit b11289f87123)", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD | EV_CLEAR));
        b.write_all(b"x").ok()?;
        Some(in_child(|| queue.poll().len() == 1) && queue.poll().len() == 1)
    }),
    ("KQUEUE_CPONFORK", "Copying is deep, that is, each registered event ... is copied (and not shared)", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD));
        let child = in_child(|| {
            queue.change(read(&a, EV_DELETE));
            true
        });
        b.write_all(b"x").ok()?;
        Some(child && queue.wait().len() == 1)
    }),
    ("KQUEUE_CPONFORK", "reference file descriptors which are not duplicated on fork, are not copied", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        let fd = duplicate(&a);
        set_close_on_fork(fd)?;
        queue.change(read(&fd, EV_ADD));
        b.write_all(b"x").ok()?;
        let missing = || queue.poll().is_empty() && queue.refused(read(&fd, EV_DELETE)) == Some(libc::EBADF);
        Some(in_child(missing) && queue.poll().len() == 1)
    }),
    ("KQUEUE_CPONFORK", "when the flag is not set ... file descriptor indeces are unused in the child", || {
        with_flag()?;
        let queue = Kqueue::new();
        Some(in_child(|| descriptor_flags(queue.0).is_none()))
    }),
    ("15.1", "a queue that also has KQUEUE_CLOEXEC is copied, and the copy is close-on-exec", || {
        let queue = copied()?;
        Some(in_child(|| descriptor_flags(queue.0) == Some(libc::FD_CLOEXEC) && queue.poll().is_empty()))
    }),
    ("15.1", "a queue that is close-on-fork is not copied", || {
        let queue = copied()?;
        set_close_on_fork(queue.0)?;
        Some(in_child(|| descriptor_flags(queue.0).is_none()))
    }),
    ("15.1", "at RLIMIT_KQUEUES, fork(2) succeeds, and the child does not have the queue", || {
        let queue = with_flag()?;
        let again = reach_limit()?;
        let is_missing = in_child(|| {
            let is_missing = descriptor_flags(queue.0).is_none();
            again();
            is_missing && kqueue().is_ok()
        });
        again();
        Some(is_missing && queue.poll().is_empty())
    }),
    ("15.1", "a duplicate of a queue's descriptor is another queue in the child", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD | EV_CLEAR));
        let other = Kqueue(duplicate(&queue));
        b.write_all(b"x").ok()?;
        let both = || (other.poll().len(), queue.poll().len());
        Some(in_child(|| both() == (1, 1)) && both() == (1, 0))
    }),
    ("15.1", "events of close-on-exec descriptors are copied", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD));
        let is_close_on_exec = descriptor_flags(a.as_raw_fd()) == Some(libc::FD_CLOEXEC);
        Some(is_close_on_exec && in_child(|| b.write_all(b"x").is_ok() && queue.wait().len() == 1))
    }),
    ("15.1", "a taken EV_CLEAR event that is still ready: the copy reports it only after EV_ADD, once", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD | EV_CLEAR));
        b.write_all(b"x").ok()?;
        queue.wait();
        Some(in_child(|| {
            let before = queue.poll().len();
            queue.change(read(&a, EV_ADD | EV_CLEAR));
            (before, queue.poll().len(), queue.poll().len()) == (0, 1, 0)
        }))
    }),
    ("15.1", "the copy reports a taken event without EV_CLEAR that is still ready", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD));
        b.write_all(b"x").ok()?;
        queue.wait();
        Some(in_child(|| queue.poll().len() == 1))
    }),
    ("15.1", "the copy reports an active EVFILT_WRITE event, and not a taken one", || {
        let (queue, (a, c)) = (copied()?, pair());
        queue.change(write(&a, EV_ADD | EV_CLEAR));
        queue.change(write(&c, EV_ADD | EV_CLEAR));
        let first = queue.call(&[], 1, NOW).ok()?.first()?.ident;
        let is_other = || matches!(queue.poll()[..], [event] if { event.ident } != first);
        Some(in_child(is_other) && is_other())
    }),
    ("15.1", "parent and child see the end of a stream after the fork", || {
        let (queue, (a, b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD | EV_CLEAR));
        let ended = |queue: &Kqueue| queue.wait().iter().any(|event| event.flags & EV_EOF != 0);
        let shut_down = || b.shutdown(std::net::Shutdown::Both).expect("shutting down");
        Some(in_both(shut_down, || ended(&queue)) && ended(&queue))
    }),
    ("15.1", "a disabled event is disabled in the copy, and can be enabled", || {
        /// The backend does not use this flag, so `kernel` lacks it.
        const EV_DISABLE: Flags = 0x8;
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD));
        queue.change(read(&a, EV_DISABLE));
        b.write_all(b"x").ok()?;
        Some(in_child(|| {
            let before = queue.poll().len();
            queue.change(read(&a, EV_ENABLE));
            (before, queue.poll().len()) == (0, 1)
        }))
    }),
    ("15.1", "EV_ONESHOT fires once in each process", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD | EV_ONESHOT));
        let fires_once = |queue: &Kqueue| (queue.wait().len(), queue.poll().len()) == (1, 0);
        Some(in_child(|| b.write_all(b"x").is_ok() && fires_once(&queue)) && fires_once(&queue))
    }),
    ("15.1", "closing a descriptor in the child removes its event in the child only", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD));
        let fd = a.as_raw_fd();
        Some(
            in_child(|| {
                close(fd);
                b.write_all(b"x").is_ok() && queue.poll().is_empty()
            }) && queue.wait().len() == 1,
        )
    }),
    ("15.1", "dup2(2) in the child removes the event in the child, and a new one can be added", || {
        let (queue, (a, mut b), (c, mut d)) = (copied()?, pair(), pair());
        queue.change(read(&a, EV_ADD));
        let fd = a.as_raw_fd();
        d.write_all(b"x").ok()?;
        Some(
            in_child(|| {
                // SAFETY: the child owns both descriptors, and does not use the first stream any more.
                unsafe { libc::dup2(c.as_raw_fd(), fd) };
                let before = queue.poll().len();
                queue.change(read(&fd, EV_ADD));
                b.write_all(b"x").is_ok() && (before, queue.wait().len()) == (0, 1)
            }) && queue.wait().len() == 1,
        )
    }),
    ("15.1", "two queues with an event of one descriptor are both copied", || {
        let (queues, (a, mut b)) = ([copied()?, copied()?], pair());
        queues.iter().for_each(|queue| queue.change(read(&a, EV_ADD | EV_CLEAR)));
        Some(in_child(|| b.write_all(b"x").is_ok() && queues.iter().all(|queue| queue.wait().len() == 1)))
    }),
    ("15.1", "a copy is copied again", || {
        let (queue, (a, mut b)) = (copied()?, pair());
        queue.change(read(&a, EV_ADD | EV_CLEAR));
        Some(in_child(|| in_child(|| b.write_all(b"x").is_ok() && queue.wait().len() == 1) && queue.wait().len() == 1))
    }),
    ("15.1", "the copy works after the parent has closed queue and descriptor", || {
        let (queue, (a, mut b)) = (ManuallyDrop::new(copied()?), pair());
        let watched = a.into_raw_fd();
        queue.change(read(&watched, EV_ADD | EV_CLEAR));
        let close_both = || {
            close(queue.0);
            close(watched);
        };
        Some(in_both(close_both, || b.write_all(b"x").is_ok() && queue.wait().len() == 1))
    }),
    ("15.1", "EVFILT_PROC of a third process is reported to parent and child", || {
        let queue = copied()?;
        let mut third = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok()?;
        queue.change(Kevent { fflags: NOTE_EXIT, ..ev(third.id() as usize, EVFILT_PROC, EV_ADD) });
        let ended = |queue: &Kqueue| queue.wait().iter().any(|event| event.fflags & NOTE_EXIT != 0);
        let held = in_both(|| third.kill().expect("ending a process"), || ended(&queue));
        let held = held && ended(&queue);
        third.wait().ok()?;
        Some(held)
    }),
    ("15.1", "EVFILT_USER is not copied: a trigger in the child gives ENOENT", || {
        let queue = copied()?;
        queue.change(user(EV_ADD | EV_CLEAR, 0));
        Some(in_child(|| queue.refused(user(0, NOTE_TRIGGER)) == Some(libc::ENOENT)))
    }),
    ("15.1", "a pending trigger of EVFILT_USER is lost in the child", || {
        let queue = copied()?;
        queue.add_and_trigger();
        Some(in_child(|| queue.poll().is_empty()) && queue.poll().len() == 1)
    }),
    ("15.1", "EVFILT_USER after EV_ADD in the child works in the child, and not in the parent", || {
        let queue = copied()?;
        queue.change(user(EV_ADD | EV_CLEAR, 0));
        let works = || {
            queue.add_and_trigger();
            queue.poll().len() == 1
        };
        Some(in_child(works) && queue.poll().is_empty())
    }),
];

/// Keeps the kernel from copying queues until the returned function is called. Returns `None` if this system does not
/// limit the number of queues.
fn reach_limit() -> Option<impl Fn()> {
    #[cfg(target_os = "linux")]
    {
        forkio_kqueue_model::inject(forkio_kqueue_model::Call::Copy, 0, libc::ENOMEM);
        Some(|| forkio_kqueue_model::inject(forkio_kqueue_model::Call::Copy, 0, 0))
    }
    #[cfg(target_os = "freebsd")]
    {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel fills the structure.
        let result = unsafe { libc::getrlimit(libc::RLIMIT_KQUEUES, &mut before) };
        // The user has at least one queue. A limit of 0 would mean that there is no limit.
        let one = libc::rlimit { rlim_cur: 1, ..before };
        // SAFETY: the kernel reads the structure.
        let result = result | unsafe { libc::setrlimit(libc::RLIMIT_KQUEUES, &one) };
        (result == 0).then_some(move || {
            // SAFETY: the kernel reads the structure.
            unsafe { libc::setrlimit(libc::RLIMIT_KQUEUES, &before) };
        })
    }
    #[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
    None::<fn()>
}
