//! `forkio::fork` and `Prefork` in a tokio runtime; see `src/bin/fixture-runtime.rs` for what each scenario checks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use forkio_tests::{Fixture, LIMIT, run_fixture};

const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture-runtime");

macro_rules! scenarios {
    ($($test:ident: $scenario:literal,)*) => {$(
        #[test]
        fn $test() {
            run_fixture(FIXTURE, $scenario);
        }
    )*};
}

scenarios! {
    both_serve: "both-serve",
    timers: "timers",
    tasks_go_on: "tasks-go-on",
    wakes: "wakes",
    nested: "nested",
    ten_thousand: "ten-thousand",
    default_policies: "default-policies",
    set_policy: "set-policy",
    signals: "signals",
    signal_before_the_fork: "signal-before-the-fork",
    spawn_blocking: "spawn-blocking",
    refuses_threads: "refuses-threads",
    refuses_multi_thread: "refuses-multi-thread",
    refuses_no_runtime: "refuses-no-runtime",
    refuses_no_io: "refuses-no-io",
    refuses_descriptor_limit: "refuses-descriptor-limit",
    refuses_process_limit: "refuses-process-limit",
    no_fork: "no-fork",
    on_child: "on-child",
    child_handle: "child-handle",
    child_handle_in_a_child: "child-handle-in-a-child",
    tokio_child_in_a_child: "tokio-child-in-a-child",
    two_runtimes: "two-runtimes",
    local_set: "local-set",
    prefork_crash_loop: "prefork-crash-loop",
    prefork_replaces: "prefork-replaces",
    prefork_exit_status: "prefork-exit-status",
    prefork_panic: "prefork-panic",
    prefork_no_workers: "prefork-no-workers",
    prefork_kills_the_stuck: "prefork-kills-the-stuck",
    prefork_beside_another_fork: "prefork-beside-another-fork",
    prefork_has_no_way_back: "prefork-has-no-way-back",
    prefork_in_no_fork: "prefork-in-no-fork",
    prefork_drains_for_ever: "prefork-drains-for-ever",
    prefork_orphans: "prefork-orphans",
    prefork_stops_while_it_waits: "prefork-stops-while-it-waits",
    no_fork_forks: "no-fork-forks",
    threads_that_nobody_joined: "threads-that-nobody-joined",
}

#[test]
fn buffered_output_is_written_once() {
    let (status, output) = Fixture::start(FIXTURE, &["buffered-output"]).finish();
    assert!(status.success(), "{status}\n{output}");
    assert_eq!(output, "half a line\n");
}

/// Clients talk to an echo server that forks all the while: every byte comes back, and the end of each connection is
/// seen while the children live.
#[test]
fn forks_under_load() {
    const CLIENTS: usize = 16;
    const CHUNK: usize = 10_000;
    const CHUNKS: usize = 100;
    let mut fixture = Fixture::start(FIXTURE, &["under-load"]);
    let address = fixture.line();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut stream = TcpStream::connect(&address).expect("connecting");
            stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
            thread::spawn(move || {
                let mut back = vec![0; CHUNK];
                for chunk in 0..CHUNKS {
                    let bytes: Vec<u8> = (0..CHUNK).map(|index| (index * 7 + chunk * 13 + client) as u8).collect();
                    stream.write_all(&bytes).expect("writing");
                    stream.read_exact(&mut back).expect("reading back");
                    assert!(back == bytes, "client {client}, chunk {chunk}: other bytes came back");
                    // A pace that leaves time for forks in between.
                    thread::sleep(Duration::from_millis(5));
                }
                stream.shutdown(Shutdown::Write).expect("ending");
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).expect("reading the end");
                assert!(rest.is_empty(), "client {client}: {} bytes too many", rest.len());
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client");
    }
    let closed = fixture.line();
    assert!(closed.starts_with("closed with ") && closed != "closed with 0 children", "{closed}");
    fixture.tell("end");
    let (status, output) = fixture.finish();
    assert!(status.success(), "{status}\n{output}");
}
