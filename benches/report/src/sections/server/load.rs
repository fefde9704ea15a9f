//! Puts load on servers and measures them.

use std::error::Error;
use std::thread;
use std::time::Duration;

use super::{BALANCE, CPU, MEDIAN, P99, P999, SWITCHES, THROUGHPUT, USER, WAITED, Workers};
use crate::data::Data;
use crate::plan::Plan;
use crate::process::{self, Usage};
use crate::servers::wrk::Wrk;
use crate::servers::{Connections, Server, open_loop};

/// Returns how long a server is under load in a round.
fn turn(plan: &Plan) -> Duration {
    Duration::from_millis(if plan.quick { 250 } else { 1_500 })
}

fn rounds(plan: &Plan) -> usize {
    plan.rounds(5, 1)
}

fn load_cpus(plan: &Plan, workers: Workers) -> &[usize] {
    if workers == Workers::One { &plan.cpus.load } else { &plan.cpus.load_of_two }
}

/// Returns the servers in turn. Each round begins with the next server.
fn in_turn(servers: &[Server], round: usize) -> impl Iterator<Item = &Server> {
    (0..servers.len()).map(move |turn| &servers[(round + turn) % servers.len()])
}

/// Puts full load on each server in turn: wrk sends as many requests as the server can answer.
pub(super) fn saturate(
    plan: &Plan,
    data: &mut Data,
    servers: &[Server],
    workers: Workers,
    connections: Connections,
    case: &str,
) -> Result<(), Box<dyn Error>> {
    for round in 0..rounds(plan) {
        for server in in_turn(servers, round) {
            let (pids, sharers) = (server.pids(), server.workers());
            let sockets_before: Vec<usize> = sharers.iter().map(|pid| process::sockets(*pid)).collect();
            let before = Usage::of(&pids);
            let mut wrk = Wrk::start(server.address, connections, load_cpus(plan, workers))?;
            thread::sleep(turn(plan));
            if connections == Connections::Open && sharers.len() > 1 {
                let now = sharers.iter().map(|pid| process::sockets(*pid));
                let added: Vec<usize> =
                    now.zip(&sockets_before).map(|(now, before)| now.saturating_sub(*before)).collect();
                let even = added.iter().sum::<usize>() as f64 / sharers.len() as f64;
                let most = added.iter().max().copied().unwrap_or(0);
                data.add(&BALANCE, case, server.name, most as f64 / even);
            }
            let requests = wrk.end()?;
            let usage = Usage::of(&pids).since(before);
            let mut add = |measure, value| data.add(measure, case, server.name, value);
            add(&THROUGHPUT, requests.number / requests.seconds);
            add(&CPU, usage.seconds * 1e6 / requests.number);
            add(&USER, usage.user * 1e6 / requests.number);
            add(&SWITCHES, usage.switches as f64 / requests.number);
        }
    }
    Ok(())
}

/// Measures latencies and processor time at half of the throughput that the slowest server reached in the case `full`.
pub(super) fn latencies(
    plan: &Plan,
    data: &mut Data,
    servers: &[Server],
    workers: Workers,
    connections: Connections,
    full: &str,
    case: &str,
) -> Result<(), Box<dyn Error>> {
    let medians = servers.iter().filter_map(|server| data.median(&THROUGHPUT, full, server.name));
    let rate = medians.fold(f64::INFINITY, f64::min) / 2.0;
    if !rate.is_finite() {
        return Err("the rate follows from the throughput, which was not measured".into());
    }
    for round in 0..rounds(plan) {
        for server in in_turn(servers, round) {
            let pids = server.pids();
            let before = Usage::of(&pids);
            let cpus = load_cpus(plan, workers);
            let latencies = open_loop::latencies(server.address, connections, rate, turn(plan), cpus)?;
            let usage = Usage::of(&pids).since(before);
            let mut add = |measure, value| data.add(measure, case, server.name, value);
            for (measure, quantile) in [(&MEDIAN, 0.5), (&P99, 0.99), (&P999, 0.999)] {
                add(measure, latencies.value_at_quantile(quantile) as f64 / 1e3);
            }
            add(&CPU, usage.seconds * 1e6 / latencies.len() as f64);
            add(&WAITED, usage.waited * 1e6 / latencies.len() as f64);
        }
    }
    data.note(format!("{case}: {rate:.0} requests per second."));
    Ok(())
}
