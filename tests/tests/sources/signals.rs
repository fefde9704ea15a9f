//! Signals as events.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use forkio_tests::reactor::*;

use crate::check_blocked;

scenarios!(
    /// Each process receives exactly the signals that are sent to it. The child can register a *no-fork* source
    /// again.
    fn private_signals() {
        check_eq("the default", fork::default_policy(SourceKind::Signal), ForkPolicy::Inherit);
        let mut selector = Poll::new().unwrap();
        let mut signals = registered(selector.registry(), Signals::new([libc::SIGUSR1, libc::SIGUSR2]).unwrap(), 1);
        let (to_parent, to_child) = Turn::both_ways();
        let parent = own_pid();
        let child = fork_child(|| {
            check_eq("the child's event", wait(&mut selector), tokens([1]));
            let received = signals.receive().unwrap();
            check_eq("from the parent", received.sender(), Some(parent.cast_unsigned()));
            check_eq("the signal", received.signal(), libc::SIGUSR1);
            check_blocked("a second signal", signals.receive());
            to_parent.give();
            to_child.wait();
            // Meanwhile the parent has received a signal.
            check_eq("no event", ready(&mut selector), tokens([]));
            check_blocked("no signal", signals.receive());
            kill(parent, libc::SIGUSR1);
        });
        kill(child, libc::SIGUSR1);
        to_parent.wait();
        check_eq("no event", ready(&mut selector), tokens([]));
        check_blocked("no signal", signals.receive());
        kill(parent, libc::SIGUSR2);
        check_eq("the parent's event", wait(&mut selector), tokens([1]));
        check_eq("the signal", signals.receive().unwrap().signal(), libc::SIGUSR2);
        to_child.give();
        reap(child);
        check_eq("the event for the child's signal", wait(&mut selector), tokens([1]));
        check_eq("from the child", signals.receive().unwrap().sender(), Some(child.cast_unsigned()));

        fork::set_policy(&signals, ForkPolicy::NoFork).unwrap();
        in_child(|| {
            kill(own_pid(), libc::SIGUSR1);
            check_silent("not registered", &mut selector);
            selector.registry().deregister(&mut signals).unwrap();
            register(selector.registry(), &mut signals, 2);
            check_eq("registered again", wait(&mut selector), tokens([2]));
            signals.receive().unwrap();
        });
        check_eq("no event", ready(&mut selector), tokens([]));
    }

    /// A signal that is pending at the fork stays with the parent.
    fn pending_signal() {
        let mut selector = Poll::new().unwrap();
        let signals = registered(selector.registry(), Signals::new([libc::SIGUSR1]).unwrap(), 1);
        kill(own_pid(), libc::SIGUSR1);
        in_child(|| {
            check_silent("not pending", &mut selector);
            check_blocked("not pending", signals.receive());
            kill(own_pid(), libc::SIGUSR1);
            check_eq("the child's own signal", wait(&mut selector), tokens([1]));
            signals.receive().unwrap();
            check_blocked("a second signal", signals.receive());
        });
        check_eq("the pending signal", wait(&mut selector), tokens([1]));
        check_eq("the sender of the pending signal", signals.receive().unwrap().sender(), Some(std::process::id()));
        check_blocked("a second signal", signals.receive());
    }

    /// A signal to the process group reaches each process once.
    fn signal_to_the_group() {
        let mut selector = Poll::new().unwrap();
        let signals = registered(selector.registry(), Signals::new([libc::SIGUSR1]).unwrap(), 1);
        let parent = own_pid();
        let turn = Turn::new();
        in_both(&mut || {
            if own_pid() == parent {
                turn.wait();
                kill(0, libc::SIGUSR1);
            } else {
                turn.give();
            }
            check_eq("received", wait(&mut selector), tokens([1]));
            check_eq("sender", signals.receive().unwrap().sender(), Some(parent.cast_unsigned()));
            check_blocked("a second signal", signals.receive());
        });
    }

    /// A signalfd in the child receives the signals of the child.
    fn signalfd() {
        let Some(signals) = forkio_tests::signalfd(libc::SIGUSR1) else { return };
        let mut selector = Poll::new().unwrap();
        // SAFETY: the set is filled before it is read.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGUSR1);
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        register(selector.registry(), &mut SourceFd(&signals.as_raw_fd()), 1);
        let signals = File::from(signals);
        let mut receive = || {
            raise(libc::SIGUSR1);
            check_eq("own signal", wait(&mut selector), tokens([1]));
            // The size of `struct signalfd_siginfo`.
            check_eq("read", (&signals).read(&mut [0; 128]).unwrap(), 128);
        };
        in_child(&mut receive);
        receive();
    }
);
