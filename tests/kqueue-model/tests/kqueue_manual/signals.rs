//! The sentences about signals.

use crate::Sentence;
use crate::kernel::*;
use crate::tools::*;

pub(crate) const SENTENCES: &[Sentence] = &[
    ("EVFILT_SIGNAL", "(records a signal that is blocked) ... the number of times the signal has occurred", || {
        let queue = Kqueue::new();
        block(libc::SIGUSR1);
        queue.change(ev(libc::SIGUSR1 as usize, EVFILT_SIGNAL, EV_ADD));
        raise(libc::SIGUSR1);
        let events = queue.wait();
        take(libc::SIGUSR1);
        Some(events.len() == 1 && { events[0].data } == 1 && queue.poll().is_empty())
    }),
    ("15.1", "a signal that is pending when the event is added is not reported", || {
        let queue = Kqueue::new();
        block(libc::SIGUSR2);
        raise(libc::SIGUSR2);
        queue.change(signal(EV_ADD));
        let before = queue.poll().len();
        take(libc::SIGUSR2);
        raise(libc::SIGUSR2);
        let after = queue.wait().len();
        take(libc::SIGUSR2);
        Some((before, after) == (0, 1))
    }),
    ("15.1", "a copied EVFILT_SIGNAL does not report the child's signals", || {
        let queue = with_signal()?;
        Some(in_child(|| {
            raise(libc::SIGUSR2);
            queue.poll().is_empty()
        }))
    }),
    ("15.1", "a copied EVFILT_SIGNAL reports the parent's signals", || {
        let queue = with_signal()?;
        let held = in_both(|| raise(libc::SIGUSR2), || queue.wait().len() == 1 && queue.poll().is_empty());
        let held = held && queue.wait().len() == 1;
        take(libc::SIGUSR2);
        Some(held)
    }),
    ("15.1", "EV_ADD of a copied EVFILT_SIGNAL does not make it report the child's signals", || {
        let queue = with_signal()?;
        Some(in_child(|| {
            queue.change(signal(EV_ADD));
            raise(libc::SIGUSR2);
            queue.poll().is_empty()
        }))
    }),
    ("15.1", "EV_DELETE and EV_ADD of a copied EVFILT_SIGNAL make it report the child's signals", || {
        let queue = with_signal()?;
        Some(in_child(|| {
            queue.change(signal(EV_DELETE));
            queue.change(signal(EV_ADD));
            raise(libc::SIGUSR2);
            queue.wait().len() == 1
        }))
    }),
];

fn signal(flags: Flags) -> Kevent {
    ev(libc::SIGUSR2 as usize, EVFILT_SIGNAL, flags)
}

/// Opens a queue that is copied on fork, with an event of a signal that is blocked.
fn with_signal() -> Option<Kqueue> {
    let queue = copied()?;
    block(libc::SIGUSR2);
    queue.change(signal(EV_ADD));
    Some(queue)
}
