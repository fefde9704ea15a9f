//! Workers with several threads behave like workers with one.

use std::fs;

use rustix::process::Signal;

use crate::server::{Server, until};
use crate::{load, preloaded, stop};

#[test]
fn workers_have_the_threads() {
    let server = Server::start(&["--workers", "2", "--worker-threads", "3"]);
    for pid in server.workers() {
        until("the worker's runtime has its threads", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the worker's threads");
            let names = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
            (names.filter(|name| name.starts_with("tokio")).count() == 3).then_some(())
        });
    }
    let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.request("/table/49").expect("sending");
    }
    for client in &mut clients {
        assert_eq!(client.response().expect("an answer").text(), "7");
    }
    server.stop();
}

#[test]
fn every_distribution() {
    for how in ["shared", "reuseport", "balanced"] {
        let server = Server::start(&["--workers", "2", "--worker-threads", "2", "--distribution", how]);
        drop(server.connect_to_each(2));
        for _ in 0..50 {
            assert_eq!(server.connect().get("/table/49").expect("an answer").text(), "7", "{how}");
        }
        server.stop();
    }
}

#[test]
fn each_worker_continues_where_the_parent_was() {
    preloaded::continues_where_the_parent_was(&["--workers", "3", "--worker-threads", "2"]);
}

#[test]
fn killed_workers() {
    load::kill_workers(&["--workers", "3", "--worker-threads", "2"], 6);
}

#[test]
fn sigterm_drains() {
    stop::drains(&["--workers", "2", "--worker-threads", "2"], |server| server.signal(Signal::TERM));
}

#[test]
fn control_c_drains() {
    stop::drains(&["--workers", "2", "--worker-threads", "2"], |server| server.signal_all(Signal::INT));
}

#[test]
fn queued_connections_are_served() {
    stop::serves_queued_connections(&["--workers", "2", "--worker-threads", "2"]);
}

#[test]
fn request_that_takes_longer_than_the_drain() {
    stop::cuts_off_long_requests(&["--workers", "2", "--shutdown-timeout", "0.5", "--worker-threads", "2"]);
}

#[test]
fn workers_end_when_the_parent_is_killed() {
    stop::end_when_the_parent_is_killed(&["--workers", "3", "--worker-threads", "2"]);
}
