//! Forks that were prepared ahead; see `src/bin/fixture-ahead.rs` for what each scenario checks.

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-ahead"), $scenario);
        }
    )*};
}

scenarios! {
    is_used: "is-used",
    what_gives_it_up: "what-gives-it-up",
    what_changes_without_a_word: "what-changes-without-a-word",
    closed_by_number: "closed-by-number",
    muted: "muted",
    muted_and_closed_by_number: "muted-and-closed-by-number",
    in_an_executed_program: "in-an-executed-program",
    fork_by_others: "fork-by-others",
    hook_that_tags: "hook-that-tags",
    interrupted: "interrupted",
    nested: "nested",
    threads: "threads",
    runtime: "runtime",
    runtime_with_threads: "runtime-with-threads",
    prefork: "prefork",
    prefork_unless_told_otherwise: "prefork-unless-told-otherwise",
    prefork_lets_go_of_workers: "prefork-lets-go-of-workers",
    prefork_with_listeners_of_their_own: "prefork-with-listeners-of-their-own",
}

// What is made in the child needs no descriptor before, and a plain fork may leave it without the queue.
#[cfg(not(forkio_kqueue))]
scenarios! {
    after_a_plain_fork: "after-a-plain-fork",
    no_descriptor_left: "no-descriptor-left",
    limit_lowered: "limit-lowered",
}
