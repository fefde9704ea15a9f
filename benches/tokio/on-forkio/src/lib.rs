//! All uses of the crate `forkio` by the programs, in one place, because the API of the crate may change.

use std::io;

use axum::Router;
use forkio::prefork::{Counted, Distribution, Listener, Prefork, PreforkError, WorkerHandle};
use forkio::{Fork, Server};
use tokio::net::{TcpListener, TcpStream};

/// A forked child of this process.
#[derive(Debug)]
pub struct Child(forkio::Child);

impl Child {
    /// Waits until the child has ended.
    ///
    /// # Errors
    ///
    /// Those of waiting, and an error if the child failed.
    pub async fn wait(mut self) -> io::Result<()> {
        let status = self.0.wait().await?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("the child failed: {status}"))) }
    }
}

/// Forks the runtime; returns `None` in the child.
pub async fn fork() -> io::Result<Option<Child>> {
    match forkio::fork().await.map_err(io::Error::other)? {
        Fork::Child(_) => Ok(None),
        Fork::Parent(child) => Ok(Some(Child(child))),
    }
}

/// Prepares the next fork in advance.
pub fn prepare_ahead() -> io::Result<()> {
    forkio_reactor::fork::prepare_ahead().map_err(io::Error::other)
}

/// A connection that a worker has accepted.
pub type Connection = Counted<TcpStream>;

/// Serves in worker processes until a signal stops the server; returns the exit code. Each connection becomes a task.
///
/// # Errors
///
/// Those of the server, and an error if the distribution is not "shared", "reuseport" or "balanced".
pub async fn serve_in_workers<S, F>(
    listener: TcpListener,
    workers: usize,
    distribution: &str,
    serve: S,
) -> io::Result<u8>
where
    S: Fn(Connection) -> F + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let prefork = Prefork::new().workers(workers).distribution(distribution_named(distribution)?).listener(listener);
    let run = prefork.run(move |mut worker| async move {
        let shutdown = worker.shutdown();
        let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
        let mut acceptor = worker.acceptor(listener);
        let accept = async {
            loop {
                // In this benchmark, an error means that a client has given up its connection.
                let Ok((stream, _)) = acceptor.accept().await else { continue };
                // If this fails, the server is slower, but still correct.
                let _is_set = stream.set_nodelay(true);
                tokio::spawn(serve(stream));
            }
        };
        tokio::select! {
            () = shutdown => {}
            () = accept => {}
        }
    });
    Ok(run.await.map_err(io::Error::other)?.exit_code())
}

/// Serves an application in worker processes until a signal stops the server; returns the exit code. Call it outside of a
/// runtime.
///
/// # Errors
///
/// Those of the server, and an error if the distribution is not "shared", "reuseport" or "balanced".
pub fn serve_app(address: &str, workers: usize, distribution: &str, app: Router) -> io::Result<u8> {
    let server = Server::new().bind(address).workers(workers).distribution(distribution_named(distribution)?);
    Ok(server.serve(|_| app).try_run().map_err(io::Error::other)?.exit_code())
}

fn distribution_named(name: &str) -> io::Result<Distribution> {
    match name {
        "shared" => Ok(Distribution::Shared),
        "reuseport" => Ok(Distribution::ReusePort),
        "balanced" => Ok(Distribution::Balanced),
        other => Err(io::Error::other(format!("there is no distribution named {other:?}"))),
    }
}

/// Counts requests of a worker.
#[derive(Debug)]
pub struct Requests(WorkerHandle);

impl Requests {
    /// Counts a request that ends at once.
    pub fn count_one(&self) {
        drop(self.0.track_request());
    }
}

/// Runs a server whose only worker calls `work`, and then stops the server. `page` is the address of its status page.
pub async fn in_worker(page: Option<String>, work: impl FnOnce(Requests)) -> io::Result<()> {
    let prefork = Prefork::new().workers(1);
    let prefork = match page {
        Some(page) => prefork.status(page),
        None => prefork,
    };
    let ended = prefork.run(async move |worker| {
        worker.ready();
        work(Requests(worker.handle()));
        worker.halt();
        worker.shutdown().await;
    });
    match ended.await {
        Err(PreforkError::Halted { .. }) => Ok(()),
        ended => Err(io::Error::other(format!("the worker did not stop the server: {ended:?}"))),
    }
}
