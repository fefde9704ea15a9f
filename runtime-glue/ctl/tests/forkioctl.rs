//! Runs `forkioctl` on real servers.

#[allow(dead_code, reason = "the scenarios of the topic `status` use the rest")]
#[path = "../../../tests/tests/status/server.rs"]
mod server;

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use forkio_tests::{kill, scenarios, temporary_path};
use serde_json::Value;

use crate::server::{Server, workers};

#[track_caller]
fn ctl(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
    command.env("FORKIO_CONTROL", &server.control).args(arguments).output().expect("running forkioctl")
}

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Runs the program, which must exit with 0. Returns its standard output.
#[track_caller]
fn done(server: &Server, arguments: &[&str]) -> String {
    let output = ctl(server, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    text(&output.stdout).to_owned()
}

scenarios!(
    /// `status` prints a table, or JSON.
    fn status() {
        let server = Server::start(&[]);
        let state = server.until_two_serve();
        let table = done(&server, &["status"]);
        assert!(
            table.starts_with(&format!("supervisor {}: serving, generation 1, 2 of 2 workers", server.supervisor()))
        );
        for worker in workers(&state) {
            let is_row = |line: &str| line.split_whitespace().nth(2) == Some(&worker["pid"].to_string());
            assert!(table.lines().any(is_row), "{worker} is missing: {table}");
        }
        let json: Value = serde_json::from_str(&done(&server, &["status", "--json"])).expect("JSON");
        assert_eq!(json["server"]["pid"], server.supervisor());
        server.stop();
    }

    /// `--watch` prints the table again and again, until the reader closes the pipe.
    fn watch() {
        let server = Server::start(&[]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
        command.arg("--control").arg(&server.control).args(["status", "--watch"]).stdout(Stdio::piped());
        let mut program = command.spawn().expect("starting forkioctl");
        let mut lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        let mut heads = 0;
        while heads < 2 {
            let line = lines.next().expect("more lines").expect("a line");
            heads += usize::from(line.starts_with("supervisor "));
        }
        drop(lines);
        assert_eq!(program.wait().expect("the end of forkioctl").code(), Some(0));
        server.stop();
    }

    /// `--watch` continues after a failed request, because the service worker may have been replaced.
    fn watch_after_a_failure() {
        let path = temporary_path("watched");
        let listener = UnixListener::bind(&path).expect("a listener");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
        command.arg("--control").arg(&path).args(["status", "--watch", "--json"]).stdout(Stdio::piped());
        let mut program = command.spawn().expect("starting forkioctl");
        for answer in [Some("{\"turn\": 1}"), None, Some("{\"turn\": 2}")] {
            let (stream, _) = listener.accept().expect("a request");
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).expect("a line of the request");
            }
            if let Some(state) = answer {
                write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{state}", state.len())
                    .expect("answering");
            }
        }
        let mut lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        for turn in 1..=2 {
            assert_eq!(lines.next().expect("a line").expect("a line"), format!("{{\"turn\": {turn}}}"));
        }
        drop((lines, listener));
        // The server does not answer any more.
        assert_eq!(program.wait().expect("the end of forkioctl").code(), Some(3));
    }

    /// `forkioctl` reports an error of standard output, unless the reader has closed the pipe.
    fn full_disk() {
        // Every write to this device fails with ENOSPC.
        let Ok(full) = File::options().write(true).open("/dev/full") else { return };
        let server = Server::start(&[]);
        for arguments in [&["status"][..], &["scale", "2", "--quiet"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
            command.arg("--control").arg(&server.control).args(arguments);
            let output = command.stdout(full.try_clone().expect("a descriptor")).output().expect("running forkioctl");
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let message = text(&output.stderr);
            assert!(message.starts_with("forkioctl: cannot write to standard output: "), "{message}");
        }
        server.stop();
    }

    /// The exit code says how a command ended, even if the reader of the output has closed the pipe.
    fn closed_pipes() {
        let server = Server::start(&[]);
        let nowhere = temporary_path("nowhere");
        for (control, code) in [(&server.control, 0), (&nowhere, 3)] {
            // Writes to a socket without a peer fail like those to a pipe without a reader.
            let closed = || OwnedFd::from(UnixStream::pair().expect("a pair").0);
            let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
            command.arg("--control").arg(control).arg("reload").stdout(closed()).stderr(closed());
            assert_eq!(command.status().expect("running forkioctl").code(), Some(code));
        }
        server.stop();
    }

    /// Each command waits for its result, unless `--no-wait` is given.
    fn commands() {
        let server = Server::start(&[]);
        assert_eq!(done(&server, &["reload"]), "reload: generation 2 serves\n");
        assert_eq!(done(&server, &["scale", "3"]), "scale: 3 workers serve\n");
        let before = server.state();
        assert_eq!((&before["server"]["generation"], &before["server"]["wanted"]), (&2.into(), &3.into()));
        // Look for the index: workers of the first generation may still be listed, before those of the second one.
        let old = workers(&before).iter().find(|worker| worker["index"] == 2).expect("a third worker");
        assert!(done(&server, &["retire", "2", "--timeout", "600"]).contains("is worker 2"));
        server.until("the old worker drains or has ended", |state| {
            workers(state).iter().all(|worker| worker["pid"] != old["pid"] || worker["state"] == "draining")
        });
        assert_eq!(done(&server, &["reload", "--no-wait"]), "reload: the command has begun\n");
        server.until("the reload is done", |state| state["server"]["generation"] == 3);
        server.stop();
    }

    /// `upgrade` waits until the new program serves.
    fn upgrade() {
        let server = Server::start(&["--status", "127.0.0.1:0"]);
        let before = server.supervisor();
        let said = done(&server, &["upgrade"]);
        let json: Value = serde_json::from_str(&done(&server, &["status", "--json"])).expect("JSON");
        let after = json["server"]["pid"].as_i64().expect("a process id") as i32;
        assert_ne!(after, before);
        assert_eq!(said, format!("upgrade: process {after} serves\n"));
        let program = server.program;
        kill(after, libc::SIGTERM);
        program.finish_well();
    }

    /// `forkioctl` shows the progress of a command. A timeout ends the wait for a command, but not the command itself.
    fn progress_and_timeout() {
        let server = Server::start(&["--workers", "1"]);
        // With a FIFO in place of the file, a reload waits until `load` writes.
        std::fs::remove_file(&server.load).expect("removing");
        assert!(Command::new("mkfifo").arg(&server.load).status().expect("running mkfifo").success());
        let load = || std::fs::write(&server.load, "loaded").expect("writing to the FIFO");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
        command.arg("--control").arg(&server.control).arg("reload").stderr(Stdio::piped());
        let mut program = command.spawn().expect("starting forkioctl");
        let mut progress = BufReader::new(program.stderr.take().expect("piped")).lines();
        let line = progress.next().expect("progress").expect("a line");
        assert!(line.starts_with("reload: ") && line.ends_with(", 0 of 1 workers of generation 2 serve"), "{line}");
        load();
        assert_eq!(program.wait().expect("the end of forkioctl").code(), Some(0));
        let output = ctl(&server, &["reload", "--timeout", "0.000001"]);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(text(&output.stderr).contains("not done after 1µs"), "{output:?}");
        load();
        server.until("the reload is done nevertheless", |state| state["server"]["generation"] == 3);
        server.stop();
    }

    /// `--timeout` also bounds the wait for a server that does not answer.
    fn silent_server() {
        let path = temporary_path("silent");
        let _listener = UnixListener::bind(&path).expect("a listener");
        for (action, code) in [("reload", 4), ("upgrade", 3)] {
            let start = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
            let output = command.arg("--control").arg(&path).args([action, "--timeout", "0.1"]).output();
            let output = output.expect("running forkioctl");
            assert_eq!(output.status.code(), Some(code), "{action}: {output:?}");
            // Without the limit, `forkioctl` waits for ten seconds.
            assert!(start.elapsed() < Duration::from_secs(8), "{action}: {:?}", start.elapsed());
        }
    }

    /// `--timeout` also bounds the wait for a new program that does not answer, if the old one has ended during the upgrade.
    fn silent_successor() {
        // If the machine stalls, the time is over before the old server ends.
        assert!((0..5).any(|_| successor_is_silent()), "forkioctl waited too long each time");
    }

    /// Refused commands, mistakes in the command line, and a server that cannot be reached have different exit codes.
    fn failures() {
        let server = Server::start(&[]);
        std::fs::remove_file(&server.load).expect("removing");
        let output = ctl(&server, &["reload"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("the old generation continues to serve"), "{output:?}");
        for (arguments, code) in [
            (&["scale", "0"][..], 1),
            (&["retire", "7"], 1),
            (&["scale", "many"], 2),
            (&["fly"], 2),
            (&["reload", "--timeout", "0"], 2),
        ] {
            let output = ctl(&server, arguments);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
            assert!(!output.stderr.is_empty());
        }
        let output = ctl(&server, &["--control", "/nothing/here", "status"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(text(&output.stderr).contains("cannot connect to /nothing/here"), "{output:?}");
        server.stop();
    }
);

/// Runs an upgrade of a server that ends, and whose successor does not answer. Returns whether `forkioctl` has waited for
/// the successor, and no longer than its timeout.
#[track_caller]
fn successor_is_silent() -> bool {
    let path = temporary_path("silent-successor");
    let _missing = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a listener");
    let server = std::thread::spawn(move || {
        let accept = || {
            let (mut stream, _) = listener.accept().expect("a connection");
            // A client gets a reset if the server closes the connection before it has read the request.
            assert!(stream.read(&mut [0; 1024]).expect("a request") > 0);
            stream
        };
        let mut state = accept();
        let json = r#"{"server":{"pid":1,"state":"running","uptime_seconds":1,"generation":1,"wanted":1},"workers":[],"requests":0}"#;
        write!(state, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len()).expect("answering");
        drop(state);
        drop(accept());
        listener
    });
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkioctl"));
    let command = command.arg("--control").arg(&path).args(["upgrade", "--timeout", "2", "--quiet"]);
    let output = command.output().expect("running forkioctl");
    let took = start.elapsed();
    let code = output.status.code();
    assert!(code == Some(3) || code == Some(4), "{output:?}");
    // The server ends only after it has got both requests. Without the limit, `forkioctl` waits for ten seconds.
    code == Some(3) && server.is_finished() && server.join().is_ok() && took < Duration::from_secs(8)
}

forkio_tests::main!(server, crate);
