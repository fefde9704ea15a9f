//! *Sever* and *renew* for pairs and timers, over several forks.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use forkio_tests::reactor::*;

scenarios!(
    /// One end of a pair is severed in the child. The child can renew neither this end nor the other one.
    fn end_of_a_pair() {
        let selector = Poll::new().unwrap();
        let registry = selector.registry();
        let (mut kept, mut severed) = UnixStream::pair().unwrap();
        register_with(registry, &mut kept, 1, ForkPolicy::Inherit);
        register_with(registry, &mut severed, 2, ForkPolicy::Sever);
        let (mut stream, _peer) = connection();
        register_with(registry, &mut stream, 3, ForkPolicy::Sever);
        in_child(|| {
            for fd in [kept.as_raw_fd(), severed.as_raw_fd(), stream.as_raw_fd()] {
                check_eq("the child can renew the descriptor", fork::glue::can_renew(&fd), false);
                fork::set_policy(&fd, ForkPolicy::Renew).unwrap();
                check_eq("renewing it", prepare().unwrap_err().object(), PrepareObject::Pair(fd));
                fork::set_policy(&fd, ForkPolicy::Inherit).unwrap();
            }
            in_child(|| check_eq("reading the dead endpoint", severed.read(&mut [0]).unwrap(), 0));
        });
        check_eq("the parent can renew the end", fork::glue::can_renew(&kept.as_raw_fd()), true);
        kept.write_all(b"x").unwrap();
        check_eq("reading", severed.read(&mut [0]).unwrap(), 1);
    }

    /// If the policies sever one end of a pair and renew the other one, both ends are renewed.
    fn pair_with_a_severed_and_a_renewed_end() {
        let mut selector = Poll::new().unwrap();
        let (mut a, mut b) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut a, 1, ForkPolicy::Sever);
        register_with(selector.registry(), &mut b, 2, ForkPolicy::Renew);
        in_child(|| {
            check_eq("nothing pending", a.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            b.write_all(b"x").unwrap();
            check_eq("the event", wait(&mut selector), tokens([1]));
            // In the grandchild, the ends are still a pair.
            in_child(|| {
                b.write_all(b"y").unwrap();
                let mut both = [0; 2];
                check_eq("reading", a.read(&mut both).unwrap(), 2);
                check_eq("the pending byte, and the byte that was sent", both, *b"xy");
            });
        });
        check_eq("reading in the parent", a.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    /// A severed timer stays severed in the child's children.
    fn timer() {
        let selector = Poll::new().unwrap();
        let registry = selector.registry();
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        timer.set_at(Duration::ZERO, None).unwrap();
        register_with(registry, &mut timer, 1, ForkPolicy::Sever);
        in_child(|| {
            check_eq("severed", timer.expirations().unwrap_err().kind(), ErrorKind::UnexpectedEof);
            fork::set_policy(&timer, ForkPolicy::Renew).unwrap();
            check_eq("renewing it", prepare().unwrap_err().object(), PrepareObject::Timer(timer.as_raw_fd()));
            registry.deregister(&mut timer).unwrap();
            in_child(|| check_eq("severed", timer.expirations().unwrap_err().kind(), ErrorKind::UnexpectedEof));
        });
        check_eq("the parent's expirations", timer.expirations().unwrap(), 1);
    }

    /// If one selector severs a timer and another one renews it, the timer is renewed.
    fn timer_that_is_severed_and_renewed() {
        for policies in [[ForkPolicy::Sever, ForkPolicy::Renew], [ForkPolicy::Renew, ForkPolicy::Sever]] {
            let mut selectors = [Poll::new().unwrap(), Poll::new().unwrap()];
            let mut timer = Timer::new(Clock::Monotonic).unwrap();
            let fd = timer.as_raw_fd();
            for ((selector, policy), token) in selectors.iter().zip(policies).zip(1..) {
                register_with(selector.registry(), &mut SourceFd(&fd), token, policy);
            }
            timer.set_at(Duration::ZERO, None).unwrap();
            in_child(|| {
                for (selector, token) in selectors.iter_mut().zip(1..) {
                    check_eq("the event", wait(selector), tokens([token]));
                }
                check_eq("the child's expirations", timer.expirations().unwrap(), 1);
                in_child(|| check_eq("taken", timer.expirations().unwrap_err().kind(), ErrorKind::WouldBlock));
            });
            check_eq("the parent's expirations", timer.expirations().unwrap(), 1);
        }
    }
);
