//! Upgrades: a new program takes over the listeners of the old one.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use forkio_tests::http::Client;
use forkio_tests::{freeze, limit, scenarios, temporary_path, until, wait_until};
use rustix::process::Signal;

use crate::server::{Server, program, signal};
use crate::signals::{expect_answers, queue_requests};
use crate::status::AskStatus;
use crate::stop::{clients_until_refused, expect_answer};

/// A copy of the program, which the test replaces.
pub(crate) struct Copy {
    directory: PathBuf,
}

impl Copy {
    pub(crate) fn new(name: &str) -> Copy {
        let directory = temporary_path(name);
        fs::create_dir_all(&directory).expect("a directory");
        let copy = Copy { directory };
        copy.run("cp \"$1\" \"$2\"", &[&program(), &copy.program()]);
        copy
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.directory.join("prefork-http")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    #[track_caller]
    fn start(&self, arguments: &[&str]) -> Server {
        Server::start_as(Command::new(self.program()).args(["--listen", "127.0.0.1:0"]).args(arguments), 1)
    }

    fn replace(&self, script: &str) {
        let new = self.file("new");
        let write = "printf %s \"$2\" > \"$1\" && chmod 755 \"$1\" && mv \"$1\" \"$3\"";
        self.run(write, &[&new, Path::new(script), &self.program()]);
    }

    /// Replaces the program with one that does not start until [`Gate::open`].
    pub(crate) fn replace_with_gate(&self) -> Gate {
        let (path, started) = (self.file("gate"), self.file("started"));
        self.run("mkfifo \"$1\"", &[&path]);
        // Opening a FIFO for reading and writing does not block, and the line that `open` writes waits for its reader.
        let fifo = fs::File::options().read(true).write(true).open(&path).expect("a FIFO");
        let (path, started_path, program) = (path.display(), started.display(), program());
        // The script must start no process: such a process would continue after the script is killed.
        let script =
            format!("#!/bin/sh\necho $$ > '{started_path}'\nread _ < '{path}'\nexec '{}' \"$@\"\n", program.display());
        self.replace(&script);
        Gate { fifo, started }
    }

    /// Runs a shell script that writes a program. This process must not write the program itself: a child that another
    /// thread forks meanwhile would inherit the descriptor, and the kernel executes no file that is open for writing.
    fn run(&self, script: &str, arguments: &[&Path]) {
        let status = Command::new("/bin/sh").args(["-c", script, "sh"]).args(arguments).status();
        assert!(status.expect("running a shell").success(), "{script}");
    }
}

/// A new program that waits before it starts.
pub(crate) struct Gate {
    fifo: fs::File,
    started: PathBuf,
}

impl Gate {
    /// Waits until the new program has been started. Returns its process id.
    #[track_caller]
    pub(crate) fn until_started(&self) -> i32 {
        until("the new program has been started", || pid_in(&self.started))
    }

    fn open(&mut self) {
        self.fifo.write_all(b"open\n").expect("writing to a FIFO");
    }
}

fn pid_in(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

scenarios!(
    /// After SIGUSR2, the new program serves, and the old one ends once it has drained.
    fn new_program_takes_over() {
        for distribution in ["shared", "reuseport", "balanced"] {
            let copy = Copy::new(distribution);
            let pid_file = copy.file("pid");
            let path = pid_file.to_str().expect("UTF-8");
            let options = ["--workers", "2", "--pid-file", path, "--idle-grace", "0.2", "--distribution", distribution];
            let mut server = copy.start(&options);
            let address = server.address();
            assert_eq!(pid_in(&pid_file), Some(server.pid()));
            let (mut in_flight, _) = server.busy(1000);
            server.signal(Signal::USR2);
            wait_until("the new program has written its id", || {
                pid_in(&pid_file).is_some_and(|pid| pid != server.pid())
            });
            expect_answer(&mut in_flight);
            assert_eq!(server.wait().code(), Some(0));
            let new = pid_in(&pid_file).expect("the file stays");
            for _ in 0..50 {
                let status = Client::connect(address).expect("connecting").status();
                assert_eq!(status.ppid, new, "{distribution}");
            }
            signal(new, Signal::TERM);
            server.until_all_have_ended();
            assert!(!pid_file.exists());
        }
    }

    /// If each worker has a queue, an upgrade loses no connection that waits in one.
    fn queues_are_emptied() {
        let copy = Copy::new("queues");
        let options = ["--workers", "2", "--distribution", "reuseport", "--max-connections", "1"];
        let mut server = copy.start(&options);
        let clients = queue_requests(&server);
        server.signal_until(Signal::USR2, "the new program is ready: this one retires");
        expect_answers(clients);
        assert_eq!(server.wait().code(), Some(0));
    }

    /// If each worker has a queue, an upgrade resets no connection even if clients connect all the time.
    fn busy_queues_are_emptied() {
        let copy = Copy::new("busy-queues");
        let mut server = copy.start(&["--workers", "3", "--distribution", "reuseport", "--idle-grace", "0"]);
        let clients = clients_until_refused(&server, 32);
        wait_until("the workers serve", || server.connect().status().requests > 20);
        server.signal(Signal::USR2);
        assert_eq!(server.wait().code(), Some(0));
        server.signal_all(Signal::TERM);
        clients.into_iter().for_each(|client| client.join().expect("no request is lost"));
        server.until_all_have_ended();
    }

    /// During an upgrade, the supervisor refuses another one, and a reload waits.
    fn one_upgrade_at_a_time() {
        let copy = Copy::new("once");
        let mut server = copy.start(&["--workers", "1", "--idle-grace", "0"]);
        let mut gate = copy.replace_with_gate();
        server.signal(Signal::USR2);
        gate.until_started();
        server.signal_until(Signal::HUP, "command=Reload");
        server.signal_until(Signal::USR2, "an upgrade is in progress already");
        gate.open();
        assert_eq!(server.wait().code(), Some(0));
        assert!(!server.stderr().contains("reloading"), "{}", server.stderr());
    }

    /// If the new program is missing, fails, or never becomes ready, the old one continues.
    fn new_program_fails() {
        let copy = Copy::new("fails");
        let server = copy.start(&["--workers", "1", "--upgrade-timeout", "5"]);
        let pid = server.workers()[0];
        let serves = |message: &str| {
            server.until_logged(message);
            assert_eq!(server.connect().status().pid, pid);
        };
        copy.replace("#!/bin/sh\nexit 3\n");
        server.signal(Signal::USR2);
        serves("the new program ended before it was ready: this one continues");

        copy.replace("#!/bin/sh\nexec sleep 3600\n");
        server.signal_until(Signal::USR2, "which is not ready in time");
        assert!(server.stderr().contains("limit=5s"));
        wait_until("the new program is gone", || server.processes().len() == 2);
        serves("signal: 9");

        // A file of an unknown format is not run as a shell script.
        copy.replace("exit 4\n");
        server.signal(Signal::USR2);
        serves("Exec format error");

        fs::remove_file(copy.program()).expect("removing the program");
        server.signal(Signal::USR2);
        serves("No such file or directory");
        server.stop();
    }

    /// If the old program is killed before the new one is ready, its workers end and the new program serves.
    fn old_program_is_killed_during_the_upgrade() {
        let copy = Copy::new("killed");
        let pid_file = copy.file("pid");
        let mut server = copy.start(&["--workers", "2", "--pid-file", pid_file.to_str().expect("UTF-8")]);
        let (address, workers) = (server.address(), server.workers());
        let mut gate = copy.replace_with_gate();
        server.signal(Signal::USR2);
        let new = gate.until_started();
        server.signal(Signal::KILL);
        server.wait();
        wait_until("the old workers have ended", || {
            let processes = server.processes();
            processes.iter().all(|process| process.has_ended() || !workers.contains(&process.pid))
        });
        gate.open();
        wait_until("the new program has written its id", || pid_in(&pid_file) == Some(new));
        TcpStream::connect_timeout(&address, limit() / 4).expect("connecting to the new program");
        assert_eq!(Client::connect(address).expect("connecting").status().ppid, new);
        signal(new, Signal::TERM);
        server.until_all_have_ended();
    }

    /// The old program is killed while the new one loads. The new program then has another parent, such as process 1, and
    /// must not report the next upgrade to that parent.
    fn old_program_is_killed_while_the_new_one_loads() {
        let copy = Copy::new("loads");
        let pid_file = copy.file("pid");
        let options = ["--workers", "1", "--load-in-template", "--preload-mib", "32", "--pid-file"];
        let mut server = copy.start(&[&options[..], &[pid_file.to_str().expect("UTF-8")]].concat());
        server.signal(Signal::USR2);
        server.until_logged_times("template started", 2);
        server.signal(Signal::KILL);
        server.wait();
        let new = until("the new program has written its id", || pid_in(&pid_file).filter(|pid| *pid != server.pid()));
        signal(new, Signal::USR2);
        server.until_logged("the new program is ready: this one retires");
        assert!(!server.stderr().contains("cannot tell process 1"), "{}", server.stderr());
        signal(pid_in(&pid_file).expect("the id of the newest program"), Signal::TERM);
        server.until_all_have_ended();
    }

    /// A stop takes precedence over an upgrade: the supervisor kills a new program that is not ready, even in the lame-duck
    /// period.
    fn lame_duck_ends_the_upgrade() {
        let copy = Copy::new("lame-duck");
        let server = copy.start(&["--workers", "1", "--lame-duck", "3600"]);
        let gate = copy.replace_with_gate();
        server.signal(Signal::USR2);
        let new = gate.until_started();
        server.signal_until(Signal::TERM, "still accepting");
        wait_until("the new program has ended", || {
            server.processes().iter().all(|process| process.has_ended() || process.pid != new)
        });
        assert_eq!(server.connect().status().ppid, server.pid());
        let refusals = || server.stderr().matches("the server is stopping: it still accepts connections").count();
        for (number, kind) in [(1, Signal::USR2), (2, Signal::HUP)] {
            server.signal(kind);
            wait_until("the server refuses", || refusals() == number);
        }
        // A SIGTERM within 100 ms of the first one counts as the same request. Sleep instead of repeating the signal: a third
        // one would kill the worker.
        std::thread::sleep(Duration::from_millis(200));
        server.signal_until(Signal::TERM, "stopping: draining");
        server.ends_with(0);
    }

    /// Once the server stops, the kernel drops new connections, even if an upgrade has failed before.
    fn refuses_connections_at_the_stop_after_a_failed_upgrade() {
        let copy = Copy::new("stops");
        let server = copy.start(&["--workers", "1"]);
        let worker = server.workers()[0];
        copy.replace("#!/bin/sh\nexit 3\n");
        server.signal_until(Signal::USR2, "the new program ended before it was ready: this one continues");
        // A frozen worker keeps the listener open.
        freeze(worker);
        server.signal(Signal::TERM);
        let mut attempts = 0;
        wait_until("the kernel drops new connections", || {
            attempts += 1;
            assert!(attempts < 500, "the kernel makes connections until the queue is full");
            let connected = TcpStream::connect_timeout(&server.address(), Duration::from_millis(200));
            connected.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
        });
        signal(worker, Signal::CONT);
        server.ends_with(0);
    }

    /// If the new program cannot write its pid file, it ends, and the old one continues with its own pid file.
    fn new_program_cannot_write_the_pid_file() {
        let copy = Copy::new("pid-file");
        let directory = copy.file("run");
        fs::create_dir(&directory).expect("a directory");
        let path = directory.join("pid");
        let server = copy.start(&["--workers", "1", "--pid-file", path.to_str().expect("UTF-8")]);
        fs::rename(&directory, copy.file("elsewhere")).expect("renaming");
        server.signal_until(Signal::USR2, "cannot write the pid file");
        server.until_logged("this one continues");
        assert_eq!(server.connect().status().ppid, server.pid());
        fs::rename(copy.file("elsewhere"), &directory).expect("renaming");
        server.stop();
        assert!(!path.exists());
    }

    /// The server takes listeners from the environment (socket activation).
    fn listeners_of_the_environment() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("the address of a listener");
        // Descriptor 3 is the listener. A shell sets `LISTEN_PID`, because only it knows its process id before the exec.
        let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" --listen \"$1\" --workers 1 3<&0 </dev/null";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).arg(program()).arg(address.to_string());
        let kept = listener.try_clone().expect("a duplicate");
        let server = Server::start_with_stdin(&mut command, listener.into(), 1);
        // `command` has a duplicate of the listener.
        drop(command);
        assert_eq!(server.address(), address);
        server.check_serving();
        server.stop();
        // The process that has passed the listener on can still serve.
        let client = std::thread::spawn(move || Client::connect(address).map(drop));
        // The server has made the shared listener non-blocking.
        kept.set_nonblocking(false).expect("a listener");
        kept.accept().expect("a connection");
        client.join().expect("no panic").expect("connecting");
    }

    /// If the server was started through a symbolic link, an upgrade follows the link again, which may have changed.
    fn upgrade_follows_a_symbolic_link() {
        let copies = ["link-1", "link-2"].map(Copy::new);
        let link = copies[0].file("current");
        symlink(copies[0].program(), &link).expect("a link");
        let pid_file = copies[0].file("pid");
        let mut command = Command::new(&link);
        command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--pid-file", pid_file.to_str().expect("UTF-8")]);
        let mut server = Server::start_as(&mut command, 1);
        fs::remove_file(&link).expect("removing the link");
        symlink(copies[1].program(), &link).expect("another link");
        server.signal(Signal::USR2);
        let new = until("the new program has written its id", || pid_in(&pid_file).filter(|pid| *pid != server.pid()));
        assert_eq!(server.wait().code(), Some(0));
        assert_eq!(fs::read_link(format!("/proc/{new}/exe")).expect("its program"), copies[1].program());
        signal(new, Signal::TERM);
        server.until_all_have_ended();
    }
);
