//! Commands over the control socket.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use forkio_tests::{Program, arguments, kill, scenarios, wait_until};
use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::server::{NOT_ANNOUNCED, own_path};
use crate::server::{Server, connect, is_serving, pids, remove, request, send, try_request, workers};

/// A user without privileges.
const OTHER_USER: u32 = 65_534;

#[track_caller]
fn outcome(answer: &crate::server::Answer) -> (u16, String, String) {
    let json: Value = serde_json::from_str(&answer.body).expect("JSON");
    let text = |name: &str| json[name].as_str().expect("a text").to_owned();
    (answer.status, text("outcome"), text("message"))
}

/// Stops the template of a server with two workers, so that no worker gets a successor. Returns the template's process id.
#[track_caller]
fn stopped_template(server: &Server) -> i32 {
    let state = server.until("both workers are ready", |state| {
        workers(state).iter().filter(|worker| is_serving(worker)).count() == 2
    });
    let others = [pids(&state), vec![state["server"]["service_pid"].as_i64().expect("a process id")]].concat();
    let is_template = |pid: &i32| !others.contains(&i64::from(*pid));
    let children = forkio_tests::processes().into_iter().filter(|(_, process)| process.parent == server.supervisor());
    let template = children.map(|(pid, _)| pid).find(is_template).expect("a template");
    kill(template, libc::SIGSTOP);
    template
}

scenarios!(
    /// The server answers `reload` when the new generation serves. With `wait=no`, it answers when it has accepted the command.
    fn reload() {
        let server = Server::start(&[]);
        assert_eq!(outcome(&server.command("reload")), (200, "done".to_owned(), "generation 2 serves".to_owned()));
        assert_eq!(server.state()["server"]["generation"], 2);
        let (status, kind, _) = outcome(&server.command("reload?wait=no"));
        assert_eq!((status, &*kind), (202, "accepted"));
        server.until("the reload is done", |state| state["server"]["generation"] == 3);
        server.stop();
    }

    /// The answer to a failed reload gives the reason. The old generation continues to serve.
    fn failed_reload() {
        let server = Server::start(&[]);
        remove(&server.load);
        let (status, kind, message) = outcome(&server.command("reload"));
        assert_eq!((status, &*kind), (409, "failed"));
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
        kill(server.supervisor(), libc::SIGWINCH);
        server.until("all workers have ended", |state| workers(state).is_empty());
        remove(&server.load);
        let (status, _, message) = outcome(&server.command("reload"));
        assert!(status == 409 && message.starts_with("the server has no workers: "), "{message}");
        server.stop();
    }

    /// The number of workers changes as commanded, within its limits.
    fn scale() {
        let server = Server::start(&[]);
        for workers_wanted in [4, 1] {
            let (status, kind, message) = outcome(&server.command(&format!("scale?workers={workers_wanted}")));
            assert_eq!((status, &*kind), (200, "done"), "{message}");
            let state = server.state();
            assert_eq!(workers(&state).iter().filter(|worker| is_serving(worker)).count(), workers_wanted, "{state}");
        }
        let state = server.until("three workers have ended", |state| workers(state).len() == 1);
        let restarts = state["restarts"].as_array().expect("restarts");
        assert!(restarts.iter().all(|restart| restart["reason"] == "scaled"), "{state}");
        for (command, status) in
            [("scale?workers=0", 409), ("scale?workers=100000", 409), ("scale", 400), ("scale?workers=x", 400)]
        {
            assert_eq!(outcome(&server.command(command)).0, status, "{command}");
        }
        server.stop();
    }

    /// `retire` ends the worker with the given index, and no other, when its successor serves. Invalid commands are refused.
    fn retire() {
        let server = Server::start(&[]);
        let before = server.until("both workers are ready", |state| {
            workers(state).iter().filter(|worker| is_serving(worker)).count() == 2
        });
        let (status, _, message) = outcome(&server.command("retire?worker=1"));
        assert_eq!(status, 200, "{message}");
        let state = server.until("the worker has ended", |state| state["restarts"][0]["reason"] == "operator");
        assert_eq!(state["restarts"][0]["pid"], pids(&before)[1]);
        assert_eq!(pids(&state)[0], pids(&before)[0], "the other worker stays");
        assert_eq!(workers(&state).iter().filter(|worker| is_serving(worker)).count(), 2, "the successor came first");
        assert_eq!(outcome(&server.command("retire?worker=9")).0, 409);
        assert_eq!(outcome(&server.command("retire")).0, 400);
        assert_eq!(outcome(&server.command("fly")).0, 404);
        let answer = request(&server.control_address(), "GET", "/control/reload");
        assert!(answer.status == 405 && answer.head.contains("\r\nallow: POST"), "{}", answer.head);
        server.stop();
    }

    /// A client that waits for the successor of a worker gets an error if the number of workers is reduced meanwhile.
    fn retire_and_scale() {
        let mut server = Server::start(&[]);
        let template = stopped_template(&server);
        let mut waiting = send(&server.control_address(), "POST", "/control/retire?worker=1").expect("a command");
        while !server.program.line().contains("retire 1") {}
        assert_eq!(server.command("scale?workers=1").status, 200);
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("the number of workers"), "{answer}");
        kill(template, libc::SIGCONT);
        server.stop();
    }

    /// Once the server stops, commands fail, also those that have begun.
    fn stopping() {
        let mut server = Server::start(&["--shutdown-timeout", "600"]);
        stopped_template(&server);
        let held = send(&server.address, "GET", "/forever").expect("a request");
        server.until("the request is in flight", |state| {
            workers(state).iter().any(|worker| worker["requests_in_flight"] == 1)
        });
        let mut waiting = send(&server.control_address(), "POST", "/control/retire?worker=1").expect("a command");
        while !server.program.line().contains("retire 1") {}
        kill(server.supervisor(), libc::SIGTERM);
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("the server is stopping"), "{answer}");
        server.until("the server stops", |state| state["server"]["state"] == "stopping");
        assert_eq!(outcome(&server.command("reload")), (409, "failed".to_owned(), "the server is stopping".to_owned()));
        drop(held);
        server.program.finish_well();
    }

    /// The supervisor refuses commands while too many wait for their results.
    fn too_many_commands() {
        let server = Server::start(&[]);
        let template = stopped_template(&server);
        let accepted = (0..500).take_while(|_| server.command("retire?worker=1&wait=no").status == 202).count();
        assert!(accepted < 500, "the supervisor keeps every command");
        kill(template, libc::SIGCONT);
        wait_until("the commands are done", || server.command("scale?workers=2").status == 200);
        server.stop();
    }

    /// Clients that wait for the results of their commands keep their connections, however many there are.
    fn many_clients_wait() {
        let mut server = Server::start(&[]);
        let template = stopped_template(&server);
        let command = |_| send(&server.control_address(), "POST", "/control/retire?worker=1").expect("a command");
        let waiting: Vec<_> = (0..60).map(command).collect();
        for _ in 0..waiting.len() {
            while !server.program.line().contains("retire 1") {}
        }
        // These clients send nothing. They must neither be served forever nor displace the others.
        let idle: Vec<_> = (0..200).map(|_| connect(&server.control_address()).expect("connecting")).collect();
        assert_eq!(request(&server.control_address(), "GET", "/healthz").status, 200);
        kill(template, libc::SIGCONT);
        for mut client in waiting {
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        drop(idle);
        server.stop();
    }

    /// The server answers `upgrade` once the new program serves at the same addresses. They refuse no client meanwhile.
    fn upgrade() {
        // The whole network 127.0.0.0/8 is this machine, so this address is the scenario's own.
        let [.., high, low] = std::process::id().to_be_bytes();
        let server = Server::start(&["--status", &format!("127.77.{high}.{low}:9100")]);
        let before = server.supervisor();
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = [server.page.clone(), server.control_address()].map(|address| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let mut refused = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let error = try_request(&address, "GET", "/healthz").err().map(|error| error.kind());
                    refused += usize::from(matches!(error, Some(ErrorKind::ConnectionRefused | ErrorKind::NotFound)));
                }
                refused
            })
        });
        let (status, kind, message) = outcome(&server.command("upgrade"));
        assert_eq!((status, &*kind), (200, "done"), "{message}");
        let mut after = 0;
        wait_until("the new program has the page", || {
            after = try_request(&server.page, "GET", "/status.json")
                .ok()
                .and_then(|answer| serde_json::from_str::<Value>(&answer.body).ok()?["server"]["pid"].as_i64())
                .unwrap_or(0) as i32;
            after > 0 && after != before
        });
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().expect("the client"), 0, "connections were refused");
        }
        assert!(message.contains(&after.to_string()), "{message}");
        let answer = request(&server.control_address(), "GET", "/status.json");
        assert_eq!(serde_json::from_str::<Value>(&answer.body).expect("JSON")["server"]["pid"], after);
        assert!(server.pid() > 0);
        let Server { program, control, .. } = server;
        kill(after, libc::SIGTERM);
        // The old program has exited with 0. The new one has the same output, which is closed when that program ends.
        program.finish_well();
        assert!(!control.exists(), "the socket is left");
    }

    /// After an upgrade that fails, the old program still has its page and its control socket.
    fn failed_upgrade() {
        let server = Server::start(&[]);
        remove(&server.load);
        let (status, kind, message) = outcome(&server.command("upgrade"));
        assert_eq!((status, &*kind), (409, "failed"));
        assert!(message.contains("the old program continues to serve"), "{message}");
        assert_eq!(server.state()["server"]["pid"], server.supervisor());
        assert_eq!(outcome(&server.command("scale?workers=0")).0, 409);
        server.stop();
    }

    /// A new program that fails after it was ready leaves the page's socket and the control socket to the old program.
    #[cfg(target_os = "linux")]
    fn unannounced_upgrade() {
        let page = own_path("page");
        let server = Server::start(&["--status", &format!("unix:{}", page.display())]);
        std::fs::write(&server.load, NOT_ANNOUNCED).expect("writing the file that a template loads");
        let (status, _, message) = outcome(&server.command("upgrade"));
        assert!(status == 409 && message.contains("the old program continues to serve"), "{message}");
        for address in [server.control_address(), format!("unix:{}", page.display())] {
            let answer = try_request(&address, "GET", "/status.json").expect("an answer");
            let state: Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!(state["server"]["pid"], server.supervisor());
        }
        server.stop();
        assert!(!page.exists(), "the socket is left");
    }

    /// No thread of the service worker keeps privileges that the other processes have given up.
    #[cfg(procfs)]
    fn service_worker_gives_up_privileges() {
        let server = Server::start(&["--no-new-privs"]);
        let process = server.state()["server"]["service_pid"].as_i64().expect("a process id");
        let threads: Vec<_> = std::fs::read_dir(format!("/proc/{process}/task")).expect("the threads").collect();
        assert!(threads.len() > 1, "{threads:?}");
        for thread in threads {
            let status = thread.expect("a thread").path().join("status");
            let status = std::fs::read_to_string(status).expect("the state of a thread");
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
            match try_request(&address, "POST", path) {
                Ok(answer) => println!("{}", answer.status),
                Err(error) => println!("{:?}", error.kind()),
            }
        }
    }

    /// Another user cannot open the socket. If its permissions let that user connect, the server refuses the requests.
    fn other_users_are_refused() {
        // SAFETY: the call has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
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
        let all = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&server.control, all).expect("changing the permissions");
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
