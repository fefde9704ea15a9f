//! Commands over the control socket.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use forkio_tests::http::{connect, exchange, send};
use forkio_tests::{Program, arguments, children_of, is_root, kill, read_to_end, scenarios, until, wait_until};
use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::server::NOT_ANNOUNCED;
use crate::server::{Server, pids, request, serving, state_at, workers};

/// A user without privileges.
const OTHER_USER: u32 = 65_534;

/// Sends a command, and checks status and outcome of the answer. Returns its message.
#[track_caller]
fn command(server: &Server, command: &str, status: u16, outcome: &str) -> String {
    let answer = server.command(command);
    let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let text = |name: &str| json[name].as_str().expect("a text").to_owned();
    let message = text("message");
    assert_eq!((answer.status, &*text("outcome")), (status, outcome), "{command}: {message}");
    message
}

/// Freezes the template of a server with two workers, so that no worker gets a successor. Returns the template's
/// process id.
#[track_caller]
fn freeze_template(server: &Server) -> i32 {
    let others = [pids(&server.until_two_serve()), vec![server.service_worker().into()]].concat();
    let is_template = |pid: &i32| !others.contains(&i64::from(*pid));
    let template = children_of(server.supervisor()).into_iter().find(is_template).expect("a template");
    kill(template, libc::SIGSTOP);
    template
}

scenarios!(
    /// The server answers `reload` when the new generation serves. With `wait=no`, it answers when it has accepted the command.
    fn reload() {
        let server = Server::start(&[]);
        assert_eq!(command(&server, "reload", 200, "done"), "generation 2 serves");
        assert_eq!(server.state()["server"]["generation"], 2);
        command(&server, "reload?wait=no", 202, "accepted");
        server.until("the reload is done", |state| state["server"]["generation"] == 3);
        server.stop();
    }

    /// The answer to a failed reload gives the reason. The old generation continues to serve.
    fn failed_reload() {
        let server = Server::start(&[]);
        fs::remove_file(&server.load).expect("removing");
        let message = command(&server, "reload", 409, "failed");
        assert!(
            message.contains("the old generation continues to serve") && message.contains("No such file"),
            "{message}"
        );
        assert_eq!(server.state()["server"]["generation"], 1);
        assert!(server.pid() > 0);
        server.stop();
    }

    /// The answer to a failed reload of a server without workers does not claim that the old generation serves.
    fn failed_reload_without_workers() {
        let server = Server::start(&[]);
        server.state();
        server.program.signal(libc::SIGWINCH);
        server.until("all workers have ended", |state| workers(state).is_empty());
        fs::remove_file(&server.load).expect("removing");
        let message = command(&server, "reload", 409, "failed");
        assert!(message.starts_with("the server has no workers: "), "{message}");
        server.stop();
    }

    /// The number of workers changes as commanded, within its limits.
    fn scale() {
        let server = Server::start(&[]);
        for workers_wanted in [4, 1] {
            command(&server, &format!("scale?workers={workers_wanted}"), 200, "done");
            let state = server.state();
            assert_eq!(serving(&state), workers_wanted, "{state}");
        }
        let state = server.until("three workers have ended", |state| workers(state).len() == 1);
        let restarts = state["restarts"].as_array().expect("restarts");
        assert!(restarts.iter().all(|restart| restart["reason"] == "scaled"), "{state}");
        for (command, status) in
            [("scale?workers=0", 409), ("scale?workers=100000", 409), ("scale", 400), ("scale?workers=x", 400)]
        {
            assert_eq!(server.command(command).status, status, "{command}");
        }
        server.stop();
    }

    /// `retire` ends the worker with the given index, and no other, when its successor serves. Invalid commands are refused.
    fn retire() {
        let server = Server::start(&[]);
        let before = server.until_two_serve();
        command(&server, "retire?worker=1", 200, "done");
        let state = server.until("the worker has ended", |state| state["restarts"][0]["reason"] == "operator");
        assert_eq!(state["restarts"][0]["pid"], pids(&before)[1]);
        assert_eq!(pids(&state)[0], pids(&before)[0], "the other worker was replaced");
        assert_eq!(serving(&state), 2, "the worker ended before its successor served");
        assert_eq!(server.command("retire?worker=9").status, 409);
        assert_eq!(server.command("retire").status, 400);
        assert_eq!(server.command("fly").status, 404);
        let answer = request(&server.control_address(), "GET", "/control/reload");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
        server.stop();
    }

    /// A client that waits for the successor of a worker gets an error if the number of workers is reduced meanwhile.
    fn retire_and_scale() {
        let mut server = Server::start(&[]);
        let template = freeze_template(&server);
        let waiting = send(&server.control_address(), "POST", "/control/retire?worker=1").expect("a command");
        while !server.program.line().contains("retire 1") {}
        assert_eq!(server.command("scale?workers=1").status, 200);
        let answer = read_to_end(waiting);
        assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("the number of workers"), "{answer}");
        kill(template, libc::SIGCONT);
        server.stop();
    }

    /// Once the server stops, commands fail, even those that have begun.
    fn stopping() {
        let mut server = Server::start(&["--shutdown-timeout", "600"]);
        freeze_template(&server);
        let held = server.hold_request();
        let waiting = send(&server.control_address(), "POST", "/control/retire?worker=1").expect("a command");
        while !server.program.line().contains("retire 1") {}
        server.program.signal(libc::SIGTERM);
        let answer = read_to_end(waiting);
        assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("the server is stopping"), "{answer}");
        server.until("the server stops", |state| state["server"]["state"] == "stopping");
        assert_eq!(command(&server, "reload", 409, "failed"), "the server is stopping");
        drop(held);
        server.program.finish_well();
    }

    /// The supervisor refuses commands while too many wait for their results.
    fn too_many_commands() {
        let server = Server::start(&[]);
        let template = freeze_template(&server);
        let accepted = (0..500).take_while(|_| server.command("retire?worker=1&wait=no").status == 202).count();
        assert!(accepted < 500, "the supervisor keeps every command");
        kill(template, libc::SIGCONT);
        wait_until("the commands are done", || server.command("scale?workers=2").status == 200);
        server.stop();
    }

    /// Clients that wait for the results of their commands keep their connections, however many there are.
    fn many_clients_wait() {
        let mut server = Server::start(&[]);
        let template = freeze_template(&server);
        let command = |_| send(&server.control_address(), "POST", "/control/retire?worker=1").expect("a command");
        let waiting: Vec<_> = (0..60).map(command).collect();
        for _ in 0..waiting.len() {
            while !server.program.line().contains("retire 1") {}
        }
        // These clients send nothing. They must neither be served forever nor displace the clients that wait.
        let idle: Vec<_> = (0..200).map(|_| connect(&server.control_address())).collect();
        assert_eq!(request(&server.control_address(), "GET", "/healthz").status, 200);
        kill(template, libc::SIGCONT);
        for client in waiting {
            let answer = read_to_end(client);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        drop(idle);
        server.stop();
    }

    /// The server answers `upgrade` once the new program serves at the same addresses. No client is refused meanwhile.
    fn upgrade() {
        // All addresses in 127.0.0.0/8 are this machine. One made from the process id differs from those of other scenarios.
        let [.., high, low] = std::process::id().to_be_bytes();
        let server = Server::start(&["--status", &format!("127.77.{high}.{low}:9100")]);
        let before = server.supervisor();
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = [server.page.clone(), server.control_address()].map(|address| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let mut refused = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let error = exchange(&address, "GET", "/healthz").err().map(|error| error.kind());
                    refused += usize::from(matches!(error, Some(ErrorKind::ConnectionRefused | ErrorKind::NotFound)));
                }
                refused
            })
        });
        let message = command(&server, "upgrade", 200, "done");
        let pid_at = |address: &str| Some(state_at(address)?["server"]["pid"].as_i64().expect("a process id") as i32);
        let after = until("the new program has the page", || pid_at(&server.page).filter(|pid| *pid != before));
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().expect("the client"), 0, "connections were refused");
        }
        assert!(message.contains(&after.to_string()), "{message}");
        assert_eq!(pid_at(&server.control_address()), Some(after));
        assert!(server.pid() > 0);
        let Server { program, control, .. } = server;
        kill(after, libc::SIGTERM);
        // This checks the exit code of the old program. It also waits until the new program ends, because both have the same
        // output.
        program.finish_well();
        assert!(!control.exists(), "the control socket was not removed");
    }

    /// After an upgrade that fails, the old program still has its page and its control socket.
    fn failed_upgrade() {
        let server = Server::start(&[]);
        fs::remove_file(&server.load).expect("removing");
        let message = command(&server, "upgrade", 409, "failed");
        assert!(message.contains("the old program continues to serve"), "{message}");
        assert_eq!(server.state()["server"]["pid"], server.supervisor());
        assert_eq!(server.command("scale?workers=0").status, 409);
        server.stop();
    }

    /// A new program that fails after it was ready leaves the page's socket and the control socket to the old program.
    #[cfg(target_os = "linux")]
    fn unannounced_upgrade() {
        let page = forkio_tests::temporary_path("page");
        let server = Server::start(&["--status", &format!("unix:{}", page.display())]);
        fs::write(&server.load, NOT_ANNOUNCED).expect("writing the file that a template loads");
        let message = command(&server, "upgrade", 409, "failed");
        assert!(message.contains("the old program continues to serve"), "{message}");
        for address in [server.control_address(), format!("unix:{}", page.display())] {
            let state = state_at(&address).expect("an answer");
            assert_eq!(state["server"]["pid"], server.supervisor());
        }
        server.stop();
        assert!(!page.exists(), "the page's socket was not removed");
    }

    /// `--no-new-privs` applies to every thread of the service worker.
    #[cfg(procfs)]
    fn no_new_privs_in_each_thread() {
        let server = Server::start(&["--no-new-privs"]);
        let process = server.service_worker();
        let threads: Vec<_> = fs::read_dir(format!("/proc/{process}/task")).expect("the threads").collect();
        assert!(threads.len() > 1, "{threads:?}");
        for thread in threads {
            let status = thread.expect("a thread").path().join("status");
            let status = fs::read_to_string(status).expect("the state of a thread");
            assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        }
        server.stop();
    }

    /// Sends requests to a control socket as another user, and prints the results. The argument is the socket's address.
    #[program]
    fn as_other_user() {
        // SAFETY: the list of groups is empty; this process has one thread.
        let results =
            unsafe { [libc::setgroups(0, std::ptr::null()), libc::setgid(OTHER_USER), libc::setuid(OTHER_USER)] };
        assert_eq!(results, [0; 3]);
        let [address] = arguments().try_into().expect("an address");
        for path in ["/status.json", "/control/reload"] {
            match exchange(&address, "POST", path) {
                Ok(answer) => println!("{}", answer.status),
                Err(error) => println!("{:?}", error.kind()),
            }
        }
    }

    /// Another user cannot open the socket. If its permissions let that user connect, the server refuses the requests.
    fn other_users_are_refused() {
        if !is_root() {
            eprintln!("not tested: only root can become another user");
            return;
        }
        // The service worker's user is refused as well.
        let server = Server::start(&["--user", "65534", "--group", "65534"]);
        let ask = || {
            let mut program = Program::start("control::as_other_user", &[&server.control_address()]);
            let lines = [program.line(), program.line()];
            program.finish_well();
            lines
        };
        assert_eq!(ask(), ["PermissionDenied", "PermissionDenied"]);
        let all = fs::Permissions::from_mode(0o666);
        fs::set_permissions(&server.control, all).expect("changing the permissions");
        assert_eq!(ask(), ["403", "403"]);
        assert_eq!(server.command("reload").status, 200, "a reload by root");
        assert_eq!(server.state()["server"]["generation"], 2);
        #[cfg(procfs)]
        server.until("the memory of other users' processes is shown", |state| {
            workers(state).iter().all(|worker| worker["memory"]["rss"].as_u64() > Some(0))
        });
        server.stop();
    }
);
