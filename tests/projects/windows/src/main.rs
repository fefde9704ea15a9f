//! A program and a library function that use forkio on every platform, without a `cfg`.

use axum::{Router, routing::get};
use forkio::{ProcessRuntime, Server};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

static RUNTIME: ProcessRuntime = ProcessRuntime::new(|| Builder::new_multi_thread().enable_all().build());

/// A library's function, such as that of an extension module.
pub fn connect(address: &str) -> std::io::Result<TcpStream> {
    RUNTIME.block_on(TcpStream::connect(address))?
}

fn main() -> std::process::ExitCode {
    let app = Router::new().route("/", get(|| async { format!("process {}\n", std::process::id()) }));
    if std::env::args().len() == 1 {
        return forkio::serve("127.0.0.1:8080", app);
    }
    Server::new()
        .bind("127.0.0.1:0")
        .workers(2)
        .on_ready(|addresses| println!("listening on http://{}", addresses[0]))
        .load(|| async { Ok::<_, std::io::Error>("loaded".to_owned()) })
        .serve(move |_: String, worker| {
            println!("worker {}", worker.index());
            app
        })
        .run()
}
