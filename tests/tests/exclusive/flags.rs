//! The flag `EPOLLEXCLUSIVE` in the kernel's queue.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;

use forkio_reactor::fork::glue::{mute, rearm_exclusive, set_exclusive, unmute};
use forkio_tests::reactor::*;

use crate::wakes::{LISTENER, listen, wait_until_asleep};

/// Whether the kernel watches the listener exclusively. `None` if the kernel does not watch it.
fn is_exclusive(listener: &TcpListener) -> Option<bool> {
    let watching = exclusive_in_kernel(listener.as_raw_fd()).expect("a list of the kernel");
    watching.first().copied()
}

scenarios!(
    /// `set_exclusive` sets and clears the kernel's flag, in parent and child. Changes of interest and muting keep the flag.
    /// `rearm_exclusive` makes the kernel report a waiting connection again.
    fn kernel_flags() {
        let mut selector = Poll::new().unwrap();
        let mut listener = listen(&selector);
        check_eq("at first", is_exclusive(&listener), Some(false));
        set_exclusive(&listener, true).unwrap();
        check_eq("set", is_exclusive(&listener), Some(true));
        let interests: Vec<_> = registrations().iter().map(|registration| registration.interest).collect();
        check_eq("the listed interest", interests, vec![Interest::READABLE]);

        let both = Interest::READABLE | Interest::WRITABLE;
        selector.registry().reregister(&mut listener, Token(LISTENER), both).unwrap();
        check_eq("with another interest", is_exclusive(&listener), Some(true));
        selector.registry().reregister(&mut listener, Token(LISTENER), Interest::READABLE).unwrap();

        mute(&listener).unwrap();
        check_eq("muted", is_exclusive(&listener), None);
        set_exclusive(&listener, true).unwrap();
        check_eq("still muted", is_exclusive(&listener), None);
        in_child(|| {
            check_eq("in the child", is_exclusive(&listener), Some(true));
            set_exclusive(&listener, false).unwrap();
            check_eq("unset in the child", is_exclusive(&listener), Some(false));
        });
        unmute(&listener).unwrap();
        check_eq("armed again", is_exclusive(&listener), Some(true));

        // An event that was reported comes again only after `rearm_exclusive`.
        let _first = connect(&listener);
        check_eq("a connection", wait(&mut selector), tokens([LISTENER]));
        check_eq("the same connection", ready(&mut selector), tokens([]));
        rearm_exclusive().unwrap();
        check_eq("rearmed", wait(&mut selector), tokens([LISTENER]));

        set_exclusive(&listener, false).unwrap();
        check_eq("unset", is_exclusive(&listener), Some(false));
        check_eq("unset while a connection waits", wait(&mut selector), tokens([LISTENER]));
        rearm_exclusive().unwrap();
        check_eq("not exclusive, so not rearmed", ready(&mut selector), tokens([]));

        selector.registry().deregister(&mut listener).unwrap();
        check_eq("not registered", set_exclusive(&listener, true).unwrap_err().kind(), ErrorKind::NotFound);
        register(selector.registry(), &mut listener, LISTENER);
        check_eq("registered again", is_exclusive(&listener), Some(false));
    }

    /// The kernel refuses exclusive wakes together with priority interest. A refused change changes nothing.
    fn refused_change_changes_nothing() {
        let mut selector = Poll::new().unwrap();
        let mut listener = listen(&selector);
        let priority = Interest::READABLE | Interest::PRIORITY;
        selector.registry().reregister(&mut listener, Token(LISTENER), priority).unwrap();
        check_eq("refused", set_exclusive(&listener, true).unwrap_err().kind(), ErrorKind::InvalidInput);
        check_eq("as before", is_exclusive(&listener), Some(false));

        selector.registry().reregister(&mut listener, Token(LISTENER), Interest::READABLE).unwrap();
        set_exclusive(&listener, true).unwrap();
        let refused = selector.registry().reregister(&mut listener, Token(9), priority).unwrap_err();
        check_eq("refused", refused.kind(), ErrorKind::InvalidInput);
        check_eq("as before", is_exclusive(&listener), Some(true));
        let _connection = connect(&listener);
        check_eq("with its token", wait(&mut selector), tokens([LISTENER]));
    }

    /// A process that was woken for a connection ends without accepting it. Another process rearms, and finds the
    /// connection.
    fn wake_of_an_ended_process_can_be_rearmed() {
        let mut selector = Poll::new().unwrap();
        let listener = listen(&selector);
        set_exclusive(&listener, true).unwrap();
        mute(&listener).unwrap();
        let turn = Turn::new();
        let woken = fork_child(|| {
            check_eq("the woken process", wait(&mut selector), tokens([LISTENER]));
            turn.give();
        });
        wait_until_asleep(&[woken]);
        // The kernel wakes the process that waited first.
        let other = fork_child(|| {
            turn.wait();
            check_eq("the other process", ready(&mut selector), tokens([]));
            rearm_exclusive().unwrap();
            check_eq("rearmed", wait(&mut selector), tokens([LISTENER]));
        });
        let _connection = connect(&listener);
        reap(woken);
        reap(other);
    }
);
