//! How much memory do workers share?

use std::io;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use selector_benches::rounds::Quartiles;

use crate::data::{Data, Measure};
use crate::picture::Picture;
use crate::plan::Plan;
use crate::process;
use crate::sections::{Measured, Section};
use crate::servers::{
    CONNECTIONS, Connections, Contender, PATIENCE, Server, hello_mio, hello_prefork, open_loop::exchange, prefork_http,
    wrk::Wrk,
};
use crate::table::{Column, Table};
use crate::target::{Limit, Target};

pub(crate) const SECTION: Section =
    Section { name: "memory", question: "How much memory do workers share?", measure, tables, targets, pictures };

pub(crate) static PSS: Measure = Measure { id: "pss", title: "PSS of all processes, MiB" };
static READY: Measure = Measure { id: "ready", title: "start to first response of all, ms" };

static REPLACED: Measure = Measure { id: "replaced", title: "workers killed to first response, ms" };
static WORKER_PSS: Measure = Measure { id: "worker-pss", title: "PSS of a worker after 100 000 requests, MiB" };
static WORKER_DIRTY: Measure = Measure { id: "worker-dirty", title: "of which private and dirty, MiB" };

/// The size of the table that each worker needs.
const TABLE_MIB: usize = 200;

const PREFORK_HTTP: &str = "prefork-http";
pub(crate) const WORKERS: &str = "hyper, workers of forkio";
pub(crate) const SEPARATE: &str = "hyper, separate processes";
pub(crate) const FOUR: &str = "4 workers";
const ONE: &str = "1 worker";

/// One process that loads its own table.
const PROCESS: Contender = Contender {
    name: SEPARATE,
    commands: |plan, address| Ok(vec![hello_mio(plan, "current-thread", address, 0, TABLE_MIB)]),
};

/// Each case, its servers, which start together, and the number of their processes.
const KINDS: [(&str, &[Contender], usize); 6] = [
    (
        ONE,
        &[Contender {
            name: PREFORK_HTTP,
            commands: |plan, address| Ok(vec![prefork_http(plan, 1, address, TABLE_MIB)]),
        }],
        2,
    ),
    (
        ONE,
        &[Contender {
            name: WORKERS,
            commands: |plan, address| Ok(vec![hello_prefork(plan, 1, "shared", address, 0, TABLE_MIB)]),
        }],
        2,
    ),
    (ONE, &[PROCESS], 1),
    (
        FOUR,
        &[Contender {
            name: PREFORK_HTTP,
            commands: |plan, address| Ok(vec![prefork_http(plan, 4, address, TABLE_MIB)]),
        }],
        5,
    ),
    (
        FOUR,
        &[Contender {
            name: WORKERS,
            commands: |plan, address| Ok(vec![hello_prefork(plan, 4, "shared", address, 0, TABLE_MIB)]),
        }],
        5,
    ),
    (FOUR, &[PROCESS; 4], 4),
];

const LARGE: &str = "2 workers, a table of 1 GiB";
const LARGE_WORKERS: usize = 2;
const LARGE_TABLE_MIB: usize = 1_024;

/// How many requests the workers answer before their memory is measured.
const REQUESTS: f64 = 100_000.0;

const PAGES: [(&str, Contender); 2] = [
    (
        "prefork-http, pages of 4 KiB",
        Contender {
            name: PREFORK_HTTP,
            commands: |plan, address| Ok(vec![prefork_http(plan, LARGE_WORKERS, address, LARGE_TABLE_MIB)]),
        },
    ),
    (
        "prefork-http --huge-pages",
        Contender {
            name: PREFORK_HTTP,
            commands: |plan, address| {
                let mut command = prefork_http(plan, LARGE_WORKERS, address, LARGE_TABLE_MIB);
                command.arg("--huge-pages");
                Ok(vec![command])
            },
        },
    ),
];

fn measure(plan: &Plan, data: &mut Data) -> Measured {
    for _ in 0..plan.rounds(3, 1) {
        for (case, contenders, processes) in KINDS {
            start_together(plan, data, case, contenders, processes)?;
        }
        for (name, contender) in PAGES {
            replace_workers(plan, data, name, contender)?;
        }
    }
    Ok(())
}

/// Starts a server with a large table, kills its workers, and puts load on the new ones.
fn replace_workers(plan: &Plan, data: &mut Data, name: &str, contender: Contender) -> Measured {
    let server = Server::start(plan, &contender, &plan.cpus.two)?;
    let before = wait_for_workers(&server, &[])?;
    let killed = Instant::now();
    for pid in &before {
        kill_process(Pid::from_raw(pid.cast_signed()).ok_or("no process id")?, Signal::KILL)?;
    }
    exchange(&mut TcpStream::connect(server.address)?, Connections::Open)?;
    data.add(&REPLACED, LARGE, name, killed.elapsed().as_secs_f64() * 1e3);
    let workers = wait_for_workers(&server, &before)?;
    let mut requests = 0.0;
    while requests < if plan.quick { REQUESTS / 10.0 } else { REQUESTS } {
        let mut wrk = Wrk::start(server.address, Connections::Open, &plan.cpus.load_of_two)?;
        thread::sleep(Duration::from_millis(500));
        requests += wrk.end()?.number;
    }
    data.add(&WORKER_PSS, LARGE, name, process::pss(&workers) / workers.len() as f64);
    data.add(&WORKER_DIRTY, LARGE, name, process::private_dirty(&workers) / workers.len() as f64);
    Ok(())
}

/// Waits until all workers of a server have started, and returns them. Workers in `ended` do not count.
fn wait_for_workers(server: &Server, ended: &[u32]) -> io::Result<Vec<u32>> {
    let started = Instant::now();
    loop {
        let mut workers = server.workers();
        workers.retain(|pid| !ended.contains(pid));
        if workers.len() == LARGE_WORKERS {
            return Ok(workers);
        }
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("{} of {LARGE_WORKERS} workers have started", workers.len())));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn start_together(plan: &Plan, data: &mut Data, case: &str, contenders: &[Contender], processes: usize) -> Measured {
    let started = Instant::now();
    let servers = contenders.iter().map(|contender| Server::begin(plan, contender, &plan.cpus.two));
    let mut servers = servers.collect::<io::Result<Vec<_>>>()?;
    servers.iter_mut().try_for_each(Server::wait_for_answer)?;
    let name = contenders[0].name;
    data.add(&READY, case, name, started.elapsed().as_secs_f64() * 1e3);
    data.add(&PSS, case, name, resident(&servers, processes)?);
    Ok(())
}

/// Waits until the servers have `processes` processes or more, sends [`CONNECTIONS`] requests to each server, and returns
/// the memory of all these processes.
fn resident(servers: &[Server], processes: usize) -> io::Result<f64> {
    let started = Instant::now();
    let pids = loop {
        let pids: Vec<u32> = servers.iter().flat_map(Server::pids).collect();
        if pids.len() >= processes {
            break pids;
        }
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("{} of {processes} processes have started", pids.len())));
        }
        thread::sleep(Duration::from_millis(1));
    };
    for server in servers {
        for _ in 0..CONNECTIONS {
            exchange(&mut TcpStream::connect(server.address)?, Connections::Open)?;
        }
    }
    Ok(process::pss(&pids))
}

fn tables() -> Vec<Table> {
    let table = Table {
        title: "Memory with a table of 200 MiB",
        text: "Workers share a table that is loaded before they are forked; separate processes each load their own. PSS \
               divides each page by the number of processes that share it. prefork-http computes its table, and the two \
               hyper servers only fill theirs. So do not compare the start time of prefork-http with the other two.",
        cases: [ONE, FOUR].map(str::to_owned).to_vec(),
        has_contenders: true,
        columns: vec![Column::figure(&PSS), Column::figure(&READY)],
    };
    let large = Table {
        title: "Workers with a table of 1 GiB, in small and in huge pages",
        text: "Both workers are killed at once, and a client connects: the time is until it has the response of a new worker. \
               fork(2) copies the page tables, which huge pages make smaller. Then the new workers answer 100 000 requests. \
               Three processes share the table, so a worker's share is a third of it.",
        cases: vec![LARGE.to_owned()],
        has_contenders: true,
        columns: vec![Column::figure(&REPLACED), Column::figure(&WORKER_PSS), Column::figure(&WORKER_DIRTY)],
    };
    vec![table, large]
}

fn targets(data: &Data) -> Vec<Target> {
    let pss = |case| data.median(&PSS, case, PREFORK_HTTP);
    let added = pss(FOUR).zip(pss(ONE)).and_then(|(four, one)| Quartiles::of([(four - one) / 3.0]));
    vec![Target::new("PSS of an added worker with a table of 200 MiB, MiB", Limit::AtMost(1.0), added)]
}

fn pictures(data: &Data) -> Vec<Picture> {
    let bars = data.of(&PSS).filter_map(|series| {
        let name = format!("{}: {}", series.contender, series.case);
        Some((name, data.quartiles(&PSS, &series.case, &series.contender)?))
    });
    vec![Picture::Bars {
        file: "memory.svg",
        title: "Memory of all processes that need a table of 200 MiB, MiB",
        bars: bars.collect(),
        mark: None,
    }]
}
