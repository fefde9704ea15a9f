//! Commit in the child of a planned fork.

use std::io::Write;
use std::sync::atomic::Ordering;

use forkio_tests::reactor::*;

use crate::MAY_ALLOCATE;

scenarios!(
    /// Commit neither allocates nor frees, with registrations of all policies.
    fn commit_allocates_nothing() {
        let mut selectors: Vec<Poll> = (0..3).map(|_| Poll::new().unwrap()).collect();
        let wakers: Vec<Waker> = selectors.iter().map(|poll| Waker::new(poll.registry(), Token(0)).unwrap()).collect();
        wakers[1].wake().unwrap();
        let registry = selectors[0].registry().try_clone().unwrap();
        let mut sockets: Vec<UdpSocket> = (0..600).map(|_| udp()).collect();
        let policies = [ForkPolicy::Inherit, ForkPolicy::NoFork, ForkPolicy::Sever];
        for (index, socket) in sockets.iter_mut().enumerate() {
            register_with(&registry, socket, index + 1, policies[index % 3]);
        }
        let muted = registered(&registry, listener(), 700);
        fork::glue::mute(&muted).unwrap();
        let (mut pair, mut other_end) = UnixStream::pair().unwrap();
        register_with(&registry, &mut pair, 701, ForkPolicy::Renew);
        other_end.write_all(b"pending").unwrap();

        // The second fork reuses memory that the first one has allocated.
        for _ in 0..2 {
            in_child_after_prepare(|prepared| {
                MAY_ALLOCATE.store(false, Ordering::Relaxed);
                // SAFETY: this is the child of a fork after `prepare`.
                unsafe { prepared.commit() };
                MAY_ALLOCATE.store(true, Ordering::Relaxed);
                assert!(!wait(&mut selectors[0]).is_empty());
                check_eq("the pending wake", wait(&mut selectors[1]), tokens([0]));
            });
        }
    }
);
