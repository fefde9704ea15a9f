//! The servers that are compared.

use std::hint::black_box;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::servers::nginx::nginx;
use crate::servers::{Contender, access_log, hello_forkio, hello_mio, hello_prefork, prefork_http};

pub(crate) const PREFORK_HTTP: &str = "prefork-http";
pub(crate) const HYPER_FORKIO: &str = "hyper, one thread, on forkio's selector";
pub(crate) const HYPER_MIO: &str = "hyper, one thread, on mio";
pub(crate) const NGINX: &str = "nginx";

pub(super) const PREFORK_HTTP_TWO: &str = "prefork-http, 2 workers";
pub(super) const FORKIO_BALANCED: &str = "hyper, 2 workers of forkio, balanced";
pub(super) const TWO_THREADS: &str = "hyper, 2 threads";
pub(super) const NGINX_TWO: &str = "nginx, 2 workers";

const FORKIO_SHARED: &str = "hyper, 2 workers of forkio, one queue";
const FORKIO_REUSEPORT: &str = "hyper, 2 workers of forkio, reuseport";

/// The smallest table of prefork-http, for measurements that do not need it.
const TABLE_MIB: usize = 4;

pub(crate) const ONE_WORKER: &[Contender] = &[
    Contender { name: PREFORK_HTTP, commands: |plan, address| Ok(vec![prefork_http(plan, 1, address, TABLE_MIB)]) },
    Contender { name: HYPER_FORKIO, commands: |plan, address| Ok(vec![hello_forkio(plan, address)]) },
    Contender { name: HYPER_MIO, commands: |plan, address| Ok(vec![hello_mio(plan, "current-thread", address, 0, 0)]) },
    Contender { name: NGINX, commands: |plan, address| Ok(vec![nginx(plan, 1, "", address)?]) },
];

pub(super) const TWO_WORKERS: &[Contender] = &[
    Contender { name: PREFORK_HTTP_TWO, commands: |plan, address| Ok(vec![prefork_http(plan, 2, address, TABLE_MIB)]) },
    Contender {
        name: FORKIO_SHARED,
        commands: |plan, address| Ok(vec![hello_prefork(plan, 2, "shared", address, 0, 0)]),
    },
    Contender {
        name: FORKIO_REUSEPORT,
        commands: |plan, address| Ok(vec![hello_prefork(plan, 2, "reuseport", address, 0, 0)]),
    },
    Contender {
        name: FORKIO_BALANCED,
        commands: |plan, address| Ok(vec![hello_prefork(plan, 2, "balanced", address, 0, 0)]),
    },
    Contender { name: TWO_THREADS, commands: |plan, address| Ok(vec![hello_mio(plan, "2", address, 0, 0)]) },
    Contender {
        name: "hyper, 2 processes, reuseport",
        commands: |plan, address| {
            let one = || hello_mio(plan, "current-thread", address, 0, 0);
            Ok(vec![one(), one()])
        },
    },
    Contender { name: NGINX_TWO, commands: |plan, address| Ok(vec![nginx(plan, 2, "", address)?]) },
    Contender {
        name: "nginx, 2 workers, reuseport",
        commands: |plan, address| Ok(vec![nginx(plan, 2, "reuseport", address)?]),
    },
];

/// Servers with two workers or threads, whose requests cost [`WORK`].
pub(super) const WORKING: &[Contender] = &[
    Contender {
        name: FORKIO_SHARED,
        commands: |plan, address| Ok(vec![hello_prefork(plan, 2, "shared", address, turns_of_work(), 0)]),
    },
    Contender {
        name: FORKIO_REUSEPORT,
        commands: |plan, address| Ok(vec![hello_prefork(plan, 2, "reuseport", address, turns_of_work(), 0)]),
    },
    Contender {
        name: FORKIO_BALANCED,
        commands: |plan, address| Ok(vec![hello_prefork(plan, 2, "balanced", address, turns_of_work(), 0)]),
    },
    Contender {
        name: TWO_THREADS,
        commands: |plan, address| Ok(vec![hello_mio(plan, "2", address, turns_of_work(), 0)]),
    },
];

pub(super) const LOGGING: &[Contender] = &[
    Contender { name: PREFORK_HTTP, commands: |plan, address| Ok(vec![prefork_http(plan, 1, address, TABLE_MIB)]) },
    Contender { name: "prefork-http, common", commands: |plan, address| Ok(vec![logging(plan, address, "common")]) },
    Contender {
        name: "prefork-http, combined",
        commands: |plan, address| Ok(vec![logging(plan, address, "combined")]),
    },
    Contender { name: "prefork-http, json", commands: |plan, address| Ok(vec![logging(plan, address, "json")]) },
];

fn logging(plan: &Plan, address: SocketAddr, format: &str) -> Command {
    let mut command = prefork_http(plan, 1, address, TABLE_MIB);
    command.args(["--access-log", format, "--access-log-file"]).arg(access_log(address));
    command
}

/// How long a request computes.
const WORK: Duration = Duration::from_micros(45);

/// Returns how many iterations of the servers' loop take [`WORK`]. Measures the loop once, so that all servers do the same work.
fn turns_of_work() -> u64 {
    const TURNS: u64 = 1_000_000;
    static MEASURED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *MEASURED.get_or_init(|| {
        let fastest = (0..10).map(|_| {
            let start = Instant::now();
            let mut sum = 0_u64;
            for turn in 0..TURNS {
                sum = black_box(sum.rotate_left(5) ^ turn);
            }
            black_box(sum);
            start.elapsed()
        });
        let fastest = fastest.min().unwrap_or(WORK);
        (WORK.as_secs_f64() / fastest.as_secs_f64() * TURNS as f64) as u64
    })
}
