//! The server as a service: systemd's notifications, privileges, and process 1 of a container.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::server::{LIMIT, Server, program, signal, until};

/// A notification socket like systemd's.
struct ServiceManager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl ServiceManager {
    fn new(name: &str) -> ServiceManager {
        let path = std::env::temp_dir().join(format!("prefork-http-{name}-{}.notify", std::process::id()));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        ServiceManager { socket, path }
    }

    #[track_caller]
    fn start(&self, arguments: &[&str]) -> Server {
        let mut command = Command::new(program());
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).env("NOTIFY_SOCKET", &self.path);
        Server::start_as(&mut command, 1)
    }

    /// The next message that begins with `start`.
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

impl Drop for ServiceManager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn service_manager_is_notified() {
    let manager = ServiceManager::new("notify");
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

/// If a signal to stop arrives just as the new program reports that it is ready, the old program passes the signal on to it.
#[test]
fn stop_is_passed_on_to_a_program_that_is_ready() {
    let manager = ServiceManager::new("stop-after-upgrade");
    let server = manager.start(&["--workers", "1", "--lame-duck", "1", "--upgrade-timeout", "60"]);
    manager.message("READY=1");
    server.signal(Signal::USR2);
    server.until_logged("started the program again");
    server.signal(Signal::STOP);
    server.until_stopped(server.pid());
    // The new program reports to the old program first, and then to the service manager.
    manager.message("READY=1");
    let mut in_flight = until("the new program has accepted a connection", || {
        let mut client = server.connect();
        (client.status().ppid != server.pid()).then_some(client)
    });
    in_flight.request("/sleep/1500").expect("sending");
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    server.until_logged("passing the signal to stop on");
    assert_eq!(in_flight.response().expect("the answer to the request in flight").status, 200);
    until("all processes have ended", || server.processes().iter().all(|process| process.zombie).then_some(()));
}

/// A new program that is killed at the deadline has failed, even if it became ready just before that.
#[test]
fn program_that_is_killed_at_the_deadline_does_not_take_over() {
    let manager = ServiceManager::new("killed-upgrade");
    let mut server = manager.start(&["--workers", "1", "--upgrade-timeout", "3"]);
    manager.message("READY=1");
    let began = Instant::now();
    server.signal(Signal::USR2);
    server.until_logged("started the program again");
    server.signal(Signal::STOP);
    server.until_stopped(server.pid());
    manager.message("READY=1");
    until("the deadline has passed", || (began.elapsed() > Duration::from_secs(4)).then_some(()));
    // The server handles this signal before it reads that the new program is ready.
    server.signal(Signal::USR1);
    server.signal(Signal::CONT);
    server.until_logged("which is not ready in time");
    server.until_logged("the new program ended before it was ready: this one continues");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    // The new program's worker is not a child of this test, so it may stay a zombie.
    until("all processes have ended", || server.processes().iter().all(|process| process.zombie).then_some(()));
}

#[test]
fn watchdog() {
    let manager = ServiceManager::new("watchdog");
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
#[test]
fn watchdog_of_an_upgraded_server() {
    let manager = ServiceManager::new("upgraded-watchdog");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "export WATCHDOG_PID=$$; exec \"$@\"", "sh"]).arg(program());
    command.args(["--listen", "127.0.0.1:0", "--workers", "1"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let mut server = Server::start_as(&mut command, 1);
    manager.message("WATCHDOG=1");
    server.signal(Signal::USR2);
    let message = manager.message("MAINPID=");
    let new: u32 = message.lines().next().and_then(|line| line[8..].parse().ok()).expect("a process id");
    assert_eq!(server.wait().code(), Some(0));
    // The socket's queue may still have messages of the old program, but fewer than 20.
    for _ in 0..20 {
        manager.message("WATCHDOG=1");
    }
    signal(new, Signal::TERM);
    until("all processes have ended", || server.processes().iter().all(|process| process.zombie).then_some(()));
}

#[test]
fn upgrade_names_the_new_process() {
    let manager = ServiceManager::new("upgrade");
    let mut server = manager.start(&["--workers", "1"]);
    server.signal(Signal::USR2);
    let message = manager.message("MAINPID=");
    let new: u32 = message.lines().next().and_then(|line| line[8..].parse().ok()).expect("a process id");
    assert_ne!(new, server.pid());
    assert_eq!(server.wait().code(), Some(0));
    signal(new, Signal::TERM);
    until("all processes have ended", || server.processes().iter().all(|process| process.zombie).then_some(()));
}

fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of a process");
    let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
    value.trim().to_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn workers_run_as_another_user() {
    if !is_root() {
        return;
    }
    for more in [&["--workers", "1"][..], &["--workers", "1", "--load-in-template"]] {
        let options = ["--user", "12345", "--group", "65533", "--no-new-privs", "--umask", "027", "--nice", "5"];
        let server = Server::start(&[more, &options].concat());
        let worker = server.connect().status().pid;
        assert_eq!(status_field(worker, "Uid:"), "12345\t12345\t12345\t12345");
        assert_eq!(status_field(worker, "Gid:"), "65533\t65533\t65533\t65533");
        assert_eq!(status_field(worker, "Groups:"), "65533");
        assert_eq!(status_field(worker, "NoNewPrivs:"), "1");
        assert_eq!(status_field(worker, "Umask:"), "0027");
        let stat = fs::read_to_string(format!("/proc/{worker}/stat")).expect("the stat of a process");
        assert_eq!(stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(17)), Some("5"), "{stat}");
        assert_eq!(status_field(server.pid(), "Uid:"), "0\t0\t0\t0", "the supervisor keeps its user");
        // The supervisor can still reload, and end workers that run as another user.
        server.signal(Signal::HUP);
        server.until_logged("reloaded");
        let new = until("a new worker answers", || Some(server.connect().status().pid).filter(|pid| *pid != worker));
        assert_eq!(status_field(new, "Uid:"), "12345\t12345\t12345\t12345");
        server.stop();
    }
}

#[test]
fn unknown_user() {
    let output = Command::new(program()).args(["--listen", "127.0.0.1:0", "--user", "no-such-user"]).output();
    let output = output.expect("running the program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no-such-user"), "{stderr}");
}

#[test]
fn workers_stay_on_cpus() {
    for options in [&[][..], &["--load-in-template"]] {
        let server = Server::start(&[&["--workers", "2", "--cpus", "0"], options].concat());
        // A worker is on its CPU before it serves.
        for (_, status) in server.connect_to_each(2) {
            assert_eq!(status_field(status.pid, "Cpus_allowed_list:"), "0");
        }
        server.stop();
    }
}

/// Restrictions of a worker apply to all its threads.
#[test]
fn threads_of_workers_are_restricted() {
    let server = Server::start(&["--workers", "1", "--worker-threads", "3", "--cpus", "0", "--no-new-privs"]);
    // The worker's runtime has its threads once the worker answers.
    assert_eq!(server.connect().get("/").expect("an answer").status, 200);
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

#[track_caller]
fn start_as_process_1(arguments: &[&str]) -> Option<(Server, u32)> {
    start_copy_as_process_1(&program(), arguments)
}

/// Starts a server as process 1 of a PID namespace. Returns it with the process id of its supervisor, or `None` if `unshare`
/// fails.
#[track_caller]
pub(crate) fn start_copy_as_process_1(program: &Path, arguments: &[&str]) -> Option<(Server, u32)> {
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

/// Process 1 stays through several upgrades, passes signals on to the program that serves, and ends with it.
#[test]
fn process_1_follows_each_upgrade() {
    follows_each_upgrade(&["--workers", "1", "--idle-grace", "0.2"]);
    // With templates, each program adopts orphans as a subreaper. Without them, only process 1 does.
    follows_each_upgrade(&["--workers", "1", "--idle-grace", "0.2", "--load-in-template"]);
}

fn follows_each_upgrade(arguments: &[&str]) {
    let Some((mut server, supervisor)) = start_as_process_1(arguments) else { return };
    let mut serving = 1;
    for _ in 0..3 {
        signal(supervisor, Signal::USR2);
        let new = until("the new program serves alone", || {
            let ids: Vec<u32> = (0..20).map(|_| server.connect().status().ppid).collect();
            ids.iter().all(|id| *id == ids[0] && *id != serving).then_some(ids[0])
        });
        // Then process 1 has one child: the new program.
        until("the programs that were replaced have ended", || {
            (server.processes_of(supervisor).len() == 1).then_some(())
        });
        serving = new;
    }
    assert!(server.is_running());
    signal(supervisor, Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(server.stderr().matches("stopping: draining the workers").count(), 1);
}

/// A signal to stop reaches the new program while process 1 still drains its own workers.
#[test]
fn process_1_passes_signals_on_while_it_drains() {
    let Some((mut server, supervisor)) = start_as_process_1(&["--workers", "1"]) else { return };
    let (mut in_flight, _) = crate::stop::busy(&server, 3000);
    signal(supervisor, Signal::USR2);
    server.until_logged("the new program is ready: this one retires");
    signal(supervisor, Signal::TERM);
    server.until_logged("stopping: draining the workers");
    assert_eq!(in_flight.response().expect("the answer to the request in flight").status, 200);
    assert_eq!(server.wait().code(), Some(0));
}

/// Process 1 ends with the status of the last program, even if that program ends before the one that it has replaced.
#[test]
fn process_1_ends_with_the_last_program() {
    let Some((mut server, supervisor)) = start_as_process_1(&["--workers", "1", "--idle-grace", "0"]) else { return };
    let upgrade = |number| {
        signal(supervisor, Signal::USR2);
        until("the new program has taken over", || {
            (server.stderr().matches("the new program is ready: this one retires").count() == number).then_some(())
        });
    };
    upgrade(1);
    // From now on, no worker of the first program accepts connections.
    server.until_logged("staying as process 1 for the new program");
    let (mut in_flight, _) = crate::stop::busy(&server, 3000);
    upgrade(2);
    signal(supervisor, Signal::TERM);
    server.until_logged("stopping: draining the workers");
    assert_eq!(in_flight.response().expect("the answer to the request in flight").status, 200);
    assert_eq!(server.wait().code(), Some(0));
}

/// If the program that serves is killed while it starts the next one, process 1 stays, and follows the next one.
#[test]
fn process_1_waits_for_a_program_that_starts() {
    // Loading takes some time, so the program is killed before the next one is ready.
    let arguments = ["--workers", "1", "--load-in-template", "--preload-mib", "32", "--idle-grace", "0"];
    let Some((mut server, supervisor)) = start_as_process_1(&arguments) else { return };
    signal(supervisor, Signal::USR2);
    server.until_logged("this one retires");
    let serving = until("the new program is left", || match server.processes_of(supervisor).as_slice() {
        [program] => Some(program.pid),
        _ => None,
    });
    signal(serving, Signal::USR2);
    until("the next program loads", || (server.stderr().matches("loading the application").count() == 3).then_some(()));
    signal(serving, Signal::KILL);
    server.until_logged("process 1 follows it");
    assert_eq!(server.connect().get("/").expect("an answer").status, 200);
    signal(supervisor, Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

/// As process 1 of a PID namespace, the supervisor reaps orphans that it inherits.
#[test]
fn process_1_reaps_orphans() {
    let Some((mut server, supervisor)) = start_as_process_1(&["--workers", "1"]) else { return };
    // Starts a process whose parent ends immediately.
    let enter = format!("nsenter --target {supervisor} --pid sh -c '(exec sleep 3600 &)'");
    assert!(Command::new("sh").args(["-c", &enter]).status().expect("entering the namespace").success());
    let is_orphan = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    let orphan = until("the supervisor inherits the orphan", || {
        server.processes_of(supervisor).iter().map(|process| process.pid).find(|pid| is_orphan(*pid))
    });
    signal(orphan, Signal::KILL);
    let is_left = || server.processes_of(supervisor).iter().any(|process| process.pid == orphan);
    until("the orphan is reaped", || (!is_left()).then_some(()));
    signal(supervisor, Signal::TERM);
    server.wait();
}

/// systemd accepts the unit files of the guide. Versions of systemd before 253 do not know `Type=notify-reload`.
#[test]
fn unit_files_of_the_guide() {
    let guide = include_str!("../../../runtime-glue/docs/operating.md");
    let directory = std::env::temp_dir().join(format!("prefork-http-units-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let blocks: Vec<&str> = guide.split("```ini\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let mut units = Vec::new();
    for block in blocks {
        let path = block.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a path in the first line");
        let unit = directory.join(path.rsplit('/').next().expect("a name"));
        let program = program();
        fs::write(&unit, block.replace("/usr/local/bin/prefork-http", program.to_str().expect("UTF-8")))
            .expect("a unit");
        units.push(unit);
    }
    assert_eq!(units.len(), 2);
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output();
    fs::remove_dir_all(&directory).expect("removing the units");
    let Ok(output) = verified else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    let complaints = stderr.lines().filter(|line| line.contains("prefork-http") && !line.contains("notify-reload"));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0], "{stderr}");
    assert!(output.status.success(), "{stderr}");
}
