//! The fixes that `forkio::guide` gives; see `src/bin/fixture-guide.rs` for what each scenario checks.

use std::io::{Read, Write};
use std::net::TcpStream;

use forkio_tests::{Fixture, LIMIT, run_fixture, wait_until};

const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture-guide");

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(FIXTURE, $scenario);
        }
    )*};
}

scenarios! {
    runtime_per_process: "runtime-per-process",
    runtime_per_process_fork_by_others: "runtime-per-process-fork-by-others",
    registered_in_both: "registered-in-both",
    connection_for_the_child: "connection-for-the-child",
    connection_of_the_parent: "connection-of-the-parent",
    process_owned: "process-owned",
    hash_keys: "hash-keys",
}

/// The parent binds, forks and goes; the child serves.
#[test]
fn daemon() {
    serves_after_its_parent("daemon");
}

/// The same with forks by others.
#[test]
fn daemonized() {
    serves_after_its_parent("daemonized");
}

#[track_caller]
fn serves_after_its_parent(scenario: &str) {
    let mut fixture = Fixture::start(FIXTURE, &[scenario]);
    let address = fixture.line();
    let child = fixture.line();
    wait_until("the parent has gone", || fixture.has_ended());
    let mut client = TcpStream::connect(address).expect("connecting");
    client.set_read_timeout(Some(LIMIT)).expect("a time limit");
    client.write_all(b"x").expect("writing");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("reading");
    assert_eq!(answer, child);
    let (status, output) = fixture.finish();
    assert!(status.success(), "{status}\n{output}");
}
