//! Workers continue with the listeners, tasks and data of the supervisor.

use std::time::{Duration, Instant};

use forkio_tests::{scenarios, until};

use crate::server::{Server, WITHOUT_AND_WITH_THREADS};
use crate::status::AskStatus;

fn continues_where_the_supervisor_was(arguments: &[&str]) {
    let started = Instant::now();
    let server = Server::start(&[&["--workers", "3"], arguments].concat());
    let mut clients = server.connect_to_each(3);
    for (index, (client, first)) in clients.iter_mut().enumerate() {
        assert_eq!(first.worker, index as u64);
        assert_eq!((first.ppid, first.generation), (server.pid(), 1));
        assert_ne!(first.pid, server.pid());
        assert_eq!(first.table_entries, 1024 * 1024);
        // The first tick comes at once, before the fork.
        assert!(first.timer_ticks >= 1);

        let (last, ticked) = until("the supervisor's timer ticks in the worker", || {
            let status = client.status();
            let ticked = status.timer_ticks - first.timer_ticks;
            (ticked >= 8).then_some((status, ticked))
        });
        assert!(last.requests > first.requests);
        // The timer ticks once per period in each process. If processes shared one timer, it would tick faster. The limit
        // leaves room for a tick that was late.
        let uptime = Duration::from_millis(last.uptime_ms);
        assert!(uptime <= started.elapsed());
        assert!(ticked <= last.uptime_ms / 100 + 2, "{ticked} ticks in {uptime:?}");
        assert!(last.timer_ticks <= started.elapsed().as_millis() as u64 / 100 + 1);
    }
    let pids: Vec<_> = clients.iter().map(|(_, status)| status.pid).collect();
    let mut running = server.workers();
    running.sort_by_key(|pid| pids.iter().position(|known| known == pid));
    assert_eq!(running, pids);
    server.stop();
}

scenarios!(
    /// Each worker continues with the supervisor's table and timer.
    fn each_worker_continues_where_the_supervisor_was() {
        for threads in WITHOUT_AND_WITH_THREADS {
            continues_where_the_supervisor_was(threads);
        }
    }

    /// The processes share the memory of the table.
    fn table_is_shared() {
        const MIB: u64 = 64;
        let server = Server::start(&["--workers", "2", "--preload-mib", "64"]);
        for (client, status) in &mut server.connect_to_each(2) {
            assert_eq!(status.table_entries, MIB * 1024 * 1024 / 4);
            assert!(status.rss_kib >= MIB * 1024, "{status:?}");
            // Three processes share the table.
            assert!(status.pss_kib < MIB * 1024 / 2, "{status:?}");
            // This is the last prime below 2^24.
            assert_eq!(client.get("/table/16777213").expect("an answer").text(), "16777213");
        }
        server.stop();
    }
);
