//! HTTPS in as many processes as the machine has CPUs. A session that one worker has begun resumes on any other.
//!
//! ```sh
//! openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out certificate.pem
//! cargo run --release -- --certificate certificate.pem --key key.pem
//! curl --insecure https://127.0.0.1:8443/
//! kill -HUP PID    # PID is the supervisor's process id: new workers take over, with the certificate that the files now have
//! ```

use std::path::PathBuf;
use std::process::{self, ExitCode};

use axum::{Router, routing::get};
use clap::Parser;
use forkio::{Server, ServerOptions};

#[derive(Parser)]
struct Options {
    /// Certificate chain, in PEM format
    #[arg(long, value_name = "PATH")]
    certificate: PathBuf,
    /// Private key, in PEM format
    #[arg(long, value_name = "PATH")]
    key: PathBuf,
    #[command(flatten)]
    server: ServerOptions,
}

fn main() -> ExitCode {
    let Options { certificate, key, server } = Options::parse();
    let app = Router::new().route("/", get(async || process::id().to_string()));
    Server::new()
        .bind("127.0.0.1:8443")
        .options(server)
        .tls(certificate, key)
        .on_ready(|addresses| println!("listening on https://{}", addresses[0]))
        .serve(|_| app)
        .run()
}
