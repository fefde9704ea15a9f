//! A prefork HTTP/1.1 server: hyper on tokio, in as many processes as the machine has CPUs.
//!
//! The parent does once what is the same for all workers: it binds the listeners, starts a timer and loads a table. Then
//! it forks, and each worker goes on from there: the listeners are registered in its own epoll instance, the timer ticks
//! on, and the table is shared memory for as long as nobody writes to it. Nothing is bound, started or loaded again.
//!
//! ```sh
//! cargo run --release --example prefork-http
//! curl http://127.0.0.1:8080/status    # again and again: another pid answers
//! ```
//!
//! Where to look: this file has what the parent does, `server.rs` what a worker does, `routes.rs` what a request gets,
//! `status.rs` and `table.rs` what it is made of, `options.rs` the command line.

mod options;
mod routes;
mod server;
mod status;
mod table;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forkio::Prefork;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    init_tracing();

    // `fork(2)` copies only the thread that calls it, so a runtime that forks has one thread.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}"), FAILURE),
    };
    runtime.block_on(async {
        match bind(&options.listen).await {
            Ok(listeners) => run(listeners, &options).await.unwrap_or_else(|error| fail(&error, FAILURE)),
            Err(message) => fail(&message, options::USAGE),
        }
    })
}

/// Runs the server until a signal stops it; the exit code says how that went.
async fn run(listeners: Vec<TcpListener>, options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    // All of this is here before the fork, so every worker has it.
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let timer_ticks = count_ticks().await;
    let table = Arc::new(Table::load(options.preload_mib)?);
    let preloaded = Preloaded { table, timer_ticks };

    let workers = options.workers();
    let header_timeout = options.header_timeout;

    let mut prefork = Prefork::new()
        .workers(workers)
        .distribution(options.distribution)
        .drain_timeout(options.drain)
        .on_ready(move || announce(&addresses, workers));
    for listener in listeners {
        prefork = prefork.listener(listener);
    }
    // What the closure makes runs in a worker, which ends with it. `run` returns in the parent only.
    let ended = match options.worker_threads {
        None => prefork.run(move |worker| server::serve(worker, preloaded, header_timeout)).await,
        Some(threads) => {
            let runtime = move || Builder::new_multi_thread().worker_threads(threads).enable_all().build();
            let serve = async move |worker| {
                // The parent's stands still with the parent's runtime.
                start_counting(interval_at(Instant::now() + TICK, TICK), &preloaded.timer_ticks);
                server::serve(worker, preloaded, header_timeout).await
            };
            prefork.run_on(runtime, serve).await
        }
    };
    Ok(match ended {
        Ok(stopped) => ExitCode::from(stopped.exit_code()),
        Err(error) => fail(&error, error.exit_code()),
    })
}

/// Binds every address, or says in one line what to do about the first one that cannot be bound.
async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "{address} is in use: stop the program that listens there, or choose another port with --listen \
                 (port 0 takes a free one)"
            ),
            io::ErrorKind::AddrNotAvailable => {
                format!("{address} is not an address of this machine: choose one of its own with --listen")
            }
            io::ErrorKind::PermissionDenied => {
                format!("not allowed to listen on {address}: choose a port above 1023 with --listen")
            }
            _ => format!("cannot listen on {address}: {error}; choose another address with --listen"),
        })?;
        // Answers are small, and written whole: there is nothing to wait for. Connections have it of their listener.
        if let Err(error) = SockRef::from(&listener).set_tcp_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Starts the interval that goes on in every worker, and counts its ticks.
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

/// Tells on standard output where the server is. A reader that has gone away is no reason to stop serving.
fn announce(addresses: &[SocketAddr], workers: usize) {
    let mut stdout = io::stdout().lock();
    let written = addresses
        .iter()
        .try_for_each(|address| writeln!(stdout, "listening on http://{address} ({workers} workers)"))
        .and_then(|()| stdout.flush());
    if let Err(error) = written {
        tracing::warn!(%error, "cannot write to standard output");
    }
}

fn init_tracing() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

/// Ends with one line on standard error.
fn fail(message: &dyn Display, exit_code: u8) -> ExitCode {
    eprintln!("{}: {message}", options::NAME);
    ExitCode::from(exit_code)
}
