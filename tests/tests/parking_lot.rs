//! The errors for a user whose tokio has the feature `full`, and so uses the crate `parking_lot`. The scenario runs in
//! the program that `tests/projects/parking-lot` builds from this file.

use std::process::exit;

use forkio_tests::reactor;
use forkio_tests::runtime::*;

forkio_tests::main!(project = "parking-lot");

scenarios!(
    /// Without other threads, a fork works. With other threads, forks are refused, and so are runtimes in children.
    #[limit(900)]
    fn refused_with_threads() {
        static RUNTIME: ProcessRuntime = ProcessRuntime::new(|| Builder::new_multi_thread().enable_all().build());
        let runtime = current_thread();
        let child = runtime.block_on(fork());
        let answer = RUNTIME.block_on(async { tokio::spawn(async { 7 }).await.expect("a task") });
        assert_eq!(answer.expect("a runtime"), 7);
        let Some(child) = child else { exit(0) };
        runtime.block_on(reap(child));

        // SAFETY: it refuses.
        let refused = unsafe { forkio::fork_with_threads() };
        assert!(matches!(refused, Err(ForkError::ParkingLot)), "{refused:?}");
        reactor::in_child(|| {
            let error = RUNTIME.get().expect_err("a runtime that is refused");
            assert!(matches!(error, RuntimeError::Check(ForkError::ParkingLot)), "{error:?}");
            assert!(error.to_string().contains("`parking_lot`"), "{error}");
        });
    }
);
