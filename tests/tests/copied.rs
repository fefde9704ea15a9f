//! What a fork copies beside the runtime; see `src/bin/fixture-copied.rs` for what each scenario checks.

use forkio_tests::{Fixture, run_fixture};

const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture-copied");

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(FIXTURE, $scenario);
        }
    )*};
}

scenarios! {
    audit: "audit",
    audit_is_what_the_kernel_says: "audit-is-what-the-kernel-says",
    audit_in_a_worker: "audit-in-a-worker",
    audit_refuses: "audit-refuses",
    audit_outside_a_runtime: "audit-outside-a-runtime",
    before_fork: "before-fork",
    before_fork_refuses: "before-fork-refuses",
    before_fork_threads: "before-fork-threads",
    before_fork_panics: "before-fork-panics",
    buffered_file: "buffered-file",
    same_numbers: "same-numbers",
    reseeded: "reseeded",
}

#[test]
fn stdio_is_written_once() {
    let (status, output) = Fixture::start(FIXTURE, &["stdio"]).finish();
    assert!(status.success(), "{status}\n{output}");
    assert_eq!(output, "half a line\n");
}
