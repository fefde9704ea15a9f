//! A prefork HTTP/1.1 server: hyper on tokio, in as many processes as the machine has CPUs.
//!
//! The supervisor does once what is the same for all workers: it binds the listeners, starts a timer and loads a table. Then
//! it forks, and each worker continues from there: the listeners are registered in its own epoll instance, the timer ticks,
//! and the table is shared memory as long as no process writes to it. Nothing is bound, started or loaded again.
//!
//! ```sh
//! cargo run --release --example prefork-http
//! curl http://127.0.0.1:8080/status    # again and again: another pid answers
//! ```
//!
//! Where to look: this file has what the supervisor does, `server.rs` what a worker does, `routes.rs` the answers to requests,
//! `status.rs` and `table.rs` what those are made of, `log.rs` the log file, `options.rs` the command line.

mod log;
mod options;
mod routes;
mod server;
mod status;
mod table;

// The kernel of a test build: CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forkio::Address;
use forkio::prefork::http::{CutOff, Http};
use forkio::prefork::{Inherited, Listener, Prefork, PreforkError, Stopped, Worker};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};

use crate::options::Options;
use crate::routes::Preloaded;
use crate::table::Table;

/// The exit code when the server could not run.
const FAILURE: u8 = 1;
const TICK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(exit_code) => return ExitCode::from(exit_code),
    };
    let log = match log::init(options.log_file.as_deref()) {
        Ok(log) => log,
        Err(message) => return fail(&message, options::USAGE),
    };

    // `fork(2)` copies only the thread that calls it, so a runtime that forks has one thread.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}"), FAILURE),
    };
    runtime.block_on(async {
        match bind(&options.addresses()) {
            Ok(listeners) => run(listeners, &options, log).await.unwrap_or_else(|error| fail(&error, FAILURE)),
            Err(message) => fail(&message, options::USAGE),
        }
    })
}

/// Runs the server until a signal stops it. The exit code says how that went.
async fn run(
    listeners: Vec<Listener>,
    options: &Options,
    log: Option<log::LogFile>,
) -> Result<ExitCode, Box<dyn Error>> {
    let addresses = listeners.iter().map(Address::of).collect::<io::Result<Vec<_>>>()?;
    let mut prefork = prefork(options, log).on_ready({
        let workers = options.workers();
        move || announce(&addresses, workers)
    });
    for listener in listeners {
        prefork = prefork.listener(listener);
    }
    let ended = if options.load_in_template {
        let mebibytes = options.preload_mib;
        run_loaded(prefork, options, move || preload(mebibytes)).await
    } else {
        // All of this is here before the fork, so every worker has it.
        let preloaded = preload(options.preload_mib).await?;
        run_preloaded(prefork, options, preloaded).await
    };
    Ok(match ended {
        Ok(stopped) => ExitCode::from(stopped.exit_code()),
        Err(error) => fail(&error, error.exit_code()),
    })
}

/// The supervisor, as the options have it.
fn prefork(options: &Options, log: Option<log::LogFile>) -> Prefork {
    let prefork = options.server.apply(Prefork::new());
    match log {
        Some(log) => prefork.on_reopen_logs(move || log.reopen()),
        None => prefork,
    }
}

/// What the closure makes runs in a worker, which ends with it. `run` returns in the supervisor only.
async fn run_preloaded(prefork: Prefork, options: &Options, preloaded: Preloaded) -> Result<Stopped, PreforkError> {
    let http = server::http(options);
    match options.server.worker_threads {
        None => prefork.run(move |worker| server::serve(worker, preloaded, http)).await,
        Some(threads) => {
            let serve = async move |worker| serve_on_threads(worker, preloaded, http).await;
            prefork.run_on(move || threaded(threads), serve).await
        }
    }
}

/// As [`run_preloaded`], but each generation of workers has a process that loads.
async fn run_loaded<F, L>(prefork: Prefork, options: &Options, load: F) -> Result<Stopped, PreforkError>
where
    F: FnOnce() -> L,
    L: Future<Output = Result<Preloaded, Box<dyn Error>>>,
{
    let http = server::http(options);
    let prefork = prefork.load(load);
    match options.server.worker_threads {
        None => prefork.run(move |worker, preloaded| server::serve(worker, preloaded, http)).await,
        Some(threads) => {
            let serve = async move |worker, preloaded| serve_on_threads(worker, preloaded, http).await;
            prefork.run_on(move || threaded(threads), serve).await
        }
    }
}

fn threaded(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

async fn serve_on_threads(worker: Worker, preloaded: Preloaded, http: Http) -> Result<(), CutOff> {
    // The inherited interval stands still with the inherited runtime.
    start_counting(interval_at(Instant::now() + TICK, TICK), &preloaded.timer_ticks);
    server::serve(worker, preloaded, http).await
}

/// What workers share.
async fn preload(mebibytes: usize) -> Result<Preloaded, Box<dyn Error>> {
    let timer_ticks = count_ticks().await;
    Ok(Preloaded { table: Arc::new(Table::load(mebibytes)?), timer_ticks })
}

/// Opens a listener at every address, or says in one line what to do about the first one that cannot be opened.
fn bind(addresses: &[Address]) -> Result<Vec<Listener>, String> {
    let mut inherited = Inherited::from_env().map_err(|error| format!("cannot use an inherited listener: {error}"))?;
    let listeners = addresses
        .iter()
        .map(|address| address.listen(&mut inherited).map_err(|error| format!("{error}; see --listen")))
        .collect::<Result<Vec<_>, _>>()?;
    if !inherited.is_empty() {
        tracing::warn!("there are inherited listeners that no --listen names: closing them");
    }
    Ok(listeners)
}

/// Starts the interval that continues in every worker, and counts its ticks.
async fn count_ticks() -> Arc<AtomicU64> {
    let mut interval = interval(TICK);
    // The first tick comes at once: the timer runs.
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

/// Tells on standard output where the server is. A reader that has gone is no reason to stop serving.
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

/// Ends with one line on standard error.
fn fail(message: &dyn Display, exit_code: u8) -> ExitCode {
    eprintln!("{}: {message}", options::NAME);
    ExitCode::from(exit_code)
}
