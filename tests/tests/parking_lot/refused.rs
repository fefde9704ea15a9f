//! Systems where forkio cannot know whether a child keeps the stacks of the parent's threads.

use forkio_tests::reactor;
use forkio_tests::runtime::*;

use crate::{RUNTIME, fork_without_threads};

scenarios!(
    /// Without other threads, a fork works. With other threads, forks are refused, and so are runtimes in children.
    #[limit(900)]
    fn refused_with_threads() {
        fork_without_threads();

        // SAFETY: the call is refused, so there is no child.
        let refused = unsafe { forkio::fork_with_threads() };
        assert!(matches!(refused, Err(ForkError::ParkingLot(_))), "{refused:?}");
        reactor::in_child(|| {
            let error = RUNTIME.get().expect_err("a runtime that is refused");
            assert!(matches!(error, RuntimeError::Check(ForkError::ParkingLot(_))), "{error:?}");
            assert!(error.to_string().contains("`parking_lot`"), "{error}");
        });
    }
);
