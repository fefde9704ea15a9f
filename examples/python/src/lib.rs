//! A CPython extension module that holds a tokio runtime. Its host may fork at any time: the module calls
//! [`forkio::atfork::install`] when it is imported, and the children continue the runtime.
//!
//! The thread that calls a method drives the runtime. No other thread runs it, so the child of `os.fork()` can continue it.

use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// A server on a free port. It answers each connection with the id of the process that serves it.
#[pyclass]
struct Server {
    runtime: Runtime,
    listener: TcpListener,
}

#[pymethods]
impl Server {
    #[new]
    fn new() -> PyResult<Server> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        Ok(Server { runtime, listener })
    }

    #[getter]
    fn port(&self) -> PyResult<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Serves `count` connections.
    fn serve(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        let serve = async {
            for _ in 0..count {
                let (mut stream, _) = self.listener.accept().await?;
                stream.write_all(std::process::id().to_string().as_bytes()).await?;
            }
            Ok(())
        };
        within_limit(py.detach(|| self.runtime.block_on(async { timeout(LIMIT, serve).await })))
    }

    /// Connects to `port`, and returns the process id that the server sends.
    fn ask(&self, py: Python<'_>, port: u16) -> PyResult<u32> {
        let ask = async {
            let mut answer = String::new();
            TcpStream::connect(("127.0.0.1", port)).await?.read_to_string(&mut answer).await?;
            answer.parse().map_err(std::io::Error::other)
        };
        within_limit(py.detach(|| self.runtime.block_on(async { timeout(LIMIT, ask).await })))
    }
}

fn within_limit<T>(result: Result<std::io::Result<T>, tokio::time::error::Elapsed>) -> PyResult<T> {
    match result {
        Ok(result) => Ok(result?),
        Err(_) => Err(PyOSError::new_err(format!("no result within {LIMIT:?}"))),
    }
}

/// Returns the number of forks between this process and the first one.
#[pyfunction]
fn generation() -> u32 {
    forkio::Lineage::current().generation()
}

#[pymodule]
fn forkio_example(module: &Bound<'_, PyModule>) -> PyResult<()> {
    forkio::atfork::install()?;
    module.add_class::<Server>()?;
    module.add_function(wrap_pyfunction!(generation, module)?)
}
