//! Workers with several threads behave like workers with one.

use forkio_tests::{scenarios, thread_names, wait_until};
use rustix::process::Signal;

use crate::server::Server;
use crate::{load, preloaded, stop};

scenarios!(
    /// The runtime of a worker has as many threads as `--worker-threads` says.
    fn workers_have_the_threads() {
        let server = Server::start(&["--workers", "2", "--worker-threads", "3"]);
        for pid in server.workers() {
            wait_until("the worker's runtime has its threads", || {
                thread_names(pid).iter().filter(|name| name.starts_with("tokio")).count() == 3
            });
        }
        load::check_many_at_once(&server, 100);
        server.stop();
    }

    /// Workers with threads serve with each distribution.
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

    /// Each worker continues with the supervisor's table and timer.
    fn each_worker_continues_where_the_parent_was() {
        preloaded::continues_where_the_parent_was(&["--workers", "3", "--worker-threads", "2"]);
    }

    /// Only requests in flight on a killed worker are lost.
    #[limit(600)]
    fn killed_workers() {
        load::kill_workers(&["--workers", "3", "--worker-threads", "2"], 6);
    }

    /// SIGTERM stops the server once the requests in flight are answered.
    fn sigterm_drains() {
        stop::drains(&["--workers", "2", "--worker-threads", "2"], |server| server.signal(Signal::TERM));
    }

    /// SIGINT to every process does the same.
    fn control_c_drains() {
        stop::drains(&["--workers", "2", "--worker-threads", "2"], |server| server.signal_all(Signal::INT));
    }

    /// After SIGTERM, clients in the queue are answered.
    #[limit(600)]
    fn queued_connections_are_served() {
        stop::serves_queued_connections(&["--workers", "2", "--worker-threads", "2"]);
    }

    /// A request that takes longer than the shutdown timeout is cut off.
    fn request_that_takes_longer_than_the_drain() {
        stop::cuts_off_long_requests(&["--workers", "2", "--shutdown-timeout", "0.5", "--worker-threads", "2"]);
    }

    /// If the supervisor is killed, its workers drain and end.
    fn workers_end_when_the_parent_is_killed() {
        stop::end_when_the_parent_is_killed(&["--workers", "3", "--worker-threads", "2"]);
    }
);
