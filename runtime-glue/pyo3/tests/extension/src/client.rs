//! An HTTP client that keeps one connection per process.

use std::sync::Arc;
use std::time::Duration;

use forkio_pyo3::PerProcess;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pyo3::exceptions::{PyConnectionError, PyTimeoutError};
use pyo3::prelude::*;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The time limit of a request.
const LIMIT: Duration = Duration::from_secs(60);

type Connection = Mutex<Option<SendRequest<Empty<Bytes>>>>;

/// Sends requests to a server on this host.
#[pyclass]
pub(crate) struct Client {
    port: u16,
    connection: PerProcess<Connection>,
}

#[pymethods]
impl Client {
    #[new]
    fn new(port: u16) -> Client {
        Client { port, connection: PerProcess::new() }
    }

    /// Returns the server's answer.
    fn get(&self, py: Python<'_>) -> PyResult<String> {
        forkio_pyo3::block_on(py, get(self.connection(py)?, self.port))?
    }

    /// Returns an awaitable of the server's answer.
    fn get_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        forkio_pyo3::future_into_py(py, get(self.connection(py)?, self.port))
    }
}

impl Client {
    fn connection(&self, py: Python<'_>) -> PyResult<Arc<Connection>> {
        self.connection.get_or_try_make(py, || Ok(Mutex::new(None)))
    }
}

fn error(error: impl std::fmt::Display) -> PyErr {
    PyConnectionError::new_err(error.to_string())
}

async fn get(connection: Arc<Connection>, port: u16) -> PyResult<String> {
    let get = async {
        let mut connection = connection.lock().await;
        let mut sender = match connection.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(error)?;
                forkio_pyo3::spawn(driver)?;
                sender
            }
        };
        sender.ready().await.map_err(error)?;
        let request = Request::get("/").header("host", "localhost").body(Empty::new()).map_err(error)?;
        let response = sender.send_request(request).await.map_err(error)?;
        let body = response.into_body().collect().await.map_err(error)?.to_bytes();
        *connection = Some(sender);
        String::from_utf8(body.into()).map_err(error)
    };
    timeout(LIMIT, get).await.unwrap_or_else(|_| Err(PyTimeoutError::new_err(format!("no answer within {LIMIT:?}"))))
}
