//! Kernel timers, and programs that tokio has started, in a runtime that forks; see `src/bin/fixture-runtime-events.rs` for
//! what each scenario checks.

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-runtime-events"), $scenario);
        }
    )*};
}

scenarios! {
    timer_once: "timer-once",
    timer_waited_for: "timer-waited-for",
    timer_untaken: "timer-untaken",
    timer_cancelled: "timer-cancelled",
    timer_policies: "timer-policies",
    timer_in_grandchildren: "timer-in-grandchildren",
    child_waited_for: "child-waited-for",
    child_waited_for_by_signal: "child-waited-for-by-signal",
    child_signal_is_sent_once: "child-signal-is-sent-once",
    child_pipes: "child-pipes",
    child_pipes_by_signal: "child-pipes-by-signal",
    orphan: "orphan",
    orphan_by_signal: "orphan-by-signal",
    kill_on_drop: "kill-on-drop",
    process_owned: "process-owned",
}
