//! What is severed over several forks; see `src/bin/fixture-severed.rs` for what each scenario checks.

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-severed"), $scenario);
        }
    )*};
}

scenarios! {
    end_of_a_pair: "end-of-a-pair",
    pair_that_is_renewed_too: "pair-that-is-renewed-too",
    timer: "timer",
    timer_that_is_renewed_too: "timer-that-is-renewed-too",
}
