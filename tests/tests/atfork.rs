//! Forks by others, with the handlers installed, and the bare reactor; see `src/bin/fixture-atfork.rs` for what each
//! scenario checks.

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-atfork"), $scenario);
        }
    )*};
}

scenarios! {
    policies: "policies",
    mixed: "mixed",
    prepared_by_hand: "prepared-by-hand",
    daemon: "daemon",
    exec: "exec",
    no_selectors: "no-selectors",
    failed_prepare: "failed-prepare",
    whose_failure: "whose-failure",
    refused_policy: "refused-policy",
    spawning_pays_nothing: "spawning-pays-nothing",
    first_poll: "first-poll",
    threads: "threads",
    waiting_for_each_other: "waiting-for-each-other",
    another_thread: "another-thread",
    signal_handler: "signal-handler",
    interrupted_with_the_lock: "interrupted-with-the-lock",
    interrupted_while_registering: "interrupted-while-registering",
    handlers_of_others: "handlers-of-others",
    fork_in_a_handler: "fork-in-a-handler",
    signals_wait: "signals-wait",
    commit_allocates_nothing: "commit-allocates-nothing",
}

/// In a tokio runtime; see `src/bin/fixture-foreign.rs`.
mod runtime {
    use super::*;

    macro_rules! scenarios {
        ($($test:ident: $scenario:literal,)*) => {$(
            #[test]
            fn $test() {
                run_fixture(env!("CARGO_BIN_EXE_fixture-foreign"), $scenario);
            }
        )*};
    }

    scenarios! {
        goes_on: "goes-on",
        daemon: "daemon",
        mixed: "mixed",
        lineage: "lineage",
        commands: "commands",
        fresh_runtime: "fresh-runtime",
    }
}
