//! What does a request cost, if all servers have the same number of workers on the same CPUs?

mod axum;
mod contenders;
mod load;

use std::net::SocketAddr;
use std::process::Command;
use std::{fmt, fs, io};

use crate::data::{Data, Measure};
use crate::picture::Picture;
use crate::plan::Plan;
use crate::sections::{Measured, Section};
use crate::servers::{Connections, access_log, hello_forkio, hello_mio, instructions, nginx::nginx, start_all};
use crate::table::{Column, Table};
use crate::target::{Check, Limit, Target};

use contenders::{FORKIO_BALANCED, LOGGING, NGINX_TWO, PREFORK_HTTP_TWO, TWO_THREADS, TWO_WORKERS, WORKING};
pub(crate) use contenders::{HYPER_FORKIO, HYPER_MIO, NGINX, ONE_WORKER, PREFORK_HTTP};

pub(crate) const SECTION: Section = Section {
    name: "server",
    question: "What does a request cost, if all servers have the same number of workers on the same CPUs?",
    measure,
    tables,
    targets,
    pictures,
};

pub(crate) static CPU: Measure = Measure { id: "request-cpu", title: "processor time of a request, µs" };
static USER: Measure = Measure { id: "request-user", title: "user mode's part, µs" };
static THROUGHPUT: Measure = Measure { id: "throughput", title: "requests per second" };
static SWITCHES: Measure = Measure { id: "request-switches", title: "context switches of a request" };
static BALANCE: Measure = Measure { id: "balance", title: "busiest worker's connections / even share" };
static MEDIAN: Measure = Measure { id: "latency-median", title: "median, µs" };
static P99: Measure = Measure { id: "latency-99", title: "p99, µs" };
static P999: Measure = Measure { id: "latency-99.9", title: "p99.9, µs" };
static WAITED: Measure = Measure { id: "latency-waited", title: "wait for a CPU per request, µs" };
static INSTRUCTIONS: Measure = Measure { id: "request-instructions", title: "user-level instructions" };

/// How many workers or threads a server has, and on which CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workers {
    One,
    Two,
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Workers::One { "one worker" } else { "two workers" })
    }
}

fn full_load(workers: Workers, connections: Connections) -> String {
    format!("{workers}, {}", connections.name())
}

fn half_load(workers: Workers, connections: Connections) -> String {
    format!("{}, half the load", full_load(workers, connections))
}

/// Returns the connections that are measured at half the load too: to save time, only open ones with two workers.
fn measured_at_half_load(workers: Workers) -> impl Iterator<Item = Connections> {
    let all = [Connections::Open, Connections::Short];
    all.into_iter().filter(move |connections| workers == Workers::One || *connections == Connections::Open)
}

pub(crate) fn one_worker_open() -> String {
    full_load(Workers::One, Connections::Open)
}

const WORK: &str = "two workers, 45 µs of work in each request";

const ACCESS_LOG: &str = "one worker, open connections, access logs";

fn measure(plan: &Plan, data: &mut Data) -> Measured {
    for workers in [Workers::One, Workers::Two] {
        let (contenders, cpus) = match workers {
            Workers::One => (ONE_WORKER, &plan.cpus.one),
            Workers::Two => (TWO_WORKERS, &plan.cpus.two),
        };
        let servers = start_all(plan, data, contenders, cpus);
        for connections in [Connections::Open, Connections::Short] {
            let case = full_load(workers, connections);
            load::saturate(plan, data, &servers, workers, connections, &case)?;
            if measured_at_half_load(workers).any(|measured| measured == connections) {
                let half = half_load(workers, connections);
                load::latencies(plan, data, &servers, workers, connections, &case, &half)?;
            }
        }
    }
    let servers = start_all(plan, data, WORKING, &plan.cpus.two);
    load::saturate(plan, data, &servers, Workers::Two, Connections::Open, WORK)?;
    drop(servers);
    let servers = start_all(plan, data, LOGGING, &plan.cpus.one);
    for server in &servers {
        // The server has the file open. The space of the file is freed when the server ends.
        let _ = fs::remove_file(access_log(server.address));
    }
    load::saturate(plan, data, &servers, Workers::One, Connections::Open, ACCESS_LOG)?;
    drop(servers);
    axum::measure(plan, data)?;
    count_instructions(plan, data);
    Ok(())
}

fn count_instructions(plan: &Plan, data: &mut Data) {
    type Start = fn(&Plan, SocketAddr) -> io::Result<Command>;
    let servers: [(&str, Start); 3] = [
        (HYPER_FORKIO, |plan, address| Ok(hello_forkio(plan, address))),
        (HYPER_MIO, |plan, address| Ok(hello_mio(plan, "current-thread", address, 0, 0))),
        (NGINX, |plan, address| nginx(plan, 1, "", address)),
    ];
    // A run under valgrind is slow, so each server is counted once, and a quick run omits the last server.
    for (name, command) in servers.into_iter().take(plan.rounds(3, 2)) {
        for connections in [Connections::Open, Connections::Short] {
            match instructions::of_a_request(|address| command(plan, address), connections) {
                Ok(count) => data.add(&INSTRUCTIONS, connections.name(), name, count),
                Err(error) => data.note(format!("{name}, {}: instructions not counted: {error}", connections.name())),
            }
        }
    }
}

fn tables() -> Vec<Table> {
    let both = |case: fn(Workers, Connections) -> String, workers| {
        vec![case(workers, Connections::Open), case(workers, Connections::Short)]
    };
    let latency = |peers: [&'static str; 2]| {
        let mut columns = [&MEDIAN, &P99, &P999].map(Column::figure).to_vec();
        columns.extend(peers.map(|peer| Column::figure(&P999).relative_to(peer)));
        columns.push(Column::figure(&CPU));
        columns.extend(peers.map(|peer| Column::figure(&CPU).relative_to(peer)));
        columns.push(Column::median(&WAITED));
        columns
    };
    let mut two_workers = both(full_load, Workers::Two);
    two_workers.push(WORK.to_owned());
    vec![
        Table {
            title: "One worker: a server on one CPU, its load on another",
            text: "wrk with one thread and 64 connections, at full load. A server that is faster than wrk makes more turns of its \
                   loop, with fewer events in each. The tables of latencies have the processor time at half the load.",
            cases: both(full_load, Workers::One),
            has_contenders: true,
            columns: vec![
                Column::figure(&CPU),
                Column::figure(&CPU).relative_to(HYPER_MIO),
                Column::figure(&CPU).relative_to(NGINX),
                Column::median(&USER),
                Column::median(&THROUGHPUT),
                Column::median(&SWITCHES),
            ],
        },
        Table {
            title: "Two workers against two threads, on the same two CPUs",
            text: "The same load, on a third CPU if the machine has one. If not, wrk shares a CPU with the servers: \
                   processor time of a request is comparable then, requests per second only with work in each request.",
            cases: two_workers,
            has_contenders: true,
            columns: vec![
                Column::figure(&CPU),
                Column::figure(&CPU).relative_to(TWO_THREADS),
                Column::figure(&CPU).relative_to(NGINX_TWO),
                Column::median(&USER),
                Column::median(&THROUGHPUT),
                Column::figure(&THROUGHPUT).relative_to(TWO_THREADS),
                Column::median(&SWITCHES),
                Column::median(&BALANCE),
            ],
        },
        Table {
            title: "What an access log costs",
            text: "prefork-http with `--access-log` and `--access-log-file`, beside prefork-http without them. One worker, \
                   the same load. Each request is an event of `tracing`, a line, and a `write` to the file.",
            cases: vec![ACCESS_LOG.to_owned()],
            has_contenders: true,
            columns: vec![
                Column::figure(&CPU),
                Column::figure(&CPU).relative_to(PREFORK_HTTP),
                Column::median(&USER),
                Column::median(&THROUGHPUT),
                Column::figure(&THROUGHPUT).relative_to(PREFORK_HTTP),
            ],
        },
        axum::table(),
        Table {
            title: "Half the load, one worker: latency and processor time",
            text: "An open loop: each request has a time at which it is due, and its latency counts from then. All servers \
                   get the same rate, half of what the slowest one reached at full load.",
            cases: both(half_load, Workers::One),
            has_contenders: true,
            columns: latency([HYPER_MIO, NGINX]),
        },
        Table {
            title: "Half the load, two workers or threads: latency and processor time",
            text: "The same open loop, with two workers or threads.",
            cases: vec![half_load(Workers::Two, Connections::Open)],
            has_contenders: true,
            columns: latency([TWO_THREADS, NGINX_TWO]),
        },
        Table {
            title: "User-level instructions of a request",
            text: "Counted by valgrind, for one request after the other.",
            cases: [Connections::Open, Connections::Short].map(|connections| connections.name().to_owned()).to_vec(),
            has_contenders: true,
            columns: vec![Column::median(&INSTRUCTIONS), Column::median(&INSTRUCTIONS).relative_to(HYPER_MIO)],
        },
    ]
}

fn targets(data: &Data) -> Vec<Target> {
    use Limit::{AtLeast, AtMost};
    use Workers::{One, Two};
    let both = [Connections::Open, Connections::Short];
    let cpu = |workers, contender: &str, peer: &str, limit| {
        let full = both.map(|connections| full_load(workers, connections));
        let half = measured_at_half_load(workers).map(|connections| half_load(workers, connections));
        let checks = full.into_iter().chain(half).map(|case| {
            let (_, name) = case.split_once(", ").unwrap_or_default();
            Check::new(name, AtMost(limit), data.ratio(&CPU, &case, contender, peer))
        });
        Target::each(format!("{workers}, processor time of a request: {contender} / {peer}"), checks.collect())
    };
    let latency = |workers, connections, contender: &str, peer: &str| {
        let case = half_load(workers, connections);
        let ratio = data.ratio(&P999, &case, contender, peer);
        Target::new(format!("{case}, p99.9: {contender} / {peer}"), AtMost(1.0), ratio)
    };
    let instructions = both.map(|connections| {
        let ratio = data.ratio(&INSTRUCTIONS, connections.name(), HYPER_FORKIO, HYPER_MIO);
        Check::new(connections.name(), AtMost(1.0), ratio)
    });
    let work = data.ratio(&THROUGHPUT, WORK, FORKIO_BALANCED, TWO_THREADS);
    let mut targets = vec![
        cpu(One, PREFORK_HTTP, HYPER_MIO, 1.0),
        cpu(One, PREFORK_HTTP, NGINX, 1.0),
        cpu(One, HYPER_FORKIO, HYPER_MIO, 1.0),
        cpu(Two, PREFORK_HTTP_TWO, TWO_THREADS, 0.95),
        cpu(Two, PREFORK_HTTP_TWO, NGINX_TWO, 1.0),
        latency(One, Connections::Open, PREFORK_HTTP, HYPER_MIO),
        latency(One, Connections::Open, PREFORK_HTTP, NGINX),
        latency(One, Connections::Short, PREFORK_HTTP, HYPER_MIO),
        latency(One, Connections::Short, PREFORK_HTTP, NGINX),
        latency(Two, Connections::Open, PREFORK_HTTP_TWO, TWO_THREADS),
        latency(Two, Connections::Open, PREFORK_HTTP_TWO, NGINX_TWO),
        Target::new(format!("{WORK}, requests per second: {FORKIO_BALANCED} / {TWO_THREADS}"), AtLeast(1.1), work),
        Target::each(
            format!("user-level instructions of a request: {HYPER_FORKIO} / {HYPER_MIO}"),
            instructions.into(),
        ),
    ];
    targets.extend(axum::targets(data));
    targets
}

fn pictures(data: &Data) -> Vec<Picture> {
    let bars = |measure: &Measure, cases: &[String]| {
        let series = cases.iter().flat_map(|case| data.of(measure).filter(move |series| series.case == *case));
        series
            .filter_map(|series| {
                let case = series.case.split_once(", ").map_or(series.case.as_str(), |(_, case)| case);
                let name = format!("{}, {}", series.contender, case.trim_end_matches(", half the load"));
                Some((name, data.quartiles(measure, &series.case, &series.contender)?))
            })
            .collect()
    };
    let both = [Connections::Open, Connections::Short];
    vec![
        Picture::Bars {
            file: "server-cpu.svg",
            title: "One worker on one CPU: processor time of a request, µs",
            bars: bars(&CPU, &both.map(|connections| full_load(Workers::One, connections))),
            mark: None,
        },
        Picture::Bars {
            file: "server-latency.svg",
            title: "One worker on one CPU, half the load: p99.9 of the latency, µs",
            bars: bars(&P999, &both.map(|connections| half_load(Workers::One, connections))),
            mark: None,
        },
        Picture::Bars {
            file: "server-two.svg",
            title: "Two workers or threads on two CPUs: processor time of a request, µs",
            bars: bars(&CPU, &both.map(|connections| full_load(Workers::Two, connections))),
            mark: None,
        },
        Picture::Bars {
            file: "server-work.svg",
            title: "Two workers or threads, 45 µs of work in each request: requests per second",
            bars: bars(&THROUGHPUT, &[WORK.to_owned()]),
            mark: None,
        },
    ]
}
