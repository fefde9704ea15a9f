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
}
