//! The balanced distribution: all workers have about the same number of open connections.

use forkio_tests::reactor::*;

use crate::{Connection, Server, by_worker, close, unless_excluded};

/// Checks that no worker has more connections than 1.25 times the mean, or than the mean rounded up if that is more.
#[track_caller]
fn check_balance(counts: &[usize], what: &str) {
    let (total, workers) = (counts.iter().sum::<usize>(), counts.len());
    let limit = (total * 5 / (workers * 4)).max(total.div_ceil(workers));
    let most = counts.iter().max().expect("a worker");
    assert!(*most <= limit, "{what}: {counts:?}: more than {limit}");
    if total >= 4 * workers {
        assert!(most * workers * 4 <= total * 5, "{what}: {counts:?}: more than 1.25 times the mean");
    }
}

/// Checks the balance of a server through several bursts of connections.
fn check_balanced_server(workers: usize, mode: &str) {
    unless_excluded(|| check_bursts(workers, mode));
}

fn check_bursts(workers: usize, mode: &str) {
    let server = Server::start("balanced", workers, mode);
    server.wait_for_all(workers);
    let mut connections = Vec::new();
    for count in [1, workers - 1, 4 * workers, 2 * workers + 1, 3 * workers] {
        connections.extend(server.burst(count));
        check_balance(&by_worker(&connections, workers), &format!("after a burst of {count}"));
    }
    // Some connections end, unevenly. A worker that still has too many gets no new one.
    let (kept, ended): (Vec<_>, Vec<_>) = connections
        .into_iter()
        .enumerate()
        .partition(|(index, connection)| connection.worker % 2 == 0 && index % 3 != 2);
    let connections =
        |numbered: Vec<(usize, Connection)>| numbered.into_iter().map(|(_, connection)| connection).collect();
    close(connections(ended));
    let mut connections: Vec<Connection> = connections(kept);
    let before = by_worker(&connections, workers);
    connections.extend(server.burst(5 * workers));
    let after = by_worker(&connections, workers);
    let total = connections.len();
    let limit = (total * 5 / (workers * 4)).max(total.div_ceil(workers));
    for (before, after) in before.iter().zip(&after) {
        assert!(*after <= limit.max(*before), "a worker had {before} connections, now {after}: the limit is {limit}");
    }
    drop(connections);
    server.stop();
}

fn check_killed_worker() {
    const WORKERS: usize = 3;
    let server = Server::start("balanced", WORKERS, "hold");
    server.wait_for_all(WORKERS);
    let mut connections = server.burst(6 * WORKERS);
    let victim = connections[0].pid;
    kill(victim, libc::SIGKILL);
    connections.retain(|connection| connection.pid != victim);
    server.wait_for_replacement(victim, WORKERS);
    wait_until("the new worker accepts", || {
        let connection = server.connect().answered();
        let is_new = connections.iter().all(|known| known.pid != connection.pid);
        if is_new {
            connections.push(connection);
        } else {
            close(vec![connection]);
        }
        is_new
    });
    let missing = 8 * WORKERS - connections.len();
    connections.extend(server.burst(missing));
    check_balance(&by_worker(&connections, WORKERS), "with the new worker");
    drop(connections);
    server.stop();
}

fn check_frozen_worker() {
    const WORKERS: usize = 2;
    let server = Server::start("balanced", WORKERS, "hold");
    server.wait_for_all(WORKERS);
    let mut connections = server.burst(2);
    let (frozen, other) = (connections[0].pid, connections[1].pid);
    assert_ne!(frozen, other);
    freeze(frozen);
    let without = server.burst(20);
    assert!(without.iter().all(|connection| connection.pid == other));
    connections.extend(without);
    kill(frozen, libc::SIGCONT);
    // The worker that was frozen has one connection, and the other worker has 21.
    wait_until("the worker that was frozen accepts again", || {
        connections.push(server.connect().answered());
        connections.last().is_some_and(|connection| connection.pid == frozen)
    });
    let before = connections.len();
    connections.extend(server.burst(10));
    assert!(connections[before..].iter().all(|connection| connection.pid == frozen));
    drop(connections);
    server.stop();
}

fn check_forked_worker() {
    let server = Server::start("balanced", 2, "fork");
    server.wait_for_all(2);
    let connections = server.burst(12);
    check_balance(&by_worker(&connections, 2), "after the forks");
    drop(connections);
    server.stop();
}

scenarios!(
    /// Two, four, eight, sixteen and thirty-two workers are balanced.
    #[limit(600)]
    fn each_number_of_workers() {
        [2, 4, 8, 16, 32].into_iter().for_each(|workers| check_balanced_server(workers, "hold"));
    }

    /// Workers whose runtimes have threads are balanced.
    fn workers_with_threads() {
        check_balanced_server(3, "threads");
    }

    /// The connections of a killed worker no longer count. Its successor gets as many as each other worker has.
    fn killed_worker() {
        unless_excluded(check_killed_worker);
    }

    /// A worker that SIGSTOP freezes delays new connections only for a moment. It accepts again after SIGCONT.
    fn frozen_worker() {
        unless_excluded(check_frozen_worker);
    }

    /// If a worker forks, its child's copies of connections and counts do not change the balance.
    fn forked_worker() {
        unless_excluded(check_forked_worker);
    }
);
