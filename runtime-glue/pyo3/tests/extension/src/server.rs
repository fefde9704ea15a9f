//! An HTTP server whose listener outlives the runtime.

use std::convert::Infallible;
use std::net::TcpListener as StdTcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pyo3::prelude::*;
use tokio::net::TcpListener;

/// Listens on a free port of this host. A process that calls `start` answers requests with its id, and the number of the
/// connection.
#[pyclass]
pub(crate) struct Server {
    listener: StdTcpListener,
}

#[pymethods]
impl Server {
    #[new]
    fn new() -> PyResult<Server> {
        let listener = StdTcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok(Server { listener })
    }

    /// The port that the server listens on.
    #[getter]
    fn port(&self) -> PyResult<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Serves in the background, until the runtime of this process ends.
    fn start(&self) -> PyResult<()> {
        let listener = self.listener.try_clone()?;
        forkio_pyo3::spawn(async {
            serve(TcpListener::from_std(listener).expect("a listener")).await;
        })?;
        Ok(())
    }
}

async fn serve(listener: TcpListener) {
    static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let answer = format!("{} {number}", std::process::id());
        let service = service_fn(move |_| {
            let answer = answer.clone();
            async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(answer))) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
