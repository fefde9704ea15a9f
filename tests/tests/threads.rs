//! Runtimes with threads in a process that forks; see `src/bin/fixture-threads.rs` for what each scenario checks.

use forkio_tests::run_fixture;

const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture-threads");

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(FIXTURE, $scenario);
        }
    )*};
}

scenarios! {
    retired_selector: "retired-selector",
    everything_works: "everything-works",
    grandchildren: "grandchildren",
    signals: "signals",
    ghost_signals: "ghost-signals",
    child_processes: "processes",
    inherited_connections: "inherited-connections",
    connections_that_come_and_go: "connections-that-come-and-go",
    handles_of_the_parent: "handles-of-the-parent",
    first_use_by_many_threads: "first-use-by-many-threads",
    fork_during_build: "fork-during-build",
    many_forks: "many-forks",
    stray: "stray",
    foreign_fork: "foreign-fork",
    inside_inherited: "inside-inherited",
    build_errors: "build-errors",
    beside_a_current_thread_runtime: "beside-a-current-thread-runtime",
    dropped: "dropped",
    prefork_on_threads: "prefork-on-threads",
    prefork_on_threads_fails: "prefork-on-threads-fails",
    descriptors: "descriptors",
}
