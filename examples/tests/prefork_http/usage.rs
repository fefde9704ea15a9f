//! Errors of the command line, and its help.

use std::net::TcpListener;
use std::process::{Command, Output};

use forkio_tests::scenarios;

use crate::server::{Server, program};
use crate::status::AskStatus;

fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().expect("running the program")
}

/// Runs the program. Checks that it exits with 2, prints nothing to stdout, and one line with all of `words` to stderr.
#[track_caller]
fn refuses(arguments: &[&str], words: &[&str]) {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert_eq!(stderr.matches('\n').count(), 1, "{arguments:?}: not one line: {stderr}");
    assert!(stderr.ends_with('\n') && stderr.starts_with("prefork-http: "), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: no {word:?} in: {stderr}");
    }
}

scenarios!(
    /// A port in use is an error.
    fn port_in_use() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = other.local_addr().expect("the address of a listener").to_string();
        refuses(&["--listen", &address], &[&address, "in use", "--listen"]);
        refuses(&["--listen", "127.0.0.1:0", "--listen", &address], &[&address, "in use", "--listen"]);
    }

    /// The address of another machine is an error.
    fn address_of_another_machine() {
        // This address is reserved for documentation, so no host has it.
        refuses(&["--listen", "192.0.2.1:8080"], &["192.0.2.1:8080", "not an address of this machine", "--listen"]);
    }

    /// A text that is not an address is refused.
    fn not_an_address() {
        for address in ["nonsense", "127.0.0.1", ":8080", "127.0.0.1:65536", "", "two\nlines"] {
            refuses(&["--listen", address], &["--listen", "IP address and a port", "127.0.0.1:8080", "--help"]);
        }
    }

    /// A value that an option cannot have is refused. The error says what the option needs.
    fn number_out_of_range() {
        for workers in ["0", "-1", "1025", "x", "", "99999999999999999999"] {
            refuses(&[&format!("--workers={workers}")], &["--workers", "from 1 to 1024", "--help"]);
        }
        refuses(&["--worker-threads", "0"], &["--worker-threads", "from 1 to 1024", "--help"]);
        for seconds in ["-1", "NaN", "inf", "x", "86401"] {
            refuses(&[&format!("--shutdown-timeout={seconds}")], &["--shutdown-timeout", "from 0 to 86400", "--help"]);
        }
        refuses(&["--header-timeout", "0"], &["--header-timeout", "from 0.1 to 86400", "--help"]);
        for part in ["nan", "1.1"] {
            refuses(&["--jitter", part], &["--jitter", "from 0 to 1", "--help"]);
        }
        refuses(&["--access-log", "apache"], &["--access-log", "common, combined, json", "--help"]);
        refuses(&["--access-log-file", "log"], &["required", "--access-log", "--help"]);
        let missing = ["--access-log", "common", "--access-log-file", "/nonexistent/log"];
        refuses(&missing, &["/nonexistent/log", "--access-log-file"]);
        refuses(&["--log-file", "/nonexistent/log"], &["/nonexistent/log", "another one with --log-file"]);
        for size in ["0", "16385"] {
            refuses(&["--preload-mib", size], &["--preload-mib", "from 1 to 16384", "--help"]);
        }
    }

    /// A limit of 0 means no limit.
    fn limits_of_zero() {
        let limits = ["--max-requests", "--max-age", "--max-rss-mib", "--max-pss-mib", "--max-connections"];
        let options = limits.into_iter().chain(["--heartbeat-timeout"]).flat_map(|option| [option, "0"]);
        let server = Server::start(&options.chain(["--workers", "1"]).collect::<Vec<_>>());
        let pids = [server.connect().status().pid, server.connect().status().pid];
        assert_eq!(pids[0], pids[1]);
        server.stop();
    }

    /// A distribution that does not exist is refused.
    fn no_such_distribution() {
        for distribution in ["fair", "", "Shared"] {
            refuses(&["--distribution", distribution], &["--distribution", "shared, reuseport", "balanced", "--help"]);
        }
    }

    /// Unknown, repeated and incomplete options are refused.
    fn mistaken_option() {
        refuses(&["--worker", "2"], &["--worker", "--help"]);
        refuses(&["extra"], &["extra", "--help"]);
        refuses(&["--workers"], &["--workers", "value", "--help"]);
        refuses(&["--workers", "1", "--workers", "2"], &["--workers", "--help"]);
    }

    /// `--help` and `--version` print to standard output.
    fn help_and_version() {
        for argument in ["--help", "-h"] {
            let output = run(&[argument]);
            assert_eq!(output.status.code(), Some(0));
            assert!(output.stderr.is_empty());
            let help = String::from_utf8(output.stdout).expect("UTF-8");
            for word in [
                "--listen",
                "--workers",
                "--distribution",
                "--shutdown-timeout",
                "--header-timeout",
                "--preload-mib",
                "--access-log",
                "/status",
                "Exit codes",
            ] {
                assert!(help.contains(word), "no {word} in {help}");
            }
        }
        let version = run(&["--version"]);
        assert_eq!(version.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&version.stdout), concat!("prefork-http ", env!("CARGO_PKG_VERSION"), "\n"));
    }
);
