//! Processes whose end is an event.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;

use forkio_tests::reactor::*;

/// A process that ends with status 7 when the turn is given.
fn subject(turn: &Turn) -> i32 {
    fork_child(|| {
        turn.wait();
        std::process::exit(7);
    })
}

scenarios!(
    /// The child gets no event for a process that the parent watches, and cannot reap it. The child can watch children
    /// of its own.
    fn watch_of_the_parent() {
        check_eq("the default", fork::default_policy(SourceKind::Process), ForkPolicy::NoFork);
        let mut selector = Poll::new().unwrap();
        let (end, to_child) = Turn::both_ways();
        let watched = subject(&end);
        let mut process = registered(selector.registry(), Process::open(watched.cast_unsigned()).unwrap(), 1);
        // Another selector watches the same process by its bare descriptor.
        let fd = process.as_raw_fd();
        let mut second = Poll::new().unwrap();
        register(second.registry(), &mut SourceFd(&fd), 2);
        let child = fork_child(|| {
            check_eq("registrations", registrations().len(), 0);
            check_eq("waiting", process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
            to_child.wait();
            assert!(process.has_ended().unwrap());
            check_silent("no event", &mut selector);
            check_eq("no event", ready(&mut second), tokens([]));
            check_eq("reaping", process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
            selector.registry().deregister(&mut process).unwrap();
            let end = Turn::new();
            let own = registered(selector.registry(), Process::open(subject(&end).cast_unsigned()).unwrap(), 3);
            end.give();
            check_eq("the grandchild", wait(&mut selector), tokens([3]));
            check_eq("the status", own.try_wait().unwrap().unwrap().code(), Some(7));
        });
        check_eq("the watched process runs", ready(&mut selector), tokens([]));
        end.give();
        check_eq("the parent's event", wait(&mut selector), tokens([1]));
        check_eq("the parent's event", wait(&mut second), tokens([2]));
        to_child.give();
        reap(child);
        check_eq("the status", process.try_wait().unwrap().unwrap().code(), Some(7));
    }

    /// With the policy *inherit*, both processes get an event for the end. Only the parent can reap.
    fn inherited_watch() {
        let mut selector = Poll::new().unwrap();
        let end = Turn::new();
        let watched = subject(&end);
        let process = registered_with(
            selector.registry(),
            Process::open(watched.cast_unsigned()).unwrap(),
            1,
            ForkPolicy::Inherit,
        );
        let child = fork_child(|| {
            check_eq("the child's event", wait(&mut selector), tokens([1]));
            assert!(process.has_ended().unwrap());
            check_eq("reaping", process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        });
        end.give();
        check_eq("the parent's event", wait(&mut selector), tokens([1]));
        reap(child);
        check_eq("the status", process.try_wait().unwrap().unwrap().code(), Some(7));
    }

    /// If a fork has severed the watch of a process, `has_ended` returns an error in the child.
    fn severed_watch() {
        let selector = Poll::new().unwrap();
        let end = Turn::new();
        let watched = subject(&end);
        let process =
            registered_with(selector.registry(), Process::open(watched.cast_unsigned()).unwrap(), 1, ForkPolicy::Sever);
        in_child(|| check_eq("asking", process.has_ended().unwrap_err().kind(), ErrorKind::UnexpectedEof));
        check_eq("the process has ended", process.has_ended().unwrap(), false);
        end.give();
        check_eq("the status", libc::WEXITSTATUS(wait_status(watched)), 7);
    }

    /// In a child that has not used a selector yet, `has_ended` works for a process that the parent watches, even once the
    /// parent has reaped that process.
    fn watch_before_the_first_use() {
        let (end, reaped) = Turn::both_ways();
        let watched = subject(&end);
        let process = Process::open(watched.cast_unsigned()).unwrap();
        unplanned::in_child(|| check_eq("it has ended", process.has_ended().unwrap(), false));
        let child = unplanned::fork_child(|| {
            reaped.wait();
            check_eq("it has ended", process.has_ended().unwrap(), true);
        });
        end.give();
        check_eq("the status", libc::WEXITSTATUS(wait_status(watched)), 7);
        reaped.give();
        reap(child);
    }
);
