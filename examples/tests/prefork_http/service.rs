//! The server as a service: systemd's notifications, privileges, and process 1 of a container.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use forkio_tests::{
    Process, freeze, is_root, limit, processes, scenarios, status_field, temporary_path, until, wait_until,
};
use rustix::process::Signal;

use crate::server::{Server, program, signal};
use crate::status::AskStatus;
use crate::stop::expect_answer;

/// A notification socket like systemd's.
struct ServiceManager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl ServiceManager {
    fn new() -> ServiceManager {
        let path = temporary_path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(limit())).expect("a limit");
        ServiceManager { socket, path }
    }

    #[track_caller]
    fn start(&self, arguments: &[&str]) -> Server {
        let mut command = Command::new(program());
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).env("NOTIFY_SOCKET", &self.path);
        Server::start_as(&mut command, 1)
    }

    /// Reads messages until one begins with `start`. Returns that message.
    #[track_caller]
    fn message(&self, start: &str) -> String {
        let mut bytes = [0; 1024];
        loop {
            let length = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("no {start}: {error}"));
            let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if message.starts_with(start) {
                return message;
            }
        }
    }
}

/// Returns the process id in a message of a program that has taken over.
#[track_caller]
fn main_pid(message: &str) -> i32 {
    message.lines().next().and_then(|line| line[8..].parse().ok()).expect("a process id")
}

/// Returns the children of a process, zombies included.
pub(crate) fn processes_of(parent: i32) -> Vec<Process> {
    processes().into_values().filter(|process| process.parent == parent).collect()
}

#[track_caller]
fn start_as_process_1(arguments: &[&str]) -> Option<(Server, i32)> {
    start_copy_as_process_1(&program(), arguments)
}

/// Starts a server as process 1 of a PID namespace. Returns it with the process id of its supervisor, or `None` if `unshare`
/// fails.
#[track_caller]
pub(crate) fn start_copy_as_process_1(program: &Path, arguments: &[&str]) -> Option<(Server, i32)> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program);
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    let is_possible = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).status();
    if !is_possible.is_ok_and(|status| status.success()) {
        return None;
    }
    let server = Server::start_as(&mut command, 1);
    let supervisor = until("the supervisor runs", || {
        let processes = server.processes();
        processes.iter().find(|process| process.parent == server.pid()).map(|process| process.pid)
    });
    Some((server, supervisor))
}

fn follows_each_upgrade(arguments: &[&str]) {
    let Some((mut server, supervisor)) = start_as_process_1(arguments) else { return };
    let mut serving = 1;
    for _ in 0..3 {
        signal(supervisor, Signal::USR2);
        let new = until("the new program serves alone", || {
            let ids: Vec<i32> = (0..20).map(|_| server.connect().status().ppid).collect();
            ids.iter().all(|id| *id == ids[0] && *id != serving).then_some(ids[0])
        });
        // Then process 1 has one child: the new program.
        wait_until("the programs that were replaced have ended", || processes_of(supervisor).len() == 1);
        serving = new;
    }
    assert!(server.is_running());
    signal(supervisor, Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(server.stderr().matches("stopping: draining the workers").count(), 1);
}

scenarios!(
    /// The service manager is told about the start, reloads, the number of workers and the stop.
    fn service_manager_is_notified() {
        let manager = ServiceManager::new();
        let server = manager.start(&["--workers", "2"]);
        let ready = manager.message("READY=1");
        assert!(ready.contains("STATUS=2 workers are ready"), "{ready}");
        server.signal(Signal::HUP);
        let reloading = manager.message("RELOADING=1");
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        manager.message("READY=1");
        for (kind, number) in [(Signal::TTIN, 3), (Signal::TTOU, 2), (Signal::WINCH, 0)] {
            server.signal(kind);
            assert_eq!(manager.message("STATUS="), format!("STATUS=the number of workers is {number}\n"));
        }
        server.signal(Signal::TERM);
        manager.message("STOPPING=1");
        server.ends_with(0);
    }

    /// If a stop signal arrives just as the new program reports that it is ready, the old program passes the signal on.
    fn stop_is_passed_on_to_a_program_that_is_ready() {
        let manager = ServiceManager::new();
        let server = manager.start(&["--workers", "1", "--lame-duck", "1", "--upgrade-timeout", "60"]);
        manager.message("READY=1");
        server.signal_until(Signal::USR2, "started the program again");
        freeze(server.pid());
        // The new program reports to the old program first, and then to the service manager.
        manager.message("READY=1");
        let mut in_flight = until("the new program has accepted a connection", || {
            let mut client = server.connect();
            (client.status().ppid != server.pid()).then_some(client)
        });
        in_flight.request("/sleep/1500").expect("sending");
        server.signal(Signal::TERM);
        server.signal_until(Signal::CONT, "passing the stop signal on");
        expect_answer(&mut in_flight);
        server.until_all_have_ended();
    }

    /// A new program that is killed at the deadline has failed, even if it became ready before the deadline.
    fn program_that_is_killed_at_the_deadline_does_not_take_over() {
        let manager = ServiceManager::new();
        let mut server = manager.start(&["--workers", "1", "--upgrade-timeout", "3"]);
        manager.message("READY=1");
        let began = Instant::now();
        server.signal_until(Signal::USR2, "started the program again");
        freeze(server.pid());
        manager.message("READY=1");
        wait_until("the deadline has passed", || began.elapsed() > Duration::from_secs(4));
        // The server handles this signal before it reads that the new program is ready.
        server.signal(Signal::USR1);
        server.signal_until(Signal::CONT, "which is not ready in time");
        server.until_logged("the new program ended before it was ready: this one continues");
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
        server.until_all_have_ended();
    }

    /// The server notifies the watchdog of systemd.
    fn watchdog() {
        let manager = ServiceManager::new();
        let mut command = Command::new(program());
        command.args(["--listen", "127.0.0.1:0", "--workers", "1"]);
        command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
        let server = Server::start_as(&mut command, 1);
        for _ in 0..3 {
            manager.message("WATCHDOG=1");
        }
        server.stop();
    }

    /// systemd names the process that it watches (`WATCHDOG_PID`). After an upgrade, the new program notifies the watchdog.
    fn watchdog_of_an_upgraded_server() {
        let manager = ServiceManager::new();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "export WATCHDOG_PID=$$; exec \"$@\"", "sh"]).arg(program());
        command.args(["--listen", "127.0.0.1:0", "--workers", "1"]);
        command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
        let mut server = Server::start_as(&mut command, 1);
        manager.message("WATCHDOG=1");
        server.signal(Signal::USR2);
        let new = main_pid(&manager.message("MAINPID="));
        assert_eq!(server.wait().code(), Some(0));
        // The socket's queue may still have messages of the old program, but fewer than 20.
        for _ in 0..20 {
            manager.message("WATCHDOG=1");
        }
        signal(new, Signal::TERM);
        server.until_all_have_ended();
    }

    /// An upgrade tells the service manager the process id of the new program.
    fn upgrade_names_the_new_process() {
        let manager = ServiceManager::new();
        let mut server = manager.start(&["--workers", "1"]);
        server.signal(Signal::USR2);
        let new = main_pid(&manager.message("MAINPID="));
        assert_ne!(new, server.pid());
        assert_eq!(server.wait().code(), Some(0));
        signal(new, Signal::TERM);
        server.until_all_have_ended();
    }

    /// Workers run with the user, group, umask and priority of the options. The supervisor keeps its privileges.
    fn workers_run_as_another_user() {
        if !is_root() {
            return;
        }
        for more in [&["--workers", "1"][..], &["--workers", "1", "--load-in-template"]] {
            let options = ["--user", "12345", "--group", "65533", "--no-new-privs", "--umask", "027", "--nice", "5"];
            let server = Server::start(&[more, &options].concat());
            let worker = server.connect().status().pid;
            assert_eq!(status_field(worker, "Uid"), "12345\t12345\t12345\t12345");
            assert_eq!(status_field(worker, "Gid"), "65533\t65533\t65533\t65533");
            assert_eq!(status_field(worker, "Groups"), "65533");
            assert_eq!(status_field(worker, "NoNewPrivs"), "1");
            assert_eq!(status_field(worker, "Umask"), "0027");
            let stat = fs::read_to_string(format!("/proc/{worker}/stat")).expect("the stat of a process");
            assert_eq!(stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(17)), Some("5"), "{stat}");
            assert_eq!(status_field(server.pid(), "Uid"), "0\t0\t0\t0", "the supervisor keeps its user");
            // The supervisor can still reload, and end workers that run as another user.
            server.signal_until(Signal::HUP, "reloaded");
            let new =
                until("a new worker answers", || Some(server.connect().status().pid).filter(|pid| *pid != worker));
            assert_eq!(status_field(new, "Uid"), "12345\t12345\t12345\t12345");
            server.stop();
        }
    }

    /// A user that does not exist is an error.
    fn unknown_user() {
        let output = Command::new(program()).args(["--listen", "127.0.0.1:0", "--user", "no-such-user"]).output();
        let output = output.expect("running the program");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("no-such-user"), "{stderr}");
    }

    /// Workers stay on the CPUs of `--cpus`.
    fn workers_stay_on_cpus() {
        for options in [&[][..], &["--load-in-template"]] {
            let server = Server::start(&[&["--workers", "2", "--cpus", "0"], options].concat());
            // A worker is on its CPU before it serves.
            for (_, status) in server.connect_to_each(2) {
                assert_eq!(status_field(status.pid, "Cpus_allowed_list"), "0");
            }
            server.stop();
        }
    }

    /// Restrictions of a worker apply to all its threads.
    fn threads_of_workers_are_restricted() {
        let server = Server::start(&["--workers", "1", "--worker-threads", "3", "--cpus", "0", "--no-new-privs"]);
        // The worker's runtime has its threads once the worker answers.
        server.check_serving();
        let worker = server.workers()[0];
        let tasks = fs::read_dir(format!("/proc/{worker}/task")).expect("the threads of a worker");
        let tasks: Vec<_> = tasks.map(|task| task.expect("a thread").path().join("status")).collect();
        assert!(tasks.len() >= 4, "{tasks:?}");
        for task in tasks {
            let status = fs::read_to_string(&task).expect("the status of a thread");
            for line in ["NoNewPrivs:\t1\n", "Cpus_allowed_list:\t0\n"] {
                assert!(status.contains(line), "no {line:?} in {status}");
            }
        }
        server.stop();
    }

    /// Process 1 stays through several upgrades, passes signals on to the program that serves, and ends with it.
    fn process_1_follows_each_upgrade() {
        follows_each_upgrade(&["--workers", "1", "--idle-grace", "0.2"]);
        // With templates, each program adopts orphans as a subreaper. Without them, only process 1 does.
        follows_each_upgrade(&["--workers", "1", "--idle-grace", "0.2", "--load-in-template"]);
    }

    /// A signal to stop reaches the new program while process 1 still drains its own workers.
    fn process_1_passes_signals_on_while_it_drains() {
        let Some((mut server, supervisor)) = start_as_process_1(&["--workers", "1"]) else { return };
        let (mut in_flight, _) = server.busy(3000);
        signal(supervisor, Signal::USR2);
        server.until_logged("the new program is ready: this one retires");
        signal(supervisor, Signal::TERM);
        server.until_logged("stopping: draining the workers");
        expect_answer(&mut in_flight);
        assert_eq!(server.wait().code(), Some(0));
    }

    /// Process 1 ends with the status of the last program, even if that program ends before the one that it has replaced.
    fn process_1_ends_with_the_last_program() {
        let Some((mut server, supervisor)) = start_as_process_1(&["--workers", "1", "--idle-grace", "0"]) else {
            return;
        };
        let upgrade = |number| {
            signal(supervisor, Signal::USR2);
            wait_until("the new program has taken over", || {
                server.stderr().matches("the new program is ready: this one retires").count() == number
            });
        };
        upgrade(1);
        // From now on, no worker of the first program accepts connections.
        server.until_logged("staying as process 1 for the new program");
        let (mut in_flight, _) = server.busy(3000);
        upgrade(2);
        signal(supervisor, Signal::TERM);
        server.until_logged("stopping: draining the workers");
        expect_answer(&mut in_flight);
        assert_eq!(server.wait().code(), Some(0));
    }

    /// If the program that serves is killed while it starts the next one, process 1 stays, and follows the next one.
    fn process_1_waits_for_a_program_that_starts() {
        // Loading takes some time, so the program is killed before the next one is ready.
        let arguments = ["--workers", "1", "--load-in-template", "--preload-mib", "32", "--idle-grace", "0"];
        let Some((mut server, supervisor)) = start_as_process_1(&arguments) else { return };
        signal(supervisor, Signal::USR2);
        server.until_logged("this one retires");
        let serving = until("only the new program still runs", || match processes_of(supervisor).as_slice() {
            [program] => Some(program.pid),
            _ => None,
        });
        signal(serving, Signal::USR2);
        server.until_logged_times("loading the application", 3);
        signal(serving, Signal::KILL);
        server.until_logged("process 1 waits for it");
        server.check_serving();
        signal(supervisor, Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
    }

    /// As process 1 of a PID namespace, the supervisor reaps orphans that it adopts.
    fn process_1_reaps_orphans() {
        let Some((mut server, supervisor)) = start_as_process_1(&["--workers", "1"]) else { return };
        // Starts a process whose parent ends immediately.
        let enter = format!("nsenter --target {supervisor} --pid sh -c '(exec sleep 3600 &)'");
        assert!(Command::new("sh").args(["-c", &enter]).status().expect("entering the namespace").success());
        let is_orphan = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        let orphan = until("the supervisor adopts the orphan", || {
            processes_of(supervisor).iter().map(|process| process.pid).find(|pid| is_orphan(*pid))
        });
        signal(orphan, Signal::KILL);
        wait_until("the orphan is reaped", || processes_of(supervisor).iter().all(|process| process.pid != orphan));
        signal(supervisor, Signal::TERM);
        server.wait();
    }

    /// systemd accepts the unit files of the guide. Versions of systemd before 253 do not know `Type=notify-reload`.
    fn unit_files_of_the_guide() {
        let guide = include_str!("../../../runtime-glue/docs/operating.md");
        let blocks: Vec<&str> = guide.split("```ini\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let mut units = Vec::new();
        for block in blocks {
            let path = block.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a path in the first line");
            let unit = temporary_path(path.rsplit('/').next().expect("a name"));
            let program = program();
            fs::write(&unit, block.replace("/usr/local/bin/prefork-http", program.to_str().expect("UTF-8")))
                .expect("a unit");
            units.push(unit);
        }
        assert_eq!(units.len(), 2);
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output();
        let Ok(output) = verified else { return };
        let stderr = String::from_utf8_lossy(&output.stderr);
        let complaints = stderr.lines().filter(|line| line.contains("prefork-http") && !line.contains("notify-reload"));
        assert_eq!(complaints.collect::<Vec<_>>(), [""; 0], "{stderr}");
        assert!(output.status.success(), "{stderr}");
    }
);
