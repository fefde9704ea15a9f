//! The bare reactor across real forks; see `src/bin/fixture-reactor.rs` for what each scenario checks.

use forkio_tests::run_fixture;

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(env!("CARGO_BIN_EXE_fixture-reactor"), $scenario);
        }
    )*};
}

scenarios! {
    selectors_are_private: "selectors-are-private",
    wakes_are_private: "wakes-are-private",
    pending_wake_is_pending_in_both: "pending-wake-is-pending-in-both",
    coalesced_wakes_survive_a_fork_in_between: "coalesced-wakes-survive-a-fork-in-between",
    changes_at_the_same_numbers: "changes-at-the-same-numbers",
    inherit: "inherit",
    no_fork: "no-fork",
    sever: "sever",
    renew_pair: "renew-pair",
    renew_refused: "renew-refused",
    defaults_by_kind: "defaults-by-kind",
    mute: "mute",
    stale_registrations: "stale-registrations",
    register_with_policy: "register-with-policy",
    nested: "nested",
    many_selectors: "many-selectors",
    selector_in_a_selector: "selector-in-a-selector",
    signalfd: "signalfd",
    registering_during_a_fork: "registering-during-a-fork",
    registering_inside_a_fork: "registering-inside-a-fork",
    descriptor_limit: "descriptor-limit",
    poison: "poison",
    given_away: "given-away",
    policies_at_odds: "policies-at-odds",
    plain_fork: "plain-fork",
    dropping_during_a_fork: "dropping-during-a-fork",
    selector_that_is_gone: "selector-that-is-gone",
    aborted: "aborted",
}

#[test]
fn commit_allocates_nothing() {
    run_fixture(env!("CARGO_BIN_EXE_fixture-allocator"), "");
}
