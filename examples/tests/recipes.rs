//! The recipes: a daemon, a test harness, and objects that exist before the fork.

use std::fmt::Display;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;

use forkio_tests::{connect_tcp, example, limit, read_to_end, scenarios, wait_until};
use rustix::process::{Pid, Signal, kill_process};

forkio_tests::main!();

fn program(name: &str) -> Command {
    Command::new(example(name))
}

/// Runs a program until it has ended and its output is closed.
fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("running the program")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Kills the daemon when the test ends.
struct Daemon(Pid);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = kill_process(self.0, Signal::KILL);
    }
}

/// Returns the session of a process, or 0 if the session's leader is in another PID namespace. In that case,
/// `rustix::process::getsid` panics.
fn session(process: impl Display) -> String {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the state of a process");
    let (_name, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    fields.split_whitespace().nth(3).expect("a session").to_owned()
}

/// Answers each request of a connection with the port of its client.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(limit()))?;
    let body = stream.peer_addr()?.port().to_string();
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        if line?.is_empty() {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
        }
    }
    Ok(())
}

scenarios!(
    /// A daemon reports that its address is in use, serves after its parent has ended, and leads no session.
    fn a_daemon_binds_before_it_detaches() {
        // `output` returns although the daemon runs, so the daemon does not hold standard output open.
        let started = output(program("daemon").arg("127.0.0.1:0"));
        let (printed, errors) = (text(&started.stdout), text(&started.stderr));
        let mut lines = printed.lines();
        let address = lines.next().expect("an address");
        let id: i32 = lines.next().unwrap_or_else(|| panic!("no process id: {errors}")).parse().expect("a process id");
        let daemon = Daemon(Pid::from_raw(id).expect("a process id"));
        assert!(started.status.success(), "{}: {errors}", started.status);

        for _ in 0..2 {
            assert_eq!(read_to_end(connect_tcp(address)), format!("process {id}\n"));
        }
        let daemon_session = session(id);
        assert_ne!(daemon_session, session(std::process::id()));
        assert_ne!(daemon_session, id.to_string(), "the daemon leads its session, so it could get a terminal");

        let second = output(program("daemon").arg(address));
        assert_eq!(second.status.code(), Some(1));
        let error = text(&second.stderr);
        assert!(error.contains("AddrInUse"), "{error}");

        drop(daemon);
        wait_until("the port of the killed daemon is closed", || TcpStream::connect(address).is_err());
    }

    /// The test harness runs each test in a child of the process that has the fixture.
    fn tests_run_in_children_of_a_prepared_process() {
        // If the machine stalls, tests that do not hang exceed the limit, too. All tests then run again with more time.
        let stalls = |run: &Output| text(&run.stdout).matches("it took more than").count() > 1;
        let run = |limit: u32| (limit, output(program("warm-tests").arg(limit.to_string())));
        let (limit, run) = [5, 20].into_iter().map(run).find(|(_, run)| !stalls(run)).unwrap_or_else(|| run(60));
        let printed = text(&run.stdout);
        let expected = [
            "the fixture is loaded: ok",
            "changes stay in the test: ok",
            "a panic: failed, exit status: 101",
            "a crash: failed, signal: 6 (SIGABRT)",
            &format!("a hang: failed, it took more than {limit}s"),
        ];
        for (line, expected) in printed.lines().zip(expected) {
            assert!(line.starts_with(expected), "{line:?}, not {expected:?}\n{}", text(&run.stderr));
        }
        assert_eq!(printed.lines().count(), expected.len(), "{printed}");
        assert_eq!(run.status.code(), Some(1));
    }

    /// A child makes its own connections, and draws its own random numbers.
    fn clients_and_random_generators_of_a_child() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binding");
        let address = listener.local_addr().expect("an address").to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accepting");
                thread::spawn(move || answer(stream));
            }
        });
        let run = output(program("clients").arg(&address));
        assert!(run.status.success(), "{}: {}", run.status, text(&run.stderr));
        let printed = text(&run.stdout);
        let line = |number| -> (&str, &str, &str) {
            let line: &str = printed.lines().nth(number).unwrap_or_else(|| panic!("not three lines: {printed}"));
            let (process, rest) = line.split_once(": ").expect("a process");
            let (port, random) = rest.split_once(", ").expect("a port and a number");
            (process, port, random)
        };
        let (first, child, second) = (line(0), line(1), line(2));
        assert_eq!((first.0, child.0, second.0), ("parent", "child", "parent"));
        assert_eq!(first.1, second.1, "the parent does not keep its connection");
        assert_ne!(first.1, child.1, "the child uses its parent's connection");
        assert_ne!(child.2, second.2, "parent and child draw the same random number");
    }
);
