//! Workers with several threads. Scenarios of other files run with threads, too.

use forkio_tests::{scenarios, thread_names, wait_until};

use crate::load;
use crate::server::Server;

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

    /// Workers with threads serve with each distribution that does not depend on the CPUs of the clients.
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
);
