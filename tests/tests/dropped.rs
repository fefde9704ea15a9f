//! What a kernel leaves out of a fork by itself; see `src/bin/fixture-dropped.rs` for what each scenario checks.

// Linux has neither close-on-fork descriptors nor queues that a child does not get.
#![cfg(forkio_kqueue)]

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-dropped"), $scenario);
        }
    )*};
}

scenarios! {
    close_on_fork: "close-on-fork",
    close_on_fork_by_policy: "close-on-fork-by-policy",
    nested_queue: "nested-queue",
    nested_selector: "nested-selector",
}
