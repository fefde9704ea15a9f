//! Stopping the server: which requests it answers, and which it cuts off.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forkio_tests::http::Client;
use forkio_tests::{freeze, limit, scenarios, status_field, until, wait_until};
use rustix::process::Signal;

use crate::server::{Server, WITHOUT_AND_WITH_THREADS, program, signal};
use crate::status::AskStatus;

/// Checks that the request in flight on this connection is answered.
#[track_caller]
pub(crate) fn expect_answer(client: &mut Client) {
    assert_eq!(client.response().expect("the answer to the request in flight").status, 200);
}

#[track_caller]
fn until_refused(server: &Server) {
    until("connections are refused", || match TcpStream::connect(server.address()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(()),
        // The listener was closed before a worker accepted this connection.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("connecting: {error}"),
        Ok(_) => None,
    });
}

fn drains(send: impl Fn(&Server)) {
    for threads in WITHOUT_AND_WITH_THREADS {
        drains_with(threads, &send);
    }
}

fn drains_with(threads: &[&str], send: impl Fn(&Server)) {
    // Workers close idle connections after the first timeout, and connections without a request after the second.
    let options = ["--workers", "2", "--idle-grace", "0.2", "--header-timeout", "1"];
    const TAKES: Duration = Duration::from_secs(3);
    let mut server = Server::start(&[&options, threads].concat());
    let asked = Instant::now();
    let (mut in_flight, _) = server.busy(3000);
    let mut idle: Vec<Client> = server.connect_to_each(2).into_iter().map(|(client, _)| client).collect();
    idle.extend((0..4).map(|_| server.connect()));

    send(&server);
    for client in &mut idle {
        client.expect_end();
    }
    until_refused(&server);
    let (is_quiet, is_running) = (in_flight.is_quiet(), server.is_running());
    // If the machine has stalled, the answer may already be due.
    let is_due = asked.elapsed() >= TAKES;
    assert!(is_quiet || is_due, "the request in flight was answered too early, or cut off");
    assert!(is_running || is_due);

    let answer = in_flight.response().expect("the answer to the request in flight");
    assert_eq!((answer.status, answer.text()), (200, "slept 3000 ms"));
    assert!(answer.header("connection") == Some("close") || is_due);
    in_flight.expect_end();
    server.ends_with(0);
}

fn serves_queued_connections(arguments: &[&str]) {
    for round in 0..10 {
        let server = Server::start(arguments);
        let workers = server.workers();
        let queued = round % 2 == 0;
        if queued {
            // A frozen process accepts nothing.
            workers.iter().for_each(|pid| freeze(*pid));
        }
        let mut clients: Vec<Client> = (0..50).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.request("/table/77").expect("sending");
        }
        server.signal(Signal::TERM);
        if queued {
            wait_until("SIGTERM is pending in each worker", || workers.iter().all(|pid| has_pending_sigterm(*pid)));
            workers.iter().for_each(|pid| signal(*pid, Signal::CONT));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let answer = client.response().unwrap_or_else(|error| panic!("round {round}, client {index}: {error}"));
            assert_eq!((answer.status, answer.text()), (200, "7"));
        }
        server.ends_with(0);
    }
}

fn has_pending_sigterm(pid: i32) -> bool {
    pending_signals(pid).contains(&Signal::TERM)
}

/// Returns which of SIGTERM and SIGUSR1 are pending in a process.
pub(crate) fn pending_signals(pid: i32) -> Vec<Signal> {
    let pending = u64::from_str_radix(&status_field(pid, "ShdPnd"), 16).expect("a hexadecimal number");
    let signals = [Signal::TERM, Signal::USR1];
    signals.into_iter().filter(|signal| pending & (1 << (signal.as_raw() - 1)) != 0).collect()
}

/// Starts clients that open one connection after the other without a pause, each with one request, until they are refused. A
/// client panics if its connection is reset.
pub(crate) fn clients_until_refused(server: &Server, number: usize) -> Vec<JoinHandle<()>> {
    let address = server.address();
    let client = move || {
        loop {
            match Client::connect(address) {
                Ok(mut client) => match client.get("/") {
                    Ok(answer) => assert_eq!(answer.status, 200),
                    Err(error) => panic!("a request was lost: {error}"),
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
                Err(error) => panic!("connecting: {error}"),
            }
        }
    };
    (0..number).map(|_| std::thread::spawn(client)).collect()
}

fn cuts_off_long_requests(arguments: &[&str]) {
    for _ in 0..5 {
        let mut server = Server::start(arguments);
        let (mut overdue, _) = server.busy(60_000);
        let start = Instant::now();
        server.signal(Signal::TERM);
        overdue.expect_end();
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(450), "the request was cut off after {took:?} already");
        assert!(took < limit() / 2, "the request was cut off only after {took:?}");
        // The supervisor kills a worker that still runs a second after the shutdown timeout. If the machine stalls that
        // long, the supervisor also kills a healthy worker.
        if server.wait().code() != Some(128 + Signal::KILL.as_raw()) {
            server.until_logged("cut off 1 connection");
            return server.ends_with(1);
        }
    }
    panic!("the worker was killed each time");
}

fn stops_cleanly_beside_a_silent_connection(protocols: &[&str]) {
    for _ in 0..5 {
        let arguments = [&["--workers", "1", "--shutdown-timeout", "2", "--header-timeout", "600"], protocols].concat();
        let mut server = Server::start(&arguments);
        let mut silent = server.connect();
        // There is one queue, so an answer to this connection shows that the worker has accepted the earlier one.
        server.check_serving();
        server.signal(Signal::TERM);
        silent.expect_end();
        // The worker closes the connection after seven eighths of the shutdown timeout. If the machine stalls for the
        // last eighth, the worker cuts the connection off. If it stalls longer, the supervisor kills the worker.
        match server.wait().code() {
            Some(0) => return server.ends_with(0),
            code => assert!(code == Some(1) || code == Some(128 + Signal::KILL.as_raw()), "{code:?}"),
        }
    }
    panic!("the connection was cut off each time");
}

fn end_when_the_supervisor_is_killed(arguments: &[&str]) {
    let mut server = Server::start(arguments);
    let address = server.address();
    let (mut in_flight, _) = server.busy(1000);
    let mut idle = server.connect_to_each(3);

    server.signal(Signal::KILL);
    assert_eq!(server.wait().code(), None);
    for (client, _) in &mut idle {
        client.expect_end();
    }
    expect_answer(&mut in_flight);
    server.until_all_have_ended();
    until("the port is free again", || TcpListener::bind(address).ok());
}

scenarios!(
    /// SIGTERM stops the server once the requests in flight are answered.
    fn sigterm_drains() {
        drains(|server| server.signal(Signal::TERM));
    }

    /// SIGINT stops the server as SIGTERM does.
    fn sigint_drains() {
        drains(|server| server.signal(Signal::INT));
    }

    /// A terminal sends SIGINT to every process of the group, so each worker gets a signal from the terminal and one from
    /// the supervisor.
    fn control_c_drains() {
        drains(|server| server.signal_all(Signal::INT));
    }

    /// After SIGTERM, the workers answer each client that has sent a request, even if its connection still waits in the
    /// queue.
    #[limit(600)]
    fn queued_connections_are_served() {
        for threads in WITHOUT_AND_WITH_THREADS {
            serves_queued_connections(&[&["--workers", "2"], threads].concat());
        }
    }

    /// The worker runs out of descriptors for some time while it empties the queue, and loses no connection.
    fn queue_is_emptied_with_few_descriptors() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -n 40; exec \"$0\" --listen 127.0.0.1:0 --workers 1 --shutdown-timeout 60"]);
        let server = Server::start_as(command.arg(program()), 1);
        let worker = server.workers()[0];
        freeze(worker);
        let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.request("/sleep/2500").expect("sending");
        }
        server.signal(Signal::TERM);
        wait_until("SIGTERM is pending in the worker", || has_pending_sigterm(worker));
        signal(worker, Signal::CONT);
        for client in &mut clients {
            assert_eq!(client.response().expect("an answer").status, 200);
        }
        // This line of the log shows that the worker ran out of descriptors.
        server.until_logged("cannot accept a connection that waits");
        server.ends_with(0);
    }

    /// After SIGTERM or SIGHUP, a client that is connected and has sent nothing has the header timeout for its first
    /// request.
    fn fresh_connection_may_still_send_its_first_request() {
        for kind in [Signal::TERM, Signal::HUP] {
            let server = Server::start(&["--workers", "1", "--idle-grace", "0", "--header-timeout", "600"]);
            let mut fresh = server.connect();
            // The worker has one queue and one thread, so an answer to `idle` shows that it has accepted `fresh`.
            let mut idle = server.connect();
            assert_eq!(idle.get("/").expect("an answer").status, 200);
            server.signal(kind);
            // The worker has seen the signal once it closes the idle connection.
            idle.expect_end();
            let answer = fresh.get("/table/77").expect("an answer");
            assert_eq!((answer.text(), answer.header("connection")), ("7", Some("close")));
            fresh.expect_end();
            if kind == Signal::HUP { server.stop() } else { server.ends_with(0) }
        }
    }

    /// A stopping server closes a used connection as idle, unless the head of the next request has begun to arrive.
    fn request_that_arrives_in_parts() {
        let server = Server::start(&["--workers", "1", "--idle-grace", "0.1", "--header-timeout", "600"]);
        let mut partial = server.connect();
        let mut idle = server.connect();
        for client in [&mut partial, &mut idle] {
            assert_eq!(client.get("/").expect("an answer").status, 200);
        }
        partial.send("GET /table/77 HTTP/1.1\r\nHo").expect("sending");
        // The worker has read the part once it answers a later request.
        assert_eq!(idle.get("/").expect("an answer").status, 200);
        server.signal(Signal::TERM);
        idle.expect_end();
        partial.send("st: test\r\n\r\n").expect("sending");
        let answer = partial.response().expect("an answer");
        assert_eq!((answer.text(), answer.header("connection")), ("7", Some("close")));
        partial.expect_end();
        server.ends_with(0);
    }

    /// A stop resets no connection of clients that connect again and again, with one request each, until the server refuses
    /// them.
    #[limit(600)]
    fn no_connection_is_reset_by_a_stop() {
        for distribution in ["shared", "reuseport", "balanced"] {
            for _ in 0..5 {
                let server = Server::start(&["--workers", "2", "--distribution", distribution, "--idle-grace", "0"]);
                let clients = clients_until_refused(&server, 4);
                wait_until("all workers serve", || server.connect().status().requests > 20);
                server.signal(Signal::TERM);
                clients.into_iter().for_each(|client| client.join().expect("no request is lost"));
                server.ends_with(0);
            }
        }
    }

    /// A request that takes longer than the shutdown timeout is cut off.
    fn request_that_takes_longer_than_the_drain() {
        for threads in WITHOUT_AND_WITH_THREADS {
            cuts_off_long_requests(&[&["--workers", "2", "--shutdown-timeout", "0.5"], threads].concat());
        }
    }

    /// At the shutdown timeout, a connection that has sent nothing does not count as cut off.
    fn connection_that_sends_nothing() {
        for protocols in [&[][..], &["--http2"]] {
            stops_cleanly_beside_a_silent_connection(protocols);
        }
    }

    /// A signal that comes right after the first one does not count as a second one: timeout(1) sends two.
    fn signal_is_sent_twice() {
        for _ in 0..5 {
            let server = Server::start(&["--workers", "1"]);
            let (mut in_flight, _) = server.busy(500);
            server.signal_until(Signal::TERM, "stopping: draining");
            server.signal(Signal::TERM);
            // If the machine stalls for a tenth of a second between the signals, the second one counts.
            if in_flight.response().is_ok_and(|response| response.status == 200) {
                return server.ends_with(0);
            }
            server.ends_with(128 + Signal::KILL.as_raw());
        }
        panic!("the worker was killed each time");
    }

    /// A second signal to stop kills the workers.
    fn second_signal_kills() {
        let server = Server::start(&["--workers", "1", "--shutdown-timeout", "3600"]);
        let (mut in_flight, _) = server.busy(60_000);
        server.signal(Signal::TERM);
        until_refused(&server);
        // Repeats the signal, because one that comes shortly after the first one does not count.
        wait_until("the request in flight is cut off", || {
            server.signal(Signal::TERM);
            !in_flight.is_quiet()
        });
        in_flight.expect_end();
        server.ends_with(128 + Signal::KILL.as_raw());
    }

    /// SIGTERM to a worker lets it drain. Another worker replaces it.
    fn worker_that_is_stopped_drains_and_is_replaced() {
        let server = Server::start(&["--workers", "2"]);
        let (mut in_flight, pid) = server.busy(1000);
        signal(pid, Signal::TERM);
        expect_answer(&mut in_flight);
        in_flight.expect_end();
        server.until_replaced(pid, 2);
        let pids: Vec<i32> = server.connect_to_each(2).iter().map(|(_, status)| status.pid).collect();
        assert!(!pids.contains(&pid));
        server.stop();
    }

    /// If the supervisor is killed, its workers drain and end.
    fn workers_end_when_the_supervisor_is_killed() {
        for threads in WITHOUT_AND_WITH_THREADS {
            end_when_the_supervisor_is_killed(&[&["--workers", "3"], threads].concat());
        }
    }

    /// A server that was stopped can be started again at once on the same port.
    fn port_is_free_after_a_stop() {
        let server = Server::start(&["--workers", "2"]);
        let address = server.address();
        let mut client = server.connect();
        assert_eq!(client.get("/").expect("an answer").status, 200);
        server.stop();
        TcpListener::bind(address).expect("the port is free again");
    }
);
