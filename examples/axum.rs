//! Serves an axum application from several processes, by default one for each CPU.
//!
//! ```sh
//! cargo run --release --example axum -- --workers 4
//! curl http://127.0.0.1:8080/    # repeat it: different workers answer
//! kill -HUP PID    # PID is the supervisor's process id: new workers take over
//! ```

use axum::{Router, extract::Path, routing::get};
use clap::Parser;
use forkio::{Server, ServerOptions};
#[cfg(forkio_kqueue)] // Test builds link a model of the kernel: see CONTRIBUTING.md.
use forkio_kqueue_model as _;
use tokio::time::{Duration, sleep};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    server: ServerOptions,
}

fn main() -> std::process::ExitCode {
    Server::new()
        .bind("127.0.0.1:8080")
        .options(Options::parse().server)
        .on_ready(|addresses| println!("listening on http://{}", addresses[0]))
        .serve(|worker| app(worker.index()))
        .run()
}

fn app(worker: usize) -> Router {
    Router::new()
        .route("/", get(move || async move { format!("worker {worker}, process {}\n", std::process::id()) }))
        .route("/sleep/{seconds}", get(|Path(seconds)| sleep(Duration::from_secs_f32(seconds))))
}
