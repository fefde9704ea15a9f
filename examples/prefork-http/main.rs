//! A prefork HTTP/1.1 server: hyper on tokio, in as many processes as the machine has CPUs.
//!
//! The supervisor works once for all workers: it binds the listeners, starts a timer and loads a table. Then it forks, and
//! each worker continues from that state: the listeners are registered in its own epoll instance, the timer ticks, and the
//! table is shared memory as long as no process writes to it.
//!
//! ```sh
//! cargo run --release --example prefork-http
//! curl http://127.0.0.1:8080/status    # repeat it: different workers answer
//! ```
//!
//! Where to look:
//!
//! - this file: the supervisor
//! - `server.rs`: the workers
//! - `routes.rs`: the answers to requests
//! - `status.rs`: the status that a worker reports
//! - `table.rs`: the table that workers share
//! - `log.rs` and `access_log`: the logs
//! - `options.rs`: the command line

mod access_log;
mod log;
mod options;
mod routes;
mod server;
mod status;
mod table;

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forkio::{Address, ServeError, Server, Serving};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};

use crate::log::LogFile;
use crate::options::Options;
use crate::routes::Preloaded;
use crate::table::Table;

const TICK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(exit_code) => return ExitCode::from(exit_code),
    };
    let log_files = match log::init(&options) {
        Ok(log_files) => log_files,
        Err(message) => return fail(&message, options::USAGE),
    };
    match server(options, log_files).try_run() {
        Ok(stopped) => ExitCode::from(stopped.exit_code()),
        Err(error @ ServeError::Listen { .. }) => fail(&format!("{error}; see --listen"), error.exit_code()),
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn server(options: Options, log_files: Vec<LogFile>) -> Serving {
    let workers = options.workers();
    let has_threads = options.server.worker_threads.is_some();
    let has_access_log = options.access_log.is_some();
    let mut server = Server::new()
        .bind("127.0.0.1:8080")
        .http(|_| server::http(options.http2))
        .options(options.server)
        .prefork(|prefork| prefork.on_reopen_logs(move || log_files.iter().for_each(LogFile::reopen)))
        .on_ready(move |addresses| announce(addresses, workers));
    if has_access_log {
        server = server.connect_info();
    }
    let load = move || preload(options.preload_mib);
    let server = if options.load_in_template { server.load(load) } else { server.preload(load) };
    server.serve(move |preloaded, worker| {
        if has_threads {
            // The inherited interval does not tick in this worker, because the inherited runtime does not run.
            start_counting(interval_at(Instant::now() + TICK, TICK), &preloaded.timer_ticks);
        }
        server::service(preloaded, worker, has_access_log)
    })
}

async fn preload(mebibytes: usize) -> Result<Preloaded, Box<dyn Error>> {
    let timer_ticks = count_ticks().await;
    Ok(Preloaded { table: Arc::new(Table::load(mebibytes)?), timer_ticks })
}

/// Starts the interval that continues in every worker, and counts its ticks.
async fn count_ticks() -> Arc<AtomicU64> {
    let mut interval = interval(TICK);
    // The first tick comes immediately.
    interval.tick().await;
    let ticks = Arc::new(AtomicU64::new(1));
    start_counting(interval, &ticks);
    ticks
}

fn start_counting(mut interval: Interval, ticks: &Arc<AtomicU64>) {
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let counter = Arc::clone(ticks);
    tokio::spawn(async move {
        loop {
            interval.tick().await;
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Prints the addresses. The server continues if standard output is closed.
fn announce(addresses: &[Address], workers: usize) {
    let mut stdout = io::stdout().lock();
    let written = addresses
        .iter()
        .try_for_each(|address| writeln!(stdout, "listening on http://{address} ({workers} workers)"))
        .and_then(|()| stdout.flush());
    if let Err(error) = written {
        tracing::warn!(%error, "cannot write to standard output");
    }
}

fn fail(message: &dyn Display, exit_code: u8) -> ExitCode {
    eprintln!("{}: {message}", options::NAME);
    ExitCode::from(exit_code)
}
