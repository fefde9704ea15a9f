//! What does a request of an axum application cost on `forkio::serve`, and on `axum::serve`?

use super::{BALANCE, CPU, SWITCHES, THROUGHPUT, USER, Workers, full_load, half_load, load};
use crate::data::Data;
use crate::plan::Plan;
use crate::sections::Measured;
use crate::servers::{Connections, Contender, axum_serve, forkio_serve, start_all};
use crate::table::{Column, Table};
use crate::target::{Check, Limit, Target};

const FORKIO: &str = "forkio::serve";
const FORKIO_REUSEPORT: &str = "forkio::serve, reuseport";
const AXUM: &str = "axum::serve";

const ONE: &[Contender] = &[
    Contender { name: FORKIO, commands: |plan, address| Ok(vec![forkio_serve(plan, 1, "shared", address)]) },
    Contender { name: AXUM, commands: |plan, address| Ok(vec![axum_serve(plan, address)]) },
];

const TWO: &[Contender] = &[
    Contender { name: FORKIO, commands: |plan, address| Ok(vec![forkio_serve(plan, 2, "shared", address)]) },
    Contender {
        name: FORKIO_REUSEPORT,
        commands: |plan, address| Ok(vec![forkio_serve(plan, 2, "reuseport", address)]),
    },
    Contender { name: AXUM, commands: |plan, address| Ok(vec![axum_serve(plan, address), axum_serve(plan, address)]) },
];

const CONNECTIONS: [Connections; 2] = [Connections::Open, Connections::Short];

fn case(workers: Workers, connections: Connections) -> String {
    format!("axum, {}", full_load(workers, connections))
}

fn half_case() -> String {
    format!("axum, {}", half_load(Workers::One, Connections::Open))
}

fn cases(workers: Workers) -> impl Iterator<Item = String> {
    let half = (workers == Workers::One).then(half_case);
    CONNECTIONS.into_iter().map(move |connections| case(workers, connections)).chain(half)
}

pub(super) fn measure(plan: &Plan, data: &mut Data) -> Measured {
    for (workers, contenders, cpus) in [(Workers::One, ONE, &plan.cpus.one), (Workers::Two, TWO, &plan.cpus.two)] {
        let servers = start_all(plan, data, contenders, cpus);
        for connections in CONNECTIONS {
            load::saturate(plan, data, &servers, workers, connections, &case(workers, connections))?;
        }
        if workers == Workers::One {
            let full = case(workers, Connections::Open);
            load::latencies(plan, data, &servers, workers, Connections::Open, &full, &half_case())?;
        }
    }
    Ok(())
}

pub(super) fn table() -> Table {
    Table {
        title: "An axum application: `forkio::serve` against `axum::serve` in one process per CPU",
        text: "One `Router` with one route, the same load, the same CPUs. Two workers are compared with two processes that \
               listen with SO_REUSEPORT. Both servers speak HTTP/1 and HTTP/2, by the same builder of hyper-util. \
               `forkio::serve` does more: it has a timeout for the head of a request, counts requests and connections, and \
               drains when it stops. In this benchmark, `axum::serve` does none of that. Its connections get TCP_NODELAY by \
               `ListenerExt::tap_io`, a system call for each connection. Those of `forkio::serve` copy it from the listener.",
        cases: [Workers::One, Workers::Two].into_iter().flat_map(cases).collect(),
        has_contenders: true,
        columns: vec![
            Column::figure(&CPU),
            Column::figure(&CPU).relative_to(AXUM),
            Column::median(&USER),
            Column::median(&THROUGHPUT),
            Column::figure(&THROUGHPUT).relative_to(AXUM),
            Column::median(&SWITCHES),
            Column::median(&BALANCE),
        ],
    }
}

pub(super) fn targets(data: &Data) -> [Target; 2] {
    [Workers::One, Workers::Two].map(|workers| {
        let checks = cases(workers).map(|case| {
            let name = case.splitn(3, ", ").last().unwrap_or_default();
            Check::new(name, Limit::AtMost(1.0), data.ratio(&CPU, &case, FORKIO, AXUM))
        });
        Target::each(format!("axum, {workers}, processor time of a request: {FORKIO} / {AXUM}"), checks.collect())
    })
}
