//! Timers, signals and processes as sources, across real forks; see `src/bin/fixture-events.rs` for what each scenario
//! checks.

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-events"), $scenario);
        }
    )*};
}

scenarios! {
    timer_once: "timer-once",
    timer_keeps_phase: "timer-keeps-phase",
    timer_untaken: "timer-untaken",
    timer_taken: "timer-taken",
    timer_set_on_one_side: "timer-set-on-one-side",
    timer_in_grandchildren: "timer-in-grandchildren",
    timer_policies: "timer-policies",
    timer_disarmed: "timer-disarmed",
    timer_not_registered: "timer-not-registered",
    timer_in_two_selectors: "timer-in-two-selectors",
    timer_expires_after_prepare: "timer-expires-after-prepare",
    timer_expires_at_the_fork: "timer-expires-at-the-fork",
    timer_is_gone: "timer-is-gone",
    timer_descriptor_limit: "timer-descriptor-limit",
    timer_inside_a_fork: "timer-inside-a-fork",
    timers_during_a_fork: "timers-during-a-fork",
    thousand_timers: "thousand-timers",
    timerfd: "timerfd",
    timerfd_untaken: "timerfd-untaken",
    timerfd_expires_at_the_fork: "timerfd-expires-at-the-fork",
    timerfd_cancelled_by_the_clock: "timerfd-cancelled-by-the-clock",
    signals: "signals",
    signals_pending: "signals-pending",
    signals_to_the_group: "signals-to-the-group",
    process: "process",
    process_inherited: "process-inherited",
}
