//! Exclusive wakes; see `src/bin/fixture-exclusive.rs` for what each scenario checks.
// It is Linux that tells who was woken.
#![cfg(procfs)]

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-exclusive"), $scenario);
        }
    )*};
}

scenarios! {
    one_is_woken: "one-is-woken",
    all_are_woken_otherwise: "all-are-woken-otherwise",
}

// About a flag of epoll's.
#[cfg(not(forkio_kqueue))]
scenarios! {
    kernel_flags: "kernel-flags",
    a_refused_change_changes_nothing: "a-refused-change-changes-nothing",
    what_the_dead_was_told: "what-the-dead-was-told",
}
